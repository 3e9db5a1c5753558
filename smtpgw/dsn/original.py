"""The third part: the mail a notification is about, or its header (RFC 6522, RFC 6533)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from smtpgw.dsn import envelope
from smtpgw.dsn.report import Report
from smtpgw.dsn.text import LINE, is_utf8, quoted_printable
from smtpgw.queue.store import Content


@dataclass(frozen=True, slots=True)
class Part:
    """A body part: its type, its transfer encoding ("" for 7bit), its octets."""

    kind: bytes
    encoding: bytes
    octets: bytes


Movable = Callable[[bytes], bool]
"""Whether an 8-bit message can be converted for a peer that takes 7 bits."""


def anything(_message: bytes) -> bool:
    """Every message can."""
    return True


def original(report: Report, *, full: bool, room: int, movable: Movable = anything) -> Part:
    """The message if it may come along and fits `room` octets, else its header as far as it does.

    A message that is no lines of at most 998 octets ended by CRLF, or holds NUL, may not
    stand in a mail unencoded, and a message is not to be encoded: its header comes back.  So it
    does where the message is 8-bit and not `movable`: for a peer that takes 7 bits the
    notification could not be converted, and of a notification nobody is notified.
    """
    declared = envelope.parameter(report.sender_args, b"SMTPUTF8") is not None
    head = _header(report.content)
    wide = declared and not head.isascii() and is_utf8(head)
    if full and report.content.size <= room:
        octets = b"".join(report.content.pieces())
        if _well_formed(octets) and (wide or octets.isascii() or movable(octets)):
            return Part(b"message/global" if wide else b"message/rfc822", _eight(octets), octets)
    return _header_part(_cut(head, room), wide)


def message_id(content: Content) -> bytes:
    """The original's Message-ID with its brackets, if it has a usable one."""
    for field in _fields(_header(content)):
        name, _, value = field.partition(b":")
        if name.strip(b" \t").lower() == b"message-id":
            return _id(value)
    return b""


def _id(value: bytes) -> bytes:
    found = value.strip(b" \t\r\n")
    inner = found[1:-1]
    usable = (
        found == b"<%b>" % inner
        and b"@" in inner
        and len(inner) < 250
        and all(0x21 <= each <= 0x7E and each not in b'<>()"\\,;' for each in inner)
    )
    return found if usable else b""


def _header(content: Content) -> bytes:
    """The header block without the blank line."""
    return content.head.removesuffix(b"\r\n\r\n").removesuffix(b"\r\n") + b"\r\n"


def _fields(header: bytes) -> list[bytes]:
    fields: list[bytes] = []
    for line in header.split(b"\r\n"):
        if line[:1] in (b" ", b"\t") and fields:
            fields[-1] += b"\r\n" + line
        elif line:
            fields.append(line)
    return fields


def _cut(header: bytes, room: int) -> bytes:
    """Whole fields from the top, `room` octets at most."""
    if len(header) <= room:
        return header
    at = room
    while (at := header.rfind(b"\r\n", 0, max(at, 0))) >= 0:
        if header[at + 2 : at + 3] not in (b" ", b"\t"):
            return header[: at + 2]
    return b""


def _header_part(header: bytes, wide: bool) -> Part:
    if _well_formed(header) and (wide or header.isascii()):
        kind = b"text/rfc822-headers" if header.isascii() else b"message/global-headers"
        return Part(kind, _eight(header), header)
    return Part(b"text/rfc822-headers", b"quoted-printable", quoted_printable(header))


def _eight(octets: bytes) -> bytes:
    return b"" if octets.isascii() else b"8bit"


def _well_formed(octets: bytes) -> bool:
    lines = octets.split(b"\r\n")
    bare = b"\0" in octets or any(b"\r" in each or b"\n" in each for each in lines)
    return not bare and max(map(len, lines)) <= LINE
