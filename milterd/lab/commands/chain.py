"""`milterlab chain`: one message through several milters, one after the other."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from milterd.base.sockets import parse
from milterd.core.decision import Verdict
from milterd.lab import status
from milterd.lab.arguments import (
    rules_of,
    session_of,
)
from milterd.lab.chain import Chained, play_chain
from milterd.lab.chain_show import as_lines, as_values
from milterd.lab.link import MilterError, Patience
from milterd.lab.one_mail import envelope_of, read_one
from milterd.lab.options import (
    AuthOption,
    ClientOption,
    HeloOption,
    MacroOption,
    MtaOption,
    RecipientsOption,
    SenderOption,
    VersionOption,
)
from milterd.wire.errors import LocalError


def chain(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="SOCKET... FILE",
            help="Milters in order, each unix:PATH or inet:PORT@HOST; then the message, where - is "
            "standard input.",
        ),
    ],
    sender: SenderOption = "sender@example.org",
    recipients: RecipientsOption = None,
    client: ClientOption = "localhost[127.0.0.1]",
    helo: HeloOption = "localhost",
    auth: AuthOption = None,
    macro: MacroOption = None,
    mta: MtaOption = "postfix",
    version: VersionOption = 6,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds to wait for each answer.")
    ] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the mail here as the MTA would queue it."),
    ] = None,
) -> None:
    """Offer a message to several milters in order, as Postfix does with smtpd_milters.

    Shows what each of them answered, what it made of the mail, and what is left in the end;
    the first that refuses the mail ends it.
    """
    sockets, file = _split(targets)
    session = session_of(client, helo, auth, macro or [])
    mail = read_one(file, session, envelope_of(sender, recipients))
    try:
        found = asyncio.run(
            play_chain(
                sockets, mail, version=version, patience=Patience(timeout), rules=rules_of(mta)
            )
        )
    except MilterError as error:
        if as_json:
            typer.echo(json.dumps({"file": str(file), "fault": str(error)}))
        typer.echo(f"milterlab: {file}: {error}", err=True)
        raise typer.Exit(error.fault.value) from None
    except LocalError as error:
        typer.echo(f"milterlab: {file}: {error}", err=True)
        raise typer.Exit(status.USAGE) from None
    _report(str(file), found, as_json)
    refused = found.verdict in (Verdict.REJECT, Verdict.TEMPFAIL)
    if out is not None and found.verdict is Verdict.CONTINUE:
        _write(out, found)
    raise typer.Exit(status.BAD if refused else status.GOOD)


def _split(targets: list[str]) -> tuple[list[str], Path]:
    """The sockets, and the file behind them.  Raises typer.BadParameter."""
    *sockets, file = targets
    if not sockets:
        raise typer.BadParameter(
            "one argument only: give milters first, then the message", param_hint="SOCKET... FILE"
        )
    for each in sockets:
        try:
            parse(each)
        except ValueError as error:
            text = f"{each!r} is no milter's address ({error}); only the last argument is a file"
            raise typer.BadParameter(text, param_hint="SOCKET") from None
    return sockets, Path(file)


def _report(name: str, found: Chained, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(as_values(name, found), ensure_ascii=False))
        return
    console = Console(soft_wrap=True, highlight=False)
    for style, line in as_lines(name, found):
        console.print(Text(line, style))


def _write(out: Path, found: Chained) -> None:
    try:
        out.write_bytes(b"".join(found.mail.pieces()))
    except OSError as error:
        typer.echo(f"milterlab: cannot write {out}: {error.strerror}", err=True)
        raise typer.Exit(status.USAGE) from None
