"""`milterlab conform`: the report card of a milter, or of an MTA."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from milterd.base.spread import spread
from milterd.lab.commands.conform_card import Work, print_card, print_checks
from milterd.lab.commands.conform_mta import NO_MTA, How, MtaOptions, conform_mta
from milterd.lab.options import (
    ClientOption,
    HeloOption,
    MacroOption,
    RecipientsOption,
    SenderOption,
)

if TYPE_CHECKING:
    from milterd.core.mail import Mail


@spread
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
    sender: SenderOption = "sender@example.org",
    recipients: RecipientsOption = None,
    client: ClientOption = "localhost[127.0.0.1]",
    helo: HeloOption = "localhost",
    macro: MacroOption = None,
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
    deadline: Annotated[
        float | None,
        typer.Option(
            min=0.1, help="Seconds that all may take: 300; with --mta, as the MTA's limits need."
        ),
    ] = None,
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
    mta: Annotated[
        bool, typer.Option("--mta", help="Grade an MTA instead, which has us as its milter.")
    ] = False,
    site: MtaOptions = NO_MTA,
) -> None:
    """Grade a milter, or with --mta an MTA: small checks, each with its rule and what was seen."""
    if mta:
        how = How(deadline, jobs, as_json)
        raise typer.Exit(conform_mta(site, how, only or [], skip or [], listing=listing))
    from milterd.lab.conform.catalog import matching
    from milterd.lab.conform.context import Options
    from milterd.lab.conform.grade import grade

    checks = matching(only or [], skip or [])
    if not checks:
        raise typer.BadParameter("no check fits; see --list", param_hint="--only, --skip")
    if listing:
        print_checks(checks, as_json)
        return
    if not socket:
        raise typer.BadParameter("is needed: unix:PATH or inet:PORT@HOST", param_hint="SOCKET")
    options = Options(
        answer=timeout,
        check=max(4 * timeout, 4.0),
        total=deadline or 300.0,
        jobs=jobs,
        pid=_process(pid),
        command=_command(command),
        mails=_mails(files or [], sender, recipients or [], client, helo, macro or []),
    )
    work: Work = lambda report: grade(socket, checks, options, report)  # noqa: E731 - once
    raise typer.Exit(print_card(len(checks), work, as_json))


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


def _mails(
    files: list[Path], sender: str, recipients: list[str], client: str, helo: str, macro: list[str]
) -> tuple[Mail, ...]:
    from dataclasses import replace

    from milterd.core.mail import Envelope, Recipient
    from milterd.lab.arguments import (
        octets,
        session_of,
    )
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
