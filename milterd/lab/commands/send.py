"""`milterlab send`: offer messages to a milter, and print its answers and edits."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from milterd.core.apply import apply
from milterd.core.decision import Verdict
from milterd.core.mail import (
    Envelope,
    Mail,
    Recipient,
    Session,
    parse_message,
)
from milterd.lab import status
from milterd.lab.arguments import octets, session_of
from milterd.lab.client import MilterError, Played, play
from milterd.lab.link import Patience
from milterd.lab.show import as_lines, as_values
from milterd.wire.errors import LocalError

_BARE_LF = re.compile(rb"(?<!\r)\n")


def send(
    socket: Annotated[str, typer.Argument(help="unix:PATH or inet:PORT@HOST.")],
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Messages; - is standard input.  Bare LF is read as CRLF.",
        ),
    ],
    sender: Annotated[
        str, typer.Option("--from", metavar="ADDRESS", help="Envelope sender; may be empty.")
    ] = "sender@example.org",
    recipients: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="ADDRESS", help="Envelope recipient; may be repeated."),
    ] = None,
    client: Annotated[
        str, typer.Option(metavar="NAME[IP]", help="The SMTP client: IP, [IP] or NAME[IP].")
    ] = "localhost[127.0.0.1]",
    helo: Annotated[str, typer.Option(metavar="NAME", help="Its HELO name.")] = "localhost",
    auth: Annotated[
        str | None, typer.Option(metavar="LOGIN", help="Send as authenticated by this login.")
    ] = None,
    macro: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A macro for the milter; may be repeated."),
    ] = None,
    version: Annotated[
        int, typer.Option("--protocol", min=2, max=6, help="Milter protocol version to offer.")
    ] = 6,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds to wait for each answer.")
    ] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line a mail.")] = False,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the mail with its edits here.")
    ] = None,
) -> None:
    """Offer messages to a milter as Postfix does, and print its answers and edits."""
    if out is not None and len(files) != 1:
        raise typer.BadParameter("needs exactly one FILE", param_hint="--out")
    session = session_of(client, helo, auth, macro or [])
    envelope = Envelope(
        octets(sender, "--from"),
        recipients=tuple(
            Recipient(octets(each, "--to")) for each in recipients or ["recipient@example.net"]
        ),
    )
    worst = status.GOOD
    for each in files:
        mail = _read(each, session, envelope)
        found = _send_one(socket, str(each), mail, version, Patience(timeout), as_json, out)
        worst = max(worst, found)
    raise typer.Exit(worst)


def _send_one(
    socket: str,
    name: str,
    mail: Mail,
    version: int,
    patience: Patience,
    as_json: bool,
    out: Path | None,
) -> int:
    try:
        played = asyncio.run(play(socket, mail, version=version, patience=patience))
    except MilterError as error:
        if as_json:
            typer.echo(json.dumps({"file": name, "fault": str(error)}))
        typer.echo(f"milterlab: {name}: {error}", err=True)
        return error.fault.value
    except (ValueError, LocalError) as error:
        typer.echo(f"milterlab: {name}: {error}", err=True)
        return status.USAGE
    _report(name, played, as_json)
    if out is not None and played.verdict in (Verdict.CONTINUE, Verdict.ACCEPT):
        try:
            out.write_bytes(b"".join(apply(mail, played.edits).pieces()))
        except OSError as error:
            typer.echo(f"milterlab: cannot write {out}: {error.strerror}", err=True)
            return status.USAGE
    return status.BAD if played.verdict in (Verdict.REJECT, Verdict.TEMPFAIL) else status.GOOD


def _report(name: str, played: Played, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(as_values(name, played), ensure_ascii=False))
        return
    for line in as_lines(name, played):
        typer.echo(line)


def _read(path: Path, session: Session, envelope: Envelope) -> Mail:
    try:
        found = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="FILE") from None
    parsed = parse_message(_BARE_LF.sub(b"\r\n", found))
    return Mail(session, envelope, parsed.headers, parsed.body, parsed.separator)
