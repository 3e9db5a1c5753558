"""8-bit mail for a peer that takes 7 bits: converted, or found impossible (RFC 6152 section 3).

Only leaves that need it are encoded, text as quoted-printable where that is shorter, all
else as base64; their Content-Transfer-Encoding and that of the parts around them is
rewritten, and every other octet stays.  What cannot be converted raises :class:`Unclear`
before anything was sent: 8-bit header fields, what is signed or encrypted, structures
that are not sure.  A DKIM signature over the body does not survive it (nor with Postfix).

The message is read twice: to survey it, and to send it.  Memory does not grow with it.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from milterd.core.mail import HeaderField, join_header
from milterd.core.spooled import long_lines
from smtpgw.delivery.emit import LineEnds
from smtpgw.delivery.mime import Between, Content, End, Event, Header, Walker
from smtpgw.delivery.parts import IDENTITY, Part, Unclear

QUOTED, BASE64, SEVEN = b"quoted-printable", b"base64", b"7bit"
LINE_LIMIT = 998
"""Octets of a line in any encoding but binary (RFC 5321 section 4.5.3.1.6)."""
_HIGH = bytes(range(128))
_LONG_LINE = 4096
_GLOBAL = (b"global", b"global-headers", b"global-delivery-status",
           b"global-disposition-notification")  # fmt: skip

Plan = Mapping[int, bytes]
"""The new encoding of each part that gets one, by number."""


def _events(pieces: Iterable[bytes]) -> Iterator[Event]:
    ends, walker = LineEnds(), Walker()
    for each in pieces:
        yield from walker.feed(ends.feed(each))
    yield from walker.feed(ends.finish())
    yield from walker.finish()


@dataclass(slots=True)
class _Seen:
    """What a leaf holds.  `odd` counts octets that 7bit does not allow (RFC 2045 2.7)."""

    size: int = 0
    odd: int = 0
    long: bool = False
    column: int = 0

    def add(self, octets: bytes) -> None:
        self.size += len(octets)
        if not octets.isascii():
            self.odd += len(octets.translate(None, _HIGH))
        self.odd += octets.count(b"\0")
        if not self.long:
            self.long, self.column = long_lines(octets, LINE_LIMIT, self.column)


def survey(pieces: Iterable[bytes]) -> Plan:
    """What to encode, and how.  Raises :class:`Unclear`, with words for the sender."""
    plan: dict[int, bytes] = {}
    seen = _Seen()
    for event in _events(pieces):
        match event:
            case Header(part):
                seen = _Seen()
                if not part.block.isascii():
                    raise Unclear("a header field that is 8-bit")
            case Content(_, octets):
                seen.add(octets)
            case End(part):
                encoding = _choose(part, seen)
                if encoding is not None:
                    plan[part.number] = encoding
                    _around(part.parent, plan)
            case Between(_, octets):
                if not octets.isascii():
                    raise Unclear("8-bit text that belongs to no part")
    return plan


def convertible(message: bytes) -> bool:
    """Whether a message can go to a peer that takes 7 bits."""
    try:
        survey([message])
    except Unclear:
        return False
    return True


def _choose(part: Part, seen: _Seen) -> bytes | None:
    if not seen.odd and (not seen.long or part.sealed):
        return None
    if part.sealed:
        raise Unclear("an 8-bit part that is signed or encrypted")
    kind = b"%b/%b" % (part.major, part.minor)
    if part.encoding not in IDENTITY:
        if not seen.odd:
            return None
        raise Unclear("a part that is 8-bit, though it says that it is encoded")
    if part.major == b"message" and part.minor not in _GLOBAL:
        raise Unclear(f"an 8-bit part of a type that is never encoded: {kind.decode()}")
    # Three octets for one, or four for three.
    return QUOTED if part.major == b"text" and 6 * seen.odd <= seen.size else BASE64


def _around(part: Part | None, plan: dict[int, bytes]) -> None:
    """What is around an encoded leaf is not 8-bit any more."""
    while part is not None:
        if part.encoding != SEVEN:
            plan[part.number] = SEVEN
        part = part.parent


def convert(pieces: Iterable[bytes], plan: Plan) -> Iterator[bytes]:
    """The same message by the plan of :func:`survey`: 7-bit, and what was encoded in lines
    of at most 76 octets."""
    encoder: Quoted | Base64 | None = None
    for event in _events(pieces):
        match event:
            case Header(part):
                encoding = plan.get(part.number)
                encoder = _ENCODERS[encoding]() if encoding in _ENCODERS else None
                yield part.block if encoding is None else _header(part, encoding)
            case Content(_, octets):
                yield octets if encoder is None else encoder.feed(octets)
            case End():
                if encoder is not None:
                    yield encoder.finish()
                encoder = None
            case Between(_, octets):
                yield octets


def _header(part: Part, encoding: bytes) -> bytes:
    """The header block with its new Content-Transfer-Encoding, at the old one's place."""
    name = b"Content-Transfer-Encoding"
    ours = HeaderField(name, b" " + encoding)
    fields = [ours if each.named(name) else each for each in part.fields]
    if ours not in fields:
        if part.message and not any(each.named(b"MIME-Version") for each in fields):
            fields.append(HeaderField(b"MIME-Version", b" 1.0"))
        if not any(each.named(b"Content-Type") for each in fields):
            # RFC 1428: what the octets mean was never said.
            fields.append(HeaderField(b"Content-Type", b" text/plain; charset=unknown-8bit"))
        fields.append(ours)
    return join_header(fields) + b"\r\n"


class Quoted:
    """quoted-printable (RFC 2045 section 6.7) of text with CRLF line ends."""

    def __init__(self) -> None:
        self._line = b""

    def feed(self, octets: bytes) -> bytes:
        data = self._line + octets
        end = data.rfind(b"\r\n") + 2 if b"\r\n" in data else 0
        out, self._line = _quoted(data[:end]), data[end:]
        if len(self._line) > _LONG_LINE:
            out += self.finish() + b"=\r\n"
        return out

    def finish(self) -> bytes:
        line, self._line = self._line, b""
        # binascii breaks lines as the first one it sees is ended.
        return _quoted(line + b"\r\n")[:-2] if line else b""


def _quoted(lines: bytes) -> bytes:
    return binascii.b2a_qp(lines, quotetabs=False, istext=True, header=False)


class Base64:
    """base64 (RFC 2045 section 6.8), without a CRLF after the last line."""

    def __init__(self) -> None:
        self._rest = b""
        self._between = b""

    def feed(self, octets: bytes) -> bytes:
        data = self._rest + octets
        end = len(data) - len(data) % 57
        self._rest = data[end:]
        return self._lines(data[:end])

    def finish(self) -> bytes:
        rest, self._rest = self._rest, b""
        return self._lines(rest)

    def _lines(self, data: bytes) -> bytes:
        if not data:
            return b""
        encode = binascii.b2a_base64
        lines = [encode(data[at : at + 57], newline=False) for at in range(0, len(data), 57)]
        out = self._between + b"\r\n".join(lines)
        self._between = b"\r\n"
        return out


_ENCODERS: Mapping[bytes | None, type[Quoted | Base64]] = {QUOTED: Quoted, BASE64: Base64}
