"""Frames: a length of four octets, a code, and a payload.

The length counts the code and the payload, so zero is never valid.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator

from milterd.wire.errors import FrameError

_LENGTH = struct.Struct(">I")
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

    __slots__ = ("_at", "_buffer", "_limit")

    def __init__(self, limit: int) -> None:
        self._buffer: bytes | bytearray = b""
        self._at = 0
        self._limit = limit

    @property
    def buffered(self) -> int:
        """Octets fed and not yet given out as frames."""
        return len(self._buffer) - self._at

    def feed(self, data: bytes) -> None:
        """Take octets as they came from the peer."""
        if self._at == len(self._buffer):
            self._buffer, self._at = data, 0
            return
        if not isinstance(self._buffer, bytearray):
            self._buffer = bytearray(self._buffer)
        if self._at:
            del self._buffer[: self._at]
            self._at = 0
        self._buffer += data

    def next_frame(self) -> tuple[int, bytes] | None:
        """The next whole frame as code and payload, or None until more octets come.

        Raises FrameError on a length of zero or over the limit.
        """
        buffer, at = self._buffer, self._at
        held = len(buffer) - at
        if held < 4:
            return None
        (length,) = _LENGTH.unpack_from(buffer, at)
        if not 0 < length <= self._limit:
            raise self._refused(length)
        if held < length + 4:
            return None
        self._at = end = at + length + 4
        if isinstance(buffer, bytearray):
            # One copy instead of two.
            with memoryview(buffer) as view:
                return buffer[at + 4], bytes(view[at + 5 : end])
        return buffer[at + 4], buffer[at + 5 : end]

    def split(
        self, data: bytes, until: Container[int] = ()
    ) -> tuple[list[tuple[int, bytes]], FrameError | None]:
        """Take octets as they came, and give the whole frames at hand, up to the first whose code
        is in `until` and with it; besides, what is wrong with the one behind them, after which no
        further ones are to be had."""
        if self._buffer:
            return self._split_more(data, until)
        found: list[tuple[int, bytes]] = []
        at, size, limit = 0, len(data), self._limit
        while at + 4 <= size:
            (length,) = _LENGTH.unpack_from(data, at)
            if not 0 < length <= limit:
                self._buffer, self._at = data, at
                return found, self._refused(length)
            end = at + length + 4
            if end > size:
                break
            code = data[at + 4]
            found.append((code, data[at + 5 : end]))
            at = end
            if code in until:
                break
        if at < size:
            self._buffer, self._at = data, at
        return found, None

    def _split_more(
        self, data: bytes, until: Container[int]
    ) -> tuple[list[tuple[int, bytes]], FrameError | None]:
        self.feed(data)
        found: list[tuple[int, bytes]] = []
        try:
            while (one := self.next_frame()) is not None:
                found.append(one)
                if one[0] in until:
                    break
        except FrameError as error:
            return found, error
        if not self.buffered:
            self.clear()
        return found, None

    def _refused(self, length: int) -> FrameError:
        return FrameError(f"frame of {length} octets, allowed are 1 to {self._limit}")

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """The whole frames at hand; raises as `next_frame` does."""
        while (found := self.next_frame()) is not None:
            yield found

    def clear(self) -> None:
        """Forget what is buffered."""
        self._buffer, self._at = b"", 0
