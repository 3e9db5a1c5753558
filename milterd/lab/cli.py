"""The command `milterlab`.

Exit codes: 0 accepted (a discarded mail too: its client is told so), 1 refused,
2 wrong usage, 3 the milter is at fault.  Of several mails the highest counts.
"""

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
    Client,
    Direction,
    Envelope,
    Family,
    Mail,
    Recipient,
    Session,
    parse_message,
)
from milterd.lab.client import MilterError, Played, play
from milterd.lab.show import as_lines, as_values
from milterd.wire.errors import LocalError

ACCEPTED, REFUSED, USAGE, FAULT = 0, 1, 2, 3
_CLIENT = re.compile(r"(?:(?P<name>[^\s\[\]]+)?\[)?(?P<address>[0-9A-Fa-f.:]+)\]?")
_BARE_LF = re.compile(rb"(?<!\r)\n")

app = typer.Typer(
    help="Play an MTA to any milter, and see what it answers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def _main() -> None:
    """Play an MTA to any milter, and see what it answers."""


@app.command(
    epilog="Example: milterlab send unix:/run/opendkim/opendkim.sock mail.eml "
    "--from joe@example.net --auth joe --out signed.eml.  "
    "Exit codes: 0 accepted, 1 refused, 2 wrong usage, 3 the milter is at fault."
)
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
    session = _session(client, helo, auth, macro or [])
    envelope = Envelope(
        _octets(sender, "--from"),
        recipients=tuple(
            Recipient(_octets(each, "--to")) for each in recipients or ["recipient@example.net"]
        ),
    )
    status = ACCEPTED
    for each in files:
        mail = _read(each, session, envelope)
        status = max(status, _send_one(socket, str(each), mail, version, timeout, as_json, out))
    raise typer.Exit(status)


def _send_one(
    socket: str,
    name: str,
    mail: Mail,
    version: int,
    timeout: float,
    as_json: bool,
    out: Path | None,
) -> int:
    try:
        played = asyncio.run(play(socket, mail, version=version, timeout=timeout))
    except MilterError as error:
        if as_json:
            typer.echo(json.dumps({"file": name, "fault": str(error)}))
        typer.echo(f"milterlab: {name}: {error}", err=True)
        return FAULT
    except (ValueError, LocalError) as error:
        typer.echo(f"milterlab: {name}: {error}", err=True)
        return USAGE
    _report(name, played, as_json)
    if out is not None and played.verdict in (Verdict.CONTINUE, Verdict.ACCEPT):
        try:
            out.write_bytes(b"".join(apply(mail, played.edits).pieces()))
        except OSError as error:
            typer.echo(f"milterlab: cannot write {out}: {error.strerror}", err=True)
            return USAGE
    return REFUSED if played.verdict in (Verdict.REJECT, Verdict.TEMPFAIL) else ACCEPTED


def _report(name: str, played: Played, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(as_values(name, played), ensure_ascii=False))
        return
    for line in as_lines(name, played):
        typer.echo(line)


def _octets(text: str, option: str) -> bytes:
    """An address or name as octets, without the brackets a user may have typed."""
    if any(each < " " or each == "\x7f" for each in text):
        raise typer.BadParameter("holds a control character", param_hint=option)
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1]
    return text.encode("utf-8", "surrogateescape")


def _session(client: str, helo: str, auth: str | None, macros: list[str]) -> Session:
    given: dict[str, bytes] = {}
    if auth is not None:
        given |= {"auth_type": b"PLAIN", "auth_authen": _octets(auth, "--auth")}
    for each in macros:
        name, equals, value = each.partition("=")
        if not equals or not name.strip("{}"):
            raise typer.BadParameter(f"{each!r} is not NAME=VALUE", param_hint="--macro")
        given[name.strip("{}")] = _octets(value, "--macro")
    direction = Direction.INBOUND if auth is None else Direction.ORIGINATING
    return Session(_client(client), _octets(helo, "--helo"), direction, given)


def _client(text: str) -> Client:
    match = _CLIENT.fullmatch(text)
    if match is None:
        raise typer.BadParameter(f"{text!r} is not IP, [IP] or NAME[IP]", param_hint="--client")
    address = match["address"]
    name = match["name"] or f"[{address}]"
    family = Family.INET6 if ":" in address else Family.INET
    return Client(name.encode(), family, address.encode(), 25000)


def _read(path: Path, session: Session, envelope: Envelope) -> Mail:
    try:
        octets = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="FILE") from None
    parsed = parse_message(_BARE_LF.sub(b"\r\n", octets))
    return Mail(session, envelope, parsed.headers, parsed.body, parsed.separator)


def main() -> None:
    """The entry point of the console script."""
    app()
