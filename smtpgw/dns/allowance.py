"""How long one mail, or one session, may wait for the name service in all.

Each wait is counted by the clock, so that questions asked at the same time count once.  What
is left is the `limit` of the next question: when nothing is left, the answer is TryAgain at
once, and nothing is asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from smtpgw.dns.answers import TryAgain

T = TypeVar("T")


class Allowance:
    """`seconds` for all questions together; `clock` gives monotonic seconds."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._left, self._clock = seconds, clock
        self._waiting, self._since = 0, 0.0

    @property
    def left(self) -> float:
        """Seconds that may still be waited."""
        running = self._clock() - self._since if self._waiting else 0.0
        return max(0.0, self._left - running)

    async def ask(self, question: Callable[[float], Awaitable[T]]) -> T | TryAgain:
        """The answer to a question, which is given the seconds that are left."""
        left = self.left
        if left <= 0:
            return TryAgain("no time left for the name service")
        if not self._waiting:
            self._since = self._clock()
        self._waiting += 1
        try:
            return await question(left)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._left = max(0.0, self._left - (self._clock() - self._since))
