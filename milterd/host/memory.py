"""What all mails of a filter's process may have in memory together, while they come in.

A limit for each mail is none for a process that has thousands of connections.
"""

from __future__ import annotations

import threading

BLOCK = 16_384
"""Octets that a mail takes at a time: most need no more than that, and ask once."""


class Memory:
    """So many octets for all; from any thread."""

    def __init__(self, octets: int) -> None:
        self._left = octets
        self._lock = threading.Lock()

    def take(self, octets: int) -> bool:
        """Take some, for as long as they are not given back; False, and none, where there are not
        so many left."""
        with self._lock:
            if octets > self._left:
                return False
            self._left -= octets
        return True

    def give_back(self, octets: int) -> None:
        """What was taken is free again."""
        with self._lock:
            self._left += octets

    @property
    def left(self) -> int:
        """Octets that may still be taken."""
        return self._left


class Share:
    """What one mail has of it, in blocks."""

    __slots__ = ("_memory", "_taken", "_used")

    def __init__(self, memory: Memory) -> None:
        self._memory, self._taken, self._used = memory, 0, 0

    def take(self, octets: int) -> bool:
        """See :meth:`Memory.take`."""
        used = self._used + octets
        if used > self._taken:
            more = BLOCK * -((self._taken - used) // BLOCK)  # whole blocks, so rounded up
            if not self._memory.take(more):
                return False
            self._taken += more
        self._used = used
        return True

    def give_back(self, octets: int) -> None:
        """What was taken is free again, and so is what is left of its blocks."""
        self._used -= octets
        spare = (self._taken - self._used) // BLOCK * BLOCK
        if spare:
            self._memory.give_back(spare)
            self._taken -= spare

    def give_all_back(self) -> None:
        """Nothing of it is needed any more."""
        if self._taken:
            self._memory.give_back(self._taken)
            self._taken = self._used = 0
