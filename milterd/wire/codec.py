"""The parts payloads are made of: numbers of four octets and strings that end in NUL.

Encoders raise LocalError for what a frame cannot carry, decoders PeerError for
what is not exactly there: a missing NUL, a missing string, octets left over.
"""

from __future__ import annotations

import struct

from milterd.wire.errors import LocalError, PeerError

_U32 = struct.Struct(">I")
MAX_U32 = 0xFFFFFFFF


def pack_strings(*strings: bytes) -> bytes:
    """Strings, each with its NUL; LocalError when one holds a NUL itself."""
    packed = b"\0".join(strings) + b"\0"
    if packed.count(b"\0") != len(strings):
        raise LocalError("a string with a NUL cannot be sent")
    return packed


def unpack_strings(payload: bytes, least: int = 1, most: int | None = None) -> list[bytes]:
    """The strings a payload consists of, `least` to `most` of them."""
    if payload[-1:] != b"\0":
        raise PeerError("string without its NUL" if payload else "string missing")
    strings = payload[:-1].split(b"\0")
    if len(strings) < least:
        raise PeerError(f"{len(strings)} strings where {least} belong")
    if most is not None and len(strings) > most:
        raise PeerError(f"{len(strings)} strings where {most} belong")
    return strings


def pack_number(number: int) -> bytes:
    """A number of four octets."""
    if not 0 <= number <= MAX_U32:
        raise LocalError(f"{number} does not fit in four octets")
    return _U32.pack(number)


def unpack_number(payload: bytes, offset: int = 0) -> int:
    """The number at `offset`."""
    if len(payload) < offset + 4:
        raise PeerError("number of four octets missing")
    number: int = _U32.unpack_from(payload, offset)[0]
    return number


def unpack_nothing(payload: bytes) -> None:
    """Make sure that the payload is empty."""
    if payload:
        raise PeerError(f"{len(payload)} octets of payload where none belong")
