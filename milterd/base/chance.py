"""The system's random numbers, asked for many at once.

A question to the kernel costs as much as all else that an id is made of.  Nothing is handed out
twice, and a forked child has none of its parent's.  For ids; keys are made by `secrets`.
"""

from __future__ import annotations

import os
import threading

POOL = 1024
"""Octets that are asked for at once."""


class _Pool:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._octets, self._at = b"", 0
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._lock = threading.Lock()  # another thread of the parent may have had it
        self._octets, self._at = b"", 0

    def take(self, count: int) -> bytes:
        """So many octets, POOL at most."""
        with self._lock:
            start = self._at
            if start + count > len(self._octets):
                self._octets, start = os.urandom(POOL), 0
            self._at = start + count
            return self._octets[start : start + count]


_pool = _Pool()


def below(limit: int) -> int:
    """A number from 0 to `limit` - 1, each as likely as the others; from any thread.
    Raises ValueError where there is none."""
    if limit <= 0:
        raise ValueError(f"no number is below {limit} and not below 0")
    bits = (limit - 1).bit_length()
    count = (bits + 7) // 8
    spare = count * 8 - bits
    while True:
        number = int.from_bytes(_pool.take(count), "big") >> spare
        if number < limit:
            return number
