"""Which mails a command is to change: named ones, those read from a program, or all that fit.

All that fit, and ALL, are asked for once more: on a terminal by a question, else by --yes.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from smtpgw.queue.states import MailState
from smtpgw.queue.tools import Change, Changed
from smtpgw.queue_cli.common import Opened, complain, looking, queue_id, say, say_json
from smtpgw.queue_cli.filters import STATES, Given

ALL, STDIN = "ALL", "-"
SHOWN = 10
"""Refused mails that are named."""
MARKS = "*!#?"
"""What a list may put behind an id."""


def _ids(value: list[str] | None) -> list[str] | None:
    for each in value or ():
        if each not in (ALL, STDIN):
            queue_id(each)
    return value


IdsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ID|-|ALL",
        help="Queue ids; - reads them from standard input, ALL means every mail. "
        "Without any, the filters say which.",
        callback=_ids,
    ),
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def change(
    verb: str,
    ids: list[str] | None,
    given: Given,
    make: Callable[[Opened], Change],
    *,
    queue: Opened,
    as_json: bool,
) -> None:
    """Change the mails of these ids, or for None those that fit, and say how many it was.

    `verb` is the past participle.
    """
    with looking() as progress:
        found = _fitting(queue, given, progress) if ids is None else ids
        result = queue.tool.change(found, make(queue))
    report(verb, result, as_json, strict=ids is not None)


def _fitting(queue: Opened, given: Given, progress: Callable[[int], None]) -> Iterator[str]:
    for each in queue.tool.search(given.filter(), queue.now, progress):
        yield each.queue_id


def resolve(
    verb: str, ids: list[str] | None, given: Given, yes: bool, states: frozenset[MailState]
) -> tuple[list[str] | None, Given]:
    """The ids that are named, else None and what has to fit; asks where that is dangerous.

    `states` are what ALL and filters mean if no state was given.  Raises BadParameter.
    """
    those = named(ids, filtered=given.some)
    if those is not None:
        return those, given
    usual = [each for each in STATES if MailState[each.upper()] in states]
    meant = dataclasses.replace(given, state=given.state or usual)
    if not yes:
        which = "Each mail that fits" if given.some else "Every mail"
        confirm(f"{which} in state {', '.join(meant.state or ())} is {verb}. Go on?")
    return None, meant


def named(ids: list[str] | None, *, filtered: bool) -> list[str] | None:
    """The ids that a command was given, or None where all mails are meant, or those that fit.

    Ids that were to be read and are not there mean no mail.  Raises BadParameter for ids with
    filters, and for neither.
    """
    if not (ids or filtered):
        raise typer.BadParameter("expected ids, ALL, or filters (see --help)")
    if not ids or ids == [ALL]:
        return None
    if filtered or ALL in ids:
        raise typer.BadParameter("expected ids, or ALL and filters, not both")
    return list(read(ids))


def confirm(question: str) -> None:
    """Ask on a terminal; raises BadParameter where nobody can be asked, Abort for a no."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise typer.BadParameter(f"{question} Say so with --yes", param_hint="--yes")
    typer.confirm(question, abort=True)


def read(ids: list[str]) -> Iterator[str]:
    """The ids, and for `-` the first word of each line of standard input."""
    for each in ids:
        if each != STDIN:
            yield each
            continue
        if sys.stdin is None:
            raise typer.BadParameter("standard input is closed")
        for line in sys.stdin.buffer:
            words = line.decode("ascii", "replace").split(maxsplit=1)
            if words:
                yield queue_id(words[0].rstrip(MARKS))


def report(verb: str, result: Changed, as_json: bool, *, strict: bool) -> None:
    """Say what was done.  Exits with 1 if a mail that was named could not be changed."""
    if as_json:
        refused = {"refused": dict(result.refused)} if result.refused else {}
        say_json({verb: result.done, **refused})
    elif result.done or not result.refused:
        say(f"{result.done} {verb}")
    if not as_json:
        for queue_id, reason in result.refused[:SHOWN]:
            complain(f"{queue_id}: {reason}")
        if len(result.refused) > SHOWN:
            complain(f"... and {len(result.refused) - SHOWN} more")
    if strict and result.refused:
        raise typer.Exit(1)
