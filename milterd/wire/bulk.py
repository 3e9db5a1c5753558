"""A message's events as frames, many at a time: for an MTA that shows one mail to many milters.

The octets are those that :meth:`MtaConnection.send` gives for each event in turn; here they are
made once for all milters that hear it alike.  `before` is the macro packet that goes before each
event, made by :func:`macros`, or nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from milterd.core.mail import Body, BytesBody, HeaderField
from milterd.wire.commands import EndOfHeaders, EndOfMessage
from milterd.wire.constants import CHUNK, Command
from milterd.wire.errors import LocalError

Octets = bytes | memoryview

_LENGTH = struct.Struct(">I")
END_OF_HEADERS = EndOfHeaders().encode()
END_OF_MESSAGE = EndOfMessage().encode()


def macros(command: Command, strings: bytes) -> bytes:
    """The macro packet for `command`; nothing where there are no macros.  `strings` are names and
    values by turns, each with its NUL."""
    return macros_head(strings) + command + strings if strings else b""


def macros_head(strings: bytes) -> bytes:
    """What the packet begins with, up to its command; the same for all commands."""
    return _LENGTH.pack(len(strings) + 2) + Command.MACRO


def headers(fields: Iterable[HeaderField], leading_space: bool, before: bytes) -> bytes:
    """The visible header fields, as :func:`header_frames` makes them."""
    shown = [each for each in fields if not each.hidden]
    return b"".join(header_frames(shown, leading_space, before))


def header_frames(fields: Iterable[HeaderField], leading_space: bool, before: bytes) -> list[bytes]:
    """Each of these header fields.

    A NUL in a value, which a C string cannot carry, is shown as a space, and a field that
    libmilter would drop the connection over is cut at what one packet holds.  Raises LocalError
    for a name with a NUL.
    """
    made = []
    for each in fields:
        name, value = each.name, each.value
        if b"\r" in value:
            value = value.replace(b"\r\n", b"\n")
        if not leading_space and value[:1] == b" ":
            value = value[1:]
        if b"\0" in value:
            value = value.replace(b"\0", b" ")
        payload = b"L%b\0%b\0" % (name, value)
        length = len(payload)
        if length > CHUNK + 1:
            payload = b"L%b\0%b\0" % (name, value[: max(CHUNK - len(name) - 2, 0)])
            length = len(payload)
        if b"\0" in name:
            raise LocalError("a string with a NUL cannot be sent")
        made.append(b"%b%b%b" % (before, _LENGTH.pack(length), payload))
    return made


def body(body: Body, before: bytes) -> Iterator[tuple[bytes, Octets]]:
    """The body in pieces that one packet holds, each with what goes before it; copied only where
    it has to be read from a file."""
    for piece in _pieces(body):
        yield before + body_head(len(piece)), piece


def body_head(size: int) -> bytes:
    """What goes before a piece of so many octets, CHUNK at most."""
    return _LENGTH.pack(size + 1) + Command.BODY


def _pieces(body: Body) -> Iterator[Octets]:
    if not isinstance(body, BytesBody) or len(body.octets) <= CHUNK:
        yield from body.pieces(CHUNK)
        return
    view = memoryview(body.octets)
    for at in range(0, len(view), CHUNK):
        yield view[at : at + CHUNK]
