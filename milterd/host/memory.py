"""What all mails of a filter's process may have in memory together, while they come in.

A limit for each mail is none for a process that has thousands of connections.
"""

from __future__ import annotations

import threading


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
