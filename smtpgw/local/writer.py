"""A drop file while it is written: there as a whole, synced, or not at all.

What is written goes to a name the gateway leaves alone; :meth:`DropFile.commit` syncs it,
gives it its name and syncs the directory.  Only then was the mail accepted.
"""

from __future__ import annotations

import contextlib
import os
import socket
import zlib
from types import TracebackType

from smtpgw.local.drop import NEW, UNFINISHED, WAKE, Ticket, trailer

_BUFFER = 256 * 1024
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o644
"""The gateway runs as another user and has to read it; nobody else knows its name."""


class DropFile:
    """A context: what was not committed when it ends is removed.  Raises OSError."""

    def __init__(self, directory: str, ticket: Ticket) -> None:
        self._name = os.urandom(16).hex()
        self._directory = directory
        self._path = os.path.join(directory, NEW, UNFINISHED + self._name)  # noqa: PTH118 - pathlib costs a quarter of the start
        self._waiting = bytearray()
        self._checksum = self._length = 0
        self._there = True
        self._number = os.open(self._path, _FLAGS, _MODE)
        head = ticket.encode()
        try:
            os.fchmod(self._number, _MODE)  # whatever the umask
            self._put(head)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> DropFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write(self, octets: bytes) -> None:
        """The next octets of the message."""
        self._length += len(octets)
        self._put(octets)

    def _put(self, octets: bytes) -> None:
        self._checksum = zlib.crc32(octets, self._checksum)
        self._waiting += octets
        if len(self._waiting) >= _BUFFER:
            self._flush()

    def _flush(self) -> None:
        view = memoryview(self._waiting)
        at = 0
        while at < len(view):
            at += os.write(self._number, view[at:])
        view.release()
        self._waiting.clear()

    def commit(self) -> str:
        """Make it durable and known to the gateway; its name."""
        self._waiting += trailer(self._checksum, self._length)
        self._flush()
        os.fsync(self._number)
        new = os.path.join(self._directory, NEW)  # noqa: PTH118 - as above
        final = os.path.join(new, self._name)  # noqa: PTH118 - as above
        os.rename(self._path, final)  # noqa: PTH104 - as above
        self._path = final
        self._sync(new)
        self._there = False
        self._poke()
        return self._name

    def _sync(self, directory: str) -> None:
        """Sync the directory.  Only its owner may open it; for others a sync of the renamed file
        does it, as the rename changed its inode and ext4, XFS and Btrfs log both together."""
        try:
            number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except PermissionError:
            os.fsync(self._number)
            return
        try:
            os.fsync(number)
        finally:
            os.close(number)

    def _poke(self) -> None:
        """Tell the gateway; if it is down, it will look by itself."""
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.setblocking(False)
            end.sendto(b"!", os.path.join(self._directory, WAKE))  # noqa: PTH118 - as above

    def close(self) -> None:
        """Remove what was not committed."""
        if self._number >= 0:
            os.close(self._number)
            self._number = -1
        if self._there:
            self._there = False
            with contextlib.suppress(OSError):  # the gateway may have been faster
                os.unlink(self._path)  # noqa: PTH108 - as above
