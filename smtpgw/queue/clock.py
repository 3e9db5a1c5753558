"""Time for the queue: intervals by the monotonic clock, dates by the wall clock.

`Clock` is what is handed in.  `QueueClock` is queue time: the wall clock at start
plus what the monotonic clock measured since, so a jump of the wall clock makes
nothing due and lets nothing expire while the program runs.  What a jump does between
two runs is bounded by the store's recovery (see :func:`unwatched_shift`).
"""

from __future__ import annotations

import time
from typing import Protocol

UNWATCHED_LIMIT = 86_400.0
"""Seconds of downtime that count fully towards the age of a mail."""


class Clock(Protocol):
    """Both clocks, in seconds."""

    def wall(self) -> float:
        """Seconds since the epoch; may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""
        ...


class SystemClock:
    """The machine's clocks."""

    def wall(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()


class QueueClock:
    """Queue time, in seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = clock.wall() - clock.monotonic()

    def now(self) -> float:
        """Queue time: near the wall clock at start, then steady."""
        return self._start + self._clock.monotonic()

    def wall(self) -> float:
        """The wall clock, for dates that people read."""
        return self._clock.wall()


def unwatched_shift(last_seen: float, now: float, limit: float = UNWATCHED_LIMIT) -> float:
    """By how many seconds stored times must move after nobody watched from `last_seen` to `now`.

    Downtime ages a mail by `limit` at most, and a clock that went back by nothing:
    a wrong clock at boot neither bounces the whole queue nor freezes it.
    """
    gap = now - last_seen
    if gap < 0:
        return gap
    return max(0.0, gap - limit)
