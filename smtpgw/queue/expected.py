"""Mails that are on their way: for their sake one that could be committed waits a moment.

A mail is expected for as long as it is likely to come: a client that has connected and says
nothing, or that takes its time over a body, must not make all others wait.
"""

from __future__ import annotations

from collections.abc import Callable

LATELY = 0.05
"""Seconds for which a mail is expected once something was heard of it."""


class Expected:
    """Who will bring a mail any moment, as far as anybody can tell.  `clock` gives seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since: dict[object, float] = {}
        """The oldest first."""

    def add(self, who: object) -> None:
        """A mail was heard of, for the first time or again."""
        since = self._since
        since.pop(who, None)
        since[who] = self._clock()

    def drop(self, who: object) -> None:
        """It has come, or will not."""
        self._since.pop(who, None)

    def any(self) -> bool:
        """Whether some mail is expected."""
        since, least = self._since, self._clock() - LATELY
        while since:
            who = next(iter(since))
            if since[who] > least:
                return True
            del since[who]
        return False
