"""Attributes that are made when they are first asked for."""

from __future__ import annotations

from milterd.base.once import once


class Made:
    """Counts what it makes."""

    def __init__(self) -> None:
        self.count = 0

    @once
    def number(self) -> int:
        """How many were made."""
        self.count += 1
        return self.count


def test_it_is_made_once_until_it_is_taken_away() -> None:
    one, other = Made(), Made()
    assert (one.number, one.number, other.number) == (1, 1, 1)
    del one.__dict__["number"]
    assert (one.number, one.number, other.number) == (2, 2, 1)
