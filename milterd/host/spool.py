"""A body while it arrives: in memory first, in a file without a name when it grows."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import BinaryIO, cast

from milterd.core.mail import Body, BytesBody, FileBody


class Spool:
    """Takes octets, gives a :class:`~milterd.core.mail.Body`.

    The file has no name (O_TMPFILE, or unlinked at once), so nothing is left behind
    by a crash.  `write` and `body` raise OSError when the disk does not take it.
    """

    def __init__(self, memory_limit: int, directory: Path | None) -> None:
        self._memory_limit = memory_limit
        self._directory = directory
        self._octets = bytearray()
        self._file: BinaryIO | None = None
        self.size = 0

    def write(self, octets: bytes) -> None:
        """Append `octets`."""
        self.size += len(octets)
        if self._file is not None:
            self._file.write(octets)
        elif self.size <= self._memory_limit:
            self._octets += octets
        else:
            self._move_to_file(octets)

    def _move_to_file(self, octets: bytes) -> None:
        file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115  # closed by close()
        self._file = cast(BinaryIO, file)
        self._file.write(self._octets)
        self._file.write(octets)
        self._octets = bytearray()

    def body(self) -> Body:
        """All octets written so far; valid until :meth:`close`."""
        if self._file is None:
            return BytesBody(bytes(self._octets))
        self._file.flush()
        return FileBody(self._file, 0, self.size)

    def close(self) -> None:
        """Let go of the octets.  Nobody may read a body of this spool any more."""
        if self._file is not None:
            self._file.close()
            self._file = None
        self._octets = bytearray()
