"""What was found out about addresses, kept as long as nothing it came from has changed.

Rules that stand in the settings do not change while they are in force, and a table that reads a
file says when it has read another one.  Where only asking a table tells what it says now, nothing
is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Generic, TypeVar, cast

K = TypeVar("K")
V = TypeVar("V")

Changes = Callable[[], int]
"""A number that grows whenever a table may answer otherwise than before."""

MOST = 2000
"""Answers of one kind that are kept."""


def watched(things: Iterable[object | None]) -> tuple[Changes, ...] | None:
    """What to look at to know that none of these tables and lists has changed; None if one of them
    cannot be watched.  What is None is not there."""
    found: dict[Changes, None] = {}
    for each in things:
        if each is None:
            continue
        changes = getattr(each, "changes", None)
        those = None if changes is None else cast("tuple[Changes, ...] | None", changes())
        if those is None:
            return None
        found |= dict.fromkeys(those)
    return tuple(found)


class Remembered(Generic[K, V]):
    """Answers by what was asked, at most `most` of them."""

    __slots__ = ("_found", "_most", "_version", "changes")

    def __init__(self, changes: tuple[Changes, ...] | None, most: int = MOST) -> None:
        self.changes, self._most = changes, most
        self._found: dict[K, V] = {}
        self._version = 0

    def now(self) -> dict[K, V] | None:
        """What is still true, to be asked and added to; None where nothing can be kept.

        An answer is put into what was got before it was looked for: one that a change overtakes
        goes with the others.
        """
        if self.changes is None:
            return None
        if self.changes:
            version = sum(each() for each in self.changes)
            if version != self._version:
                self._version, self._found = version, {}
        if len(self._found) >= self._most:
            self._found = {}
        return self._found
