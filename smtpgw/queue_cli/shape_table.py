"""How old the mails of each destination are, as lines of numbers."""

from __future__ import annotations

from milterd.base.escaping import escape
from smtpgw.queue.ages import MINUTES, Ages

NAMES = [*map(str, MINUTES), f"{MINUTES[-1]}+"]
SEVERAL = "(several)"
"""Mails for more than one destination."""

Shape = list[tuple[str, Ages]]


def label(name: str) -> str:
    """A destination's name, safe to show."""
    return escape(name) if name else SEVERAL


def sums(rows: Shape) -> list[int]:
    """Mails of each age."""
    columns = zip(*(each.counts for _, each in rows), strict=True)
    return [sum(column) for column in columns] if rows else [0] * len(NAMES)


def table(rows: Shape, limit: int) -> list[str]:
    """The lines, the sums first."""
    total = sums(rows)
    counts = [
        [sum(total), *total],
        *([each.total, *each.counts] for _, each in rows[: limit or None]),
    ]
    numbers = [["T", *NAMES], *([str(each) for each in row] for row in counts)]
    names = ["", "TOTAL", *(label(name) for name, _ in rows[: limit or None])]
    wide = [max(len(row[at]) for row in numbers) + 1 for at in range(len(numbers[0]))]
    first = max(map(len, names))
    return [
        name.rjust(first) + "".join(n.rjust(w) for n, w in zip(row, wide, strict=True))
        for name, row in zip(names, numbers, strict=True)
    ]
