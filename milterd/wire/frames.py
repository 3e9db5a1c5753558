"""Frames: a length of four octets, a code, and a payload.

The length counts the code and the payload, so zero is never valid.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from milterd.wire.errors import FrameError

_LENGTH = struct.Struct(">I")
_SMALL = 2048
HEAD = _LENGTH.size + 1
"""Octets of a frame before its payload."""


def frame(code: bytes, payload: bytes = b"") -> bytes:
    """One frame as octets."""
    return _LENGTH.pack(len(payload) + 1) + code + payload


class FrameDecoder:
    """Splits a stream into frames.

    A frame longer than `limit` octets (its code included) is refused as soon as
    its length is known, before its payload is gathered.
    """

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int) -> None:
        self._buffer = bytearray()
        self._limit = limit

    @property
    def buffered(self) -> int:
        """Octets fed and not yet given out as frames."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take octets as they came from the peer."""
        self._buffer += data

    def next_frame(self) -> tuple[int, bytes] | None:
        """The next whole frame as code and payload, or None until more octets come.

        Raises FrameError on a length of zero or over the limit.
        """
        buffer = self._buffer
        if len(buffer) < 4:
            return None
        (length,) = _LENGTH.unpack_from(buffer)
        if not 0 < length <= self._limit:
            raise FrameError(f"frame of {length} octets, allowed are 1 to {self._limit}")
        end = length + 4
        if len(buffer) < end:
            return None
        code = buffer[4]
        if length < _SMALL:
            payload = bytes(buffer[5:end])
        else:
            # One copy instead of two, where that outweighs making the view.
            with memoryview(buffer) as view:
                payload = bytes(view[5:end])
        del buffer[:end]
        return code, payload

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """The whole frames at hand; raises as `next_frame` does."""
        while (found := self.next_frame()) is not None:
            yield found

    def clear(self) -> None:
        """Forget what is buffered."""
        self._buffer.clear()
