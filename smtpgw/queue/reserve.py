"""Disk space kept back, so that a full disk does not stop the emptying of the queue.

Removing a mail writes before it frees.  A file of allocated octets stands beside the
database; when an outcome finds the disk full, the file is emptied to make room for it,
and no new mail is accepted until the file could be allocated again.
"""

from __future__ import annotations

import os
from pathlib import Path

from smtpgw.queue.store import StoreFull


class Reserve:
    """The file.  Size in octets; 0 means none is kept."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        self._whole = size == 0

    @property
    def whole(self) -> bool:
        """Whether it is there, as far as is known."""
        return self._whole

    def ensure(self) -> None:
        """Have the reserve whole.  Raises :class:`StoreFull` while there is no room for it."""
        if self._whole:
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            number = os.open(self._path, flags, 0o600)
            try:
                os.posix_fallocate(number, 0, self._size)
            except OSError:
                os.ftruncate(number, 0)  # half a reserve would only be in the way
                raise
            finally:
                os.close(number)
        except OSError as error:
            raise StoreFull(f"{self._path}: no room for the reserve: {error.strerror}") from error
        self._whole = True

    def release(self) -> bool:
        """At the start, when nobody knows yet what is there: give back what a file may hold;
        whether that was anything."""
        try:
            had = self._path.stat().st_blocks > 0
            os.truncate(self._path, 0)
        except OSError:
            return False
        self._whole = self._size == 0
        return had

    def spend(self) -> bool:
        """Give the space back to the disk; whether there was any."""
        had, self._whole = self._whole and self._size > 0, self._size == 0
        if had:
            os.truncate(self._path, 0)
        return had
