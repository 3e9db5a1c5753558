"""A mail as it was received: every octet kept, every part immutable.

Line ends are CRLF throughout (RFC 5321 section 2.3.8); whoever builds a
:class:`Mail` has made sure of that.  Header fields keep their folding, order,
leading white space and 8-bit octets, so what nobody edits leaves as it came.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO, Protocol

from milterd.core.values import value

CRLF = b"\r\n"
PIECE = 65535
"""Octets read from a body at a time unless the caller says otherwise."""


class Body(Protocol):
    """The octets after the blank line, wherever they are stored."""

    @property
    def size(self) -> int:
        """Length in octets."""
        ...

    def pieces(self, limit: int = PIECE) -> Iterator[bytes]:
        """Yield the octets in order, at most `limit` at a time."""
        ...


@dataclass(frozen=True, slots=True)
class BytesBody:
    """A body held in memory."""

    octets: bytes = b""

    @property
    def size(self) -> int:
        return len(self.octets)

    def pieces(self, limit: int = PIECE) -> Iterator[bytes]:
        if len(self.octets) <= limit:
            if self.octets:
                yield self.octets
            return
        view = memoryview(self.octets)
        for start in range(0, len(view), limit):
            yield bytes(view[start : start + limit])


class PiecedBody(BytesBody):
    """A body in memory as it came, in pieces: made one object when somebody wants it as one."""

    __slots__ = ("_parts", "_size")
    _parts: Sequence[bytes]
    _size: int

    def __init__(self, parts: Sequence[bytes]) -> None:
        object.__setattr__(self, "_parts", parts)
        object.__setattr__(self, "_size", sum(map(len, parts)))

    @property
    def parts(self) -> Sequence[bytes]:
        """The octets, in order."""
        return self._parts

    @property
    def octets(self) -> bytes:
        if len(self._parts) != 1:
            object.__setattr__(self, "_parts", (b"".join(self._parts),))
        return self._parts[0]

    @property
    def size(self) -> int:
        return self._size

    def __eq__(self, other: object) -> bool:
        return self.octets == other.octets if isinstance(other, BytesBody) else NotImplemented

    def __hash__(self) -> int:
        return hash((self.octets,))  # as the other's


@dataclass(frozen=True, slots=True)
class FileBody:
    """A view of `size` octets of an open file, from `offset`.

    The file must stay unchanged while the view is in use.  It is read with
    pread, so several views and threads may share one file.
    """

    file: BinaryIO
    offset: int
    size: int

    def pieces(self, limit: int = PIECE) -> Iterator[bytes]:
        number, position, end = self.file.fileno(), self.offset, self.offset + self.size
        while position < end:
            piece = os.pread(number, min(limit, end - position), position)
            if not piece:
                raise OSError(f"spooled body ends at octet {position}, expected {end}")
            position += len(piece)
            yield piece


def body_octets(body: Body) -> bytes:
    """The whole body as one object; for bodies known to be small, and for tests."""
    return body.octets if isinstance(body, BytesBody) else b"".join(body.pieces())


@value
class HeaderField:
    """One header field, as raw as it came.

    `value` is everything after the colon up to, not including, the CRLF that
    ends the field: leading white space and folds (CRLF and white space) stay.
    `gap` is white space some senders put before the colon.  A hidden field is
    one that the gateway itself put on top: it is delivered, but milters neither
    see nor count it, as Sendmail and Postfix do with their own Received field.
    """

    name: bytes
    value: bytes
    gap: bytes = b""
    hidden: bool = False

    @property
    def raw(self) -> bytes:
        """The field without its final CRLF."""
        return b"%b%b:%b" % (self.name, self.gap, self.value)

    def named(self, name: bytes) -> bool:
        """Whether this field bears `name`, in any case (RFC 5322 section 1.2.2)."""
        return len(self.name) == len(name) and self.name.lower() == name.lower()


class Family(enum.Enum):
    """How a client is connected; the values are the milter protocol's letters."""

    __hash__ = object.__hash__  # there is one of each, and Enum's own way takes two calls

    UNKNOWN = b"U"
    UNIX = b"L"
    INET = b"4"
    INET6 = b"6"


@value
class Client:
    """Who connected: verified host name, or its address in brackets, and the address."""

    name: bytes = b"localhost"
    family: Family = Family.UNKNOWN
    address: bytes = b""
    port: int = 0


class Direction(enum.Enum):
    """Which way a mail goes, which decides what filters do with it."""

    __hash__ = object.__hash__  # as above

    INBOUND = "inbound"
    ORIGINATING = "originating"


@value
class Recipient:
    """One RCPT: the address without angle brackets, and its ESMTP parameters as sent."""

    address: bytes
    args: tuple[bytes, ...] = ()


@value
class Envelope:
    """MAIL and RCPT.  The null sender is the empty string (RFC 5321 section 4.5.5)."""

    sender: bytes = b""
    sender_args: tuple[bytes, ...] = ()
    recipients: tuple[Recipient, ...] = ()


_NOBODY = Envelope()


@value
class Session:
    """What is known of the conversation a mail came in by.

    `macros` are Sendmail macros by name without braces: `i`, `auth_authen`.
    """

    client: Client = Client()
    helo: bytes = b""
    direction: Direction = Direction.INBOUND
    macros: Mapping[str, bytes] = field(default_factory=dict)


@value
class Mail:
    """A mail with its envelope and its session.

    `separator` is the blank line between header and body: CRLF, or nothing in
    a mail that ends with its header.
    """

    session: Session = Session()
    envelope: Envelope = _NOBODY
    headers: tuple[HeaderField, ...] = ()
    body: Body = BytesBody()
    separator: bytes = CRLF

    def head(self) -> bytes:
        """The header block with its separator, hidden fields included."""
        return join_header(self.headers) + self.separator

    def pieces(self, limit: int = PIECE) -> Iterator[bytes]:
        """The whole message, header first."""
        yield self.head()
        yield from self.body.pieces(limit)

    @property
    def size(self) -> int:
        """Length of the message in octets."""
        return len(self.head()) + self.body.size

    def visible(self) -> Iterator[HeaderField]:
        """The fields that milters see."""
        return (each for each in self.headers if not each.hidden)

    def values(self, name: bytes) -> list[bytes]:
        """The values of every visible field called `name`, top to bottom."""
        wanted = name.lower()
        return [
            each.value for each in self.headers if each.name.lower() == wanted and not each.hidden
        ]

    def with_headers(self, headers: Iterable[HeaderField]) -> Mail:
        """The same mail under other header fields."""
        return replace(self, headers=tuple(headers))


def join_header(fields: Iterable[HeaderField]) -> bytes:
    """Header fields as octets, each with its CRLF."""
    return b"".join([b"%b%b:%b\r\n" % (each.name, each.gap, each.value) for each in fields])


_FIELD = re.compile(rb"([!-9;-~]+)([ \t]*):([^\r]*)")
_WHITE = (b" ", b"\t")
_USUAL = re.compile(rb"(?:[!-9;-~]+[ \t]*:[^\r]*(?:\r\n[ \t][^\r]*)*\r\n)*(?=\r\n)")
"""A header of nothing but whole fields, to its blank line; and each of those fields."""
_USUAL_FIELD = re.compile(rb"([!-9;-~]+)([ \t]*):([^\r]*(?:\r\n[ \t][^\r]*)*)\r\n")


def split_header(block: bytes) -> tuple[tuple[HeaderField, ...], bytes, int]:
    """Split a message, or the first part of one, into fields, separator and body offset.

    The header ends at the first blank line, which is the separator, or before
    the first line that is neither a field nor a continuation (the separator is
    then empty and that line begins the body).  Linear in the length of `block`.
    """
    usual = _USUAL.match(block)
    if usual is not None:
        stop = usual.end()
        found = _USUAL_FIELD.findall(block, 0, stop)
        those = [HeaderField(name, value, gap) for name, gap, value in found]
        return tuple(those), CRLF, stop + 2
    fields: list[HeaderField] = []
    position, end = 0, len(block)
    while position < end:
        if block.startswith(CRLF, position):
            return tuple(fields), CRLF, position + 2
        match = _FIELD.match(block, position)
        if match is None:
            break
        (name, gap, value), stop = match.groups(), match.end()
        if block[stop : stop + 2] != CRLF or block[stop + 2 : stop + 3] in _WHITE:
            stop = _end_of_field(block, stop, end)  # it is folded, or the last one and cut off
            value = block[match.start(3) : stop]
        fields.append(HeaderField(name, value, gap))
        position = min(stop + 2, end)
    return tuple(fields), b"", position


def _end_of_field(block: bytes, start: int, end: int) -> int:
    """Where the CRLF that ends the field stands: the first not followed by white space."""
    at = start
    while True:
        at = block.find(CRLF, at)
        if at < 0:
            return end
        if block[at + 2 : at + 3] not in _WHITE:
            return at
        at += 2


def parse_message(octets: bytes) -> Mail:
    """A mail from the octets of a message with CRLF line ends; the envelope is empty."""
    headers, separator, offset = split_header(octets)
    return Mail(headers=headers, body=BytesBody(octets[offset:]), separator=separator)
