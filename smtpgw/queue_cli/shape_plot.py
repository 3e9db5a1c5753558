"""The plot of `smtpgw queue shape --plot`."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.text import Text

from smtpgw.queue_cli.shape_table import NAMES, Shape, label, sums

_COLOURS = ("red", "yellow", "green", "cyan", "blue", "magenta")
_LETTERS = "ABCDEF"
_REST, _REST_COLOUR = "o", "bright_black"
_BAR = 60


def draw(rows: Shape) -> None:
    """Print it."""
    console = Console(highlight=False, file=sys.stdout)
    for line in bars(rows):
        console.print(line, soft_wrap=True)


def bars(rows: Shape) -> list[Text]:
    """A bar for each age; its parts are the destinations that have most mails."""
    total, most = sums(rows), rows[: len(_COLOURS)]
    scale = max([*total, 1])
    lines = []
    for at, (name, count) in enumerate(zip(NAMES, total, strict=True)):
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
