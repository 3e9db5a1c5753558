"""A body while it arrives: in memory first, in a file without a name when it grows, or when other
mails have the memory."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

from milterd.core.mail import Body, BytesBody, FileBody, PiecedBody
from milterd.host.memory import Share

_LARGE = 4096
_MUCH = 16_384
"""Octets of pieces that are better not copied before somebody wants them as one."""


class Spool:
    """Takes octets, gives a :class:`~milterd.core.mail.Body`.

    The file has no name (O_TMPFILE, or unlinked at once), so nothing is left behind
    by a crash.  It begins with the header, so that a scanner can be given it as it is.
    `write` and `body` raise OSError when the disk does not take it.  Octets in memory are
    taken from `memory`, and given back when nobody needs them any more.
    """

    def __init__(self, memory_limit: int, directory: Path | None, memory: Share) -> None:
        self._memory_limit = memory_limit
        self._directory = directory
        self._memory, self._taken = memory, 0
        self._pieces: list[bytes | bytearray] = []
        self._file: BinaryIO | None = None
        self._offset = 0
        self.size = 0

    def write(self, octets: bytes, head: Callable[[], bytes] = bytes) -> None:
        """Append `octets`; `head` is what goes before all of them in a file."""
        self.size += len(octets)
        if self._file is not None:
            self._file.write(octets)
        elif self.size <= self._memory_limit and self._memory.take(len(octets)):
            self._taken += len(octets)
            if octets:
                self._keep(octets)
        else:
            self._move_to_file(octets, head())

    def _keep(self, octets: bytes) -> None:
        """Large pieces as they are, small ones together: an MTA may send octets one by one."""
        last = self._pieces[-1] if self._pieces else b""
        if isinstance(last, bytearray) and len(octets) < _LARGE:
            last += octets
        else:
            self._pieces.append(octets if not last or len(octets) >= _LARGE else bytearray(octets))

    def _move_to_file(self, octets: bytes, head: bytes) -> None:
        file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115  # closed by close()
        self._file = cast(BinaryIO, file)
        self._file.writelines((head, *self._pieces, octets))
        self._offset = len(head)
        self._let_go()

    def _let_go(self) -> None:
        """Of what is in memory."""
        self._pieces = []
        if self._taken:
            self._memory.give_back(self._taken)
            self._taken = 0

    def body(self) -> Body:
        """All octets written so far; valid until :meth:`close`."""
        if self._file is None:
            if len(self._pieces) > 1 and self.size > _MUCH:
                parts = tuple(map(bytes, self._pieces))  # which copies those that grew
                return PiecedBody(parts)
            whole = b"".join(self._pieces)  # of one piece, that piece itself
            self._pieces = [whole]
            return BytesBody(whole)
        self._file.flush()
        return FileBody(self._file, self._offset, self.size)

    def close(self) -> None:
        """Let go of the octets.  Nobody may read a body of this spool any more."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._let_go()
