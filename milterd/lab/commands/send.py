"""`milterlab send`: offer messages to a milter, and show its answers and what they make of them."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from milterd.base.escaping import escape
from milterd.base.sockets import parse
from milterd.core.decision import Verdict
from milterd.lab import status
from milterd.lab.arguments import (
    rules_of,
    session_of,
)
from milterd.lab.client import MilterError, Played
from milterd.lab.diff import difference
from milterd.lab.link import Patience
from milterd.lab.mailbox import Message, messages
from milterd.lab.one_mail import envelope_of
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
from milterd.lab.outbox import Outbox
from milterd.lab.sending import Manner, Sent, send_all
from milterd.lab.show import as_lines, as_values
from milterd.wire.errors import LocalError

_PASSED = (Verdict.CONTINUE, Verdict.ACCEPT)
_REFUSED = (Verdict.REJECT, Verdict.TEMPFAIL)
_WIDTH = 2000


def send(
    socket: Annotated[str, typer.Argument(help="unix:PATH or inet:PORT@HOST.")],
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILE...",
            help="Messages, mboxes or Maildirs; - is standard input.  Bare LF is read as CRLF.",
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
    together: Annotated[
        bool, typer.Option("--one-connection", help="Send all messages on one connection.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0.001, help="Seconds to wait for each answer.")
    ] = 30.0,
    deadline: Annotated[
        float, typer.Option(min=0.001, help="Seconds that a connection may take in all.")
    ] = 300.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one line a mail.")] = False,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="Write what passed as the MTA would queue it: one message as it is, several as "
            "an mbox, or each as a file of a directory (PATH/).",
        ),
    ] = None,
) -> None:
    """Offer messages to a milter as an MTA does, and show its answers, its edits and the result."""
    try:
        parse(socket)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="SOCKET") from None
    manner = Manner(
        socket,
        session_of(client, helo, auth, macro or []),
        envelope_of(sender, recipients),
        rules_of(mta),
        version,
        Patience(timeout, deadline),
        together,
    )
    found, several = _found(files)
    report = _Report(as_json, None if out is None else Outbox(out, several))
    try:
        asyncio.run(report.all(found, manner))
    except LocalError as error:
        # A value that no packet can carry, from the command line.
        typer.echo(f"milterlab: {error}", err=True)
        raise typer.Exit(status.USAGE) from None
    raise typer.Exit(report.worst)


def _found(files: list[Path]) -> tuple[Iterable[Message], bool]:
    """The messages, and whether there may be several."""
    found: Iterator[Message] = itertools.chain.from_iterable(messages(each) for each in files)
    first = next(found, None)
    if first is None:
        return (), True
    return itertools.chain([first], found), len(files) > 1 or first.name != str(files[0])


class _Report:
    """What is printed and written; `worst` is the exit status so far."""

    def __init__(self, as_json: bool, outbox: Outbox | None) -> None:
        self.worst = status.GOOD
        self._as_json, self._outbox = as_json, outbox
        self._console = Console(soft_wrap=True, highlight=False)

    async def all(self, found: Iterable[Message], manner: Manner) -> None:
        """Send, and tell of each message as soon as it is done."""
        async for sent in send_all(found, manner):
            self.worst = max(self.worst, self._one(sent, manner))

    def _one(self, sent: Sent, manner: Manner) -> int:
        if sent.error is not None:
            return self._milters_fault(sent.name, sent.error)
        if sent.played is None:
            return self._fault(sent.name, sent.fault)
        self._show(sent.name, sent.played, manner)
        written = self._write(sent.played)
        refused = sent.played.verdict in _REFUSED
        return max(written, status.BAD if refused else status.GOOD)

    def _show(self, name: str, played: Played, manner: Manner) -> None:
        diff = list(difference(played.before, played.after))
        if self._as_json:
            values = as_values(escape(name, _WIDTH), played)
            values |= {"as": manner.rules.name, "diff": [line for _, line in diff]}
            typer.echo(json.dumps(values, ensure_ascii=False))
            return
        style = "red" if played.verdict in _REFUSED else "green"
        for at, line in enumerate(as_lines(name, played)):
            self._console.print(Text(line, "" if at else style))
        for style, line in diff:
            self._console.print(Text(line, style))

    def _write(self, played: Played) -> int:
        if self._outbox is None or played.verdict not in _PASSED:
            return status.GOOD
        try:
            self._outbox.put(played.after)
        except OSError as error:
            typer.echo(f"milterlab: cannot write {error.filename}: {error.strerror}", err=True)
            return status.USAGE
        return status.GOOD

    def _milters_fault(self, name: str, error: MilterError) -> int:
        name = escape(name, _WIDTH)
        if self._as_json:
            values: dict[str, object] = {"file": name, "fault": str(error)}
            values["kind"] = error.fault.name.lower()
            values |= {"stage": error.stage, "octet": error.octet}
            typer.echo(json.dumps(values, ensure_ascii=False))
        typer.echo(f"milterlab: {name}: {error}", err=True)
        return error.fault.value

    def _fault(self, name: str, fault: str) -> int:
        name, fault = escape(name, _WIDTH), escape(fault, _WIDTH)
        if self._as_json:
            typer.echo(json.dumps({"file": name, "fault": fault}, ensure_ascii=False))
        typer.echo(f"milterlab: {name}: {fault}", err=True)
        return status.USAGE
