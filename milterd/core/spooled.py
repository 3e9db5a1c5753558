"""Bodies with what was seen of them as they came in, so that nobody looks again for that.

Whoever makes one has seen to it that every line, the last one too, ends in CRLF, and that there is
no other CR or LF and no NUL.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from milterd.core.mail import BytesBody, FileBody

LONGEST = 998
"""Octets of a line without its CRLF beyond which it is a long one (RFC 5322 section 2.1.1)."""


class WholeBody(BytesBody):
    """A body in memory; equal to any other of the same octets."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return self.octets == other.octets if isinstance(other, BytesBody) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.octets,))  # as the other's


@dataclass(frozen=True, slots=True)
class Seen:
    """What a body is: its CRC-32, whether an octet is above 127, and whether a line is over
    :data:`LONGEST`."""

    crc: int
    eight_bit: bool
    long_lines: bool


@dataclass(frozen=True, slots=True)
class SeenBody(FileBody):
    """A body in a file."""

    seen: Seen


class Watch:
    """Sees the octets of a body go by, in pieces of any size."""

    def __init__(self) -> None:
        self._crc, self._eight_bit = 0, False
        self._long, self._column = False, 0

    def see(self, octets: bytes | bytearray) -> None:
        """The next octets."""
        self._crc = zlib.crc32(octets, self._crc)
        self._eight_bit = self._eight_bit or not octets.isascii()
        if not self._long:
            self._long, self._column = long_lines(octets, LONGEST, self._column)

    def seen(self) -> Seen:
        """What has been seen until now."""
        return Seen(self._crc, self._eight_bit, self._long)


def long_lines(data: bytes | bytearray, limit: int, column: int = 0) -> tuple[bool, int]:
    """Whether a line has over `limit` octets, if it began `column` octets before `data`; and
    the column at the end.  Skips from line to line without looking at what is between."""
    at, end = 0, len(data)
    most = limit + data.endswith(b"\r")  # the next piece may have the rest of a line's end
    while column + end - at > most:
        room = limit - column if column < limit else 0
        stop = data.rfind(b"\n", at, at + room + 2)
        if stop < 0:
            return True, 0
        at, column = stop + 1, 0
    last = data.rfind(b"\n", at)
    return False, end - last - 1 if last >= 0 else column + end - at


_POLYNOMIAL = 0xEDB88320
_ONE = 1 << 31
"""x to the power of 0, the lowest power being the highest bit."""


def joined(first: int, second: int, size: int) -> int:
    """The CRC-32 of two texts as one, from that of each and the octets of the second: that of the
    first times x to the power of its bits, and that of the second (as zlib's crc32_combine)."""
    power, square = _ONE, _ONE >> 8  # x to the power of 0, and of the bits of an octet
    while size:
        if size & 1:
            power = _product(square, power)
        square = _product(square, square)
        size >>= 1
    return _product(power, first) ^ second


def _product(one: int, other: int) -> int:
    """Of two polynomials over the field of two, modulo that of the CRC-32."""
    found = 0
    while one:
        if one & _ONE:
            found ^= other
        one = one << 1 & 0xFFFFFFFF
        other = other >> 1 ^ (_POLYNOMIAL if other & 1 else 0)
    return found
