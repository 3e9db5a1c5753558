"""A loop whose clock stands still while the machine does.

Where all processors are taken away for a second, a test's both ends stop, and nothing that was
waited for has been late; by the machine's clock every short limit has run out all the same.  Here
a limit runs out only where the loop had that time to hear of what comes first.  (uvloop has a
clock of its own: a test on it begins its short limits where they are meant to run out.)
"""

from __future__ import annotations

import asyncio
import selectors
import threading
import time
from collections.abc import Callable
from selectors import SelectorKey

SLICE = 0.005
"""Seconds of a wait, after which the clock is read."""
LONGEST = 2 * SLICE
"""Seconds that count at most from one reading to the next: the rest was a stall."""


class Clock:
    """Seconds, never ahead of the machine's monotonic ones."""

    def __init__(self, machine: Callable[[], float] = time.monotonic) -> None:
        self._machine = machine
        self._now = self._read = machine()

    def __call__(self) -> float:
        read = self._machine()
        self._now += min(read - self._read, LONGEST)
        self._read = read
        return self._now


class Running:
    """Seconds that the machine ran, for how long something takes: a thread reads the clock.

    It never says more than the machine's own clock, and where much else runs it says less: for
    "no longer than", never for "no sooner".
    """

    def __init__(self) -> None:
        self._clock, self._lock, self._over = Clock(), threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> Running:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def __call__(self) -> float:
        with self._lock:
            return self._clock()

    def _read(self) -> None:
        while not self._over.wait(SLICE):
            self()


class _Selector(selectors.DefaultSelector):
    """Waits in slices, so that the clock is read between them."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        end = self._clock() + timeout
        while (left := end - self._clock()) > 0:
            if found := super().select(min(left, SLICE)):
                return found
        return super().select(0)


class SteadyLoop(asyncio.SelectorEventLoop):
    """asyncio's own loop in all but its clock."""

    def __init__(self) -> None:
        self._steady = Clock()
        super().__init__(_Selector(self._steady))

    def time(self) -> float:
        return self._steady()


class SteadyPolicy(asyncio.DefaultEventLoopPolicy):
    """Every loop that asyncio makes is such a one."""

    _loop_factory = SteadyLoop
