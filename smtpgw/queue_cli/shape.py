"""`smtpgw queue shape`: how old the mails of each destination are, as qshape(1) shows it."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from milterd.base import logs
from smtpgw.queue.ages import MINUTES, Ages
from smtpgw.queue.states import MailState
from smtpgw.queue_cli import filters
from smtpgw.queue_cli.common import DEFAULT_FILE, ConfigOption, JsonOption, opened, say, say_json

_NAMES = [*map(str, MINUTES), f"{MINUTES[-1]}+"]
_COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")
_LETTERS = "ABCDEF"
_REST, _REST_COLOUR = "o", "bright_black"
_BAR = 60
SEVERAL = "(several)"
"""Mails for more than one destination."""

Shape = list[tuple[str, Ages]]


def shape(
    config: ConfigOption = DEFAULT_FILE,
    as_json: JsonOption = False,
    state: filters.StateOption = None,
    by: Annotated[
        Literal["destination", "sender"],
        typer.Option(help="Count by destination, or by the domain of the sender."),
    ] = "destination",
    plot: Annotated[bool, typer.Option("--plot", help="Draw it.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many lines; 0 means all.", min=0)] = 0,
) -> None:
    """Show how old mails are: a line for each destination, a column for each age in minutes.

    Without --state, mails that wait or are in delivery.
    """
    named = [MailState[each.upper()] for each in state or ("incoming", "active", "deferred")]
    with opened(config) as queue:
        found = queue.tool.ages(named, queue.now, by_sender=by == "sender")
    rows = sorted(found.items(), key=lambda row: (-row[1].total, row[0]))
    if as_json:
        for name, each in rows[: limit or None]:
            say_json({by: label(name), "total": each.total, **dict(zip(_NAMES, each.counts))})  # noqa: B905 - as long by construction
    elif plot:
        _plot(rows)
    else:
        for line in table(rows, limit):
            say(line)


def label(name: str) -> str:
    """A destination's name, safe to show."""
    return logs.escape(name) if name else SEVERAL


def _sums(rows: Shape) -> list[int]:
    columns = zip(*(each.counts for _, each in rows), strict=True)
    return [sum(column) for column in columns] if rows else [0] * len(_NAMES)


def table(rows: Shape, limit: int) -> list[str]:
    """The lines, the sums first."""
    sums = _sums(rows)
    counts = [
        [sum(sums), *sums],
        *([each.total, *each.counts] for _, each in rows[: limit or None]),
    ]
    numbers = [["T", *_NAMES], *([str(each) for each in row] for row in counts)]
    names = ["", "TOTAL", *(label(name) for name, _ in rows[: limit or None])]
    wide = [max(len(row[at]) for row in numbers) + 1 for at in range(len(numbers[0]))]
    first = max(map(len, names))
    return [
        name.rjust(first) + "".join(n.rjust(w) for n, w in zip(row, wide, strict=True))
        for name, row in zip(names, numbers, strict=True)
    ]


def _plot(rows: Shape) -> None:
    console = Console(highlight=False, file=sys.stdout)
    for line in bars(rows):
        console.print(line, soft_wrap=True)


def bars(rows: Shape) -> list[Text]:
    """A bar for each age; its parts are the destinations that have most mails."""
    sums, most = _sums(rows), rows[: len(_COLOURS)]
    scale = max([*sums, 1])
    lines = []
    for at, (name, count) in enumerate(zip(_NAMES, sums, strict=True)):
        line = Text(f"{name:>6} ")
        drawn, so_far = 0, 0
        parts = [each.counts[at] for _, each in most]
        for letter, colour, part in (
            *zip(_LETTERS, _COLOURS, parts, strict=False),
            (_REST, _REST_COLOUR, count - sum(parts)),
        ):
            so_far += part
            # Rounded up in all, so that no mail at all is the only empty bar.
            width = -(-so_far * _BAR // scale) - drawn
            line.append(letter * width, style=colour)
            drawn += width
        lines.append(line.append(f" {count}" if count else ""))
    for letter, colour, (name, each) in zip(_LETTERS, _COLOURS, most, strict=False):
        lines.append(Text(f"{letter} {label(name)}: {each.total}", style=colour))
    if len(rows) > len(most):
        others = sum(each.total for _, each in rows[len(most) :])
        lines.append(Text(f"{_REST} others: {others}", style=_REST_COLOUR))
    return lines
