"""Matching a key with the `regex` library, under a time limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import regex  # type: ignore[import-untyped]  # it carries no type information

from milterd.patterns.expression import Expression

SHORT = 256
"""Octets of a key that a pattern which is not risky matches in a moment: no limit is needed."""


class Subject:
    """A key during one lookup, as it is and in lower case, and how long the lookup may go on."""

    __slots__ = ("_clock", "_deadline", "_lower", "ascii", "key", "limited")

    def __init__(self, key: bytes, clock: Callable[[], float], limit: float) -> None:
        self.key, self.ascii, self.limited = key, key.isascii(), len(key) > SHORT
        self._clock, self._deadline = clock, clock() + limit
        self._lower: bytes | None = None

    @property
    def lower(self) -> bytes:
        """In lower case, A to Z."""
        if self._lower is None:
            self._lower = self.key.lower()
        return self._lower

    def time_left(self) -> float:
        """Seconds.  Raises TimeoutError if there are none."""
        left = self._deadline - self._clock()
        if left <= 0:
            raise TimeoutError
        return left


class Match:
    """What was found.  It may have been made in lower case: only places are taken from it."""

    __slots__ = ("_key", "_match")

    def __init__(self, key: bytes, match: Any) -> None:
        self._key, self._match = key, match

    def group(self, number: int) -> bytes:
        """The text of a group."""
        start, end = self._match.span(number)
        return self._key[start:end] if start >= 0 else b""


class Pattern:
    """A compiled pattern.  `folds`: it wants keys in lower case."""

    __slots__ = ("_literals", "_pattern", "_risky", "folds", "groups")

    def __init__(self, expression: Expression, flags: int = 0, *, folds: bool = False) -> None:
        self.groups, self.folds, self._risky = expression.groups, folds, expression.risky
        self._literals = tuple(each.encode("ascii") for each in expression.literals)
        source = expression.source.encode("latin-1")
        try:
            self._pattern: Any = regex.compile(source, flags | regex.VERSION0)
        except (regex.error, OverflowError, RecursionError) as error:
            raise ValueError(str(error)) from error

    def search(self, subject: Subject) -> Match | None:
        """Raises TimeoutError."""
        # Beyond ASCII, lower case is not the same length or letter for everyone: no short cut.
        if subject.ascii:
            for each in self._literals:
                if each not in subject.lower:
                    return None
        timeout = subject.time_left() if self._risky or subject.limited else None
        key = subject.lower if self.folds else subject.key
        match = self._pattern.search(key, timeout=timeout)
        return Match(subject.key, match) if match else None
