"""One timer for a connection's many short waits: it is set with each of them, and made anew only
where it would ring too late."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable


class Alarm:
    """Calls `ring` once the time it was last set to has come, in seconds of the loop's clock."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ring: Callable[[], None]) -> None:
        self._loop, self._ring = loop, ring
        self._due = math.inf
        self._at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def set(self, due: float) -> None:
        """Ring then, and at no other time."""
        self._due = due
        if due < self._at:
            self._wind()

    def clear(self) -> None:
        """Do not ring."""
        self._due = math.inf

    def close(self) -> None:
        """Never ring again, and hold on to no timer and to nobody: whoever keeps an alarm that
        rings for itself would be a ring of objects, which only the garbage collector ends."""
        self._ring = _nobody
        self._due = self._at = math.inf
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wind(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._at = self._due
        self._timer = self._loop.call_at(self._at, self._look)

    def _look(self) -> None:
        self._timer, self._at = None, math.inf
        if self._due <= self._loop.time():
            self._due = math.inf
            self._ring()
        elif self._due < math.inf:
            self._wind()


def _nobody() -> None:
    """There is nobody any more who was to hear it."""
