"""`milterlab conform`: the report card of a milter."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milterd.lab import status

if TYPE_CHECKING:
    from milterd.core.mail import Mail
    from milterd.lab.conform.check import Check
    from milterd.lab.conform.context import Options
    from milterd.lab.conform.grade import Graded


def conform(
    socket: Annotated[str, typer.Argument(help="unix:PATH or inet:PORT@HOST.")] = "",
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--file",
            metavar="FILE",
            help="A message that the milter accepts; others after it are judged in turns with it.",
        ),
    ] = None,
    sender: Annotated[
        str, typer.Option("--from", metavar="ADDRESS", help="Envelope sender.")
    ] = "sender@example.org",
    recipients: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="ADDRESS", help="Envelope recipient; may be repeated."),
    ] = None,
    client: Annotated[
        str, typer.Option(metavar="NAME[IP]", help="The SMTP client: IP, [IP] or NAME[IP].")
    ] = "localhost[127.0.0.1]",
    helo: Annotated[str, typer.Option(metavar="NAME", help="Its HELO name.")] = "localhost",
    macro: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="A macro for the milter; may be repeated."),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Checks to run: ids, with * and ?, or subjects."),
    ] = None,
    skip: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Checks to leave out.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0.01, help="Seconds to wait for each answer.")
    ] = 5.0,
    deadline: Annotated[float, typer.Option(min=0.1, help="Seconds that all may take.")] = 300.0,
    jobs: Annotated[int, typer.Option(min=1, help="Checks at a time.")] = 8,
    pid: Annotated[
        int | None,
        typer.Option(min=2, help="The milter's process, which the last check ends by SIGTERM."),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            help="Start the milter by this, in the foreground, and again if it dies; end it.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one object a check.")
    ] = False,
    listing: Annotated[
        bool, typer.Option("--list", help="Print the checks, and try none.")
    ] = False,
) -> None:
    """Grade a milter: many small checks, each with its rule and what was seen."""
    from milterd.lab.conform.catalog import matching
    from milterd.lab.conform.context import Options

    checks = matching(only or [], skip or [])
    if not checks:
        raise typer.BadParameter("no check fits; see --list", param_hint="--only, --skip")
    if listing:
        _list(checks, as_json)
        return
    if not socket:
        raise typer.BadParameter("is needed: unix:PATH or inet:PORT@HOST", param_hint="SOCKET")
    options = Options(
        answer=timeout,
        check=max(4 * timeout, 4.0),
        total=deadline,
        jobs=jobs,
        pid=_process(pid),
        command=_command(command),
        mails=_mails(files or [], sender, recipients or [], client, helo, macro or []),
    )
    raise typer.Exit(_grade(socket, checks, options, as_json))


def _process(pid: int | None) -> int | None:
    import os

    if pid is not None:
        try:
            os.kill(pid, 0)
        except OSError as error:
            raise typer.BadParameter(f"{pid}: {error.strerror}", param_hint="--pid") from None
    return pid


def _command(text: str | None) -> tuple[str, ...]:
    import shlex

    try:
        words = tuple(shlex.split(text or ""))
    except ValueError as error:
        raise typer.BadParameter(f"{error}: {text}", param_hint="--command") from None
    if text is not None and not words:
        raise typer.BadParameter("is empty", param_hint="--command")
    return words


def _grade(socket: str, checks: tuple[Check, ...], options: Options, as_json: bool) -> int:
    import asyncio

    from milterd.lab.conform.grade import grade
    from milterd.lab.conform.report import as_lines, as_values, failed
    from milterd.lab.link import MilterError

    counter = _Counter(len(checks))
    try:
        card = asyncio.run(grade(socket, checks, options, counter))
    except MilterError as error:
        typer.echo(f"milterlab: {error}", err=True)
        return status.GONE
    except ValueError as error:
        typer.echo(f"milterlab: {error}", err=True)
        return status.USAGE
    finally:
        counter.done()
    if as_json:
        for each in card:
            typer.echo(json.dumps(as_values(each), ensure_ascii=False))
    else:
        for line in as_lines(card):
            typer.echo(line)
    return status.BAD if failed(card) else status.GOOD


class _Counter:
    """How far it is, on a terminal."""

    def __init__(self, total: int) -> None:
        self._total, self._ended = total, 0
        self._shown = sys.stderr.isatty()

    def __call__(self, graded: Graded) -> None:
        self._ended += 1
        if self._shown:
            line = f"\r{self._ended}/{self._total} {graded.check.name:<48}"
            typer.echo(line, err=True, nl=False)

    def done(self) -> None:
        """Take the line away."""
        if self._shown:
            typer.echo(f"\r{'':60}\r", err=True, nl=False)


def _list(checks: tuple[Check, ...], as_json: bool) -> None:
    for each in checks:
        if as_json:
            fields = {"id": each.name, "title": each.title, "rule": each.rule}
            typer.echo(json.dumps({**fields, "source": each.source}, ensure_ascii=False))
        else:
            typer.echo(f"{each.name}: {each.title}")


def _mails(
    files: list[Path], sender: str, recipients: list[str], client: str, helo: str, macro: list[str]
) -> tuple[Mail, ...]:
    from dataclasses import replace

    from milterd.core.mail import Envelope, Recipient
    from milterd.lab.arguments import octets, session_of
    from milterd.lab.conform.samples import default_mails

    session = session_of(client, helo, None, macro)
    to = tuple(Recipient(octets(each, "--to")) for each in recipients)
    envelope = Envelope(
        octets(sender, "--from"), recipients=to or (Recipient(b"recipient@example.net"),)
    )
    mails = [_read(each) for each in files] or default_mails(envelope)
    return tuple(replace(each, session=session, envelope=envelope) for each in mails)


def _read(path: Path) -> Mail:
    import re

    from milterd.core.mail import parse_message

    try:
        found = path.read_bytes()
    except OSError as error:
        raise typer.BadParameter(f"{path}: {error.strerror}", param_hint="--file") from None
    return parse_message(re.sub(rb"(?<!\r)\n", b"\r\n", found))
