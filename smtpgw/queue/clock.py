"""Time for the queue: intervals by the monotonic clock, dates by the wall clock.

`Clock` is what is handed in.  `QueueClock` is queue time: the wall clock when the queue
was new plus what the monotonic clock measured since, so a jump of the wall clock makes
nothing due and lets nothing expire while the program runs.  A shard remembers its queue
time and the wall clock's beside it; the next run goes on from there (:meth:`QueueClock.resume`),
so whatever the wall clock does between two runs, no stored time has to be changed.
"""

from __future__ import annotations

import time
from typing import Protocol

UNWATCHED_LIMIT = 86_400.0
"""Seconds of downtime that count fully towards the age of a mail."""

SAME = 1.0
"""Seconds by which queue time and the wall clock may differ and count as one."""


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

    wall = staticmethod(time.time)
    monotonic = staticmethod(time.monotonic)


class QueueClock:
    """Queue time of one shard, in seconds."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = clock.wall() - clock.monotonic()

    def resume(self, seen: float, wall: float) -> None:
        """Go on where a run left its shard: at queue time `seen`, at `wall` by the wall clock."""
        self._start = resumed(seen, wall, self._clock.wall()) - self._clock.monotonic()

    def now(self) -> float:
        """Queue time: near the wall clock at start, then steady."""
        return self._start + self._clock.monotonic()

    def wall(self) -> float:
        """The wall clock, for dates that people read."""
        return self._clock.wall()


def resumed(seen: float, wall: float, now: float, limit: float = UNWATCHED_LIMIT) -> float:
    """Queue time when the wall clock says `now`, if nobody watched since it was `seen` at `wall`.

    Downtime ages a mail by `limit` at most, and a clock that went back by nothing:
    a wrong clock at boot neither bounces the whole queue nor freezes it.
    """
    gap = min(max(now - wall, 0.0), limit)
    return now if abs(seen + gap - now) < SAME else seen + gap
