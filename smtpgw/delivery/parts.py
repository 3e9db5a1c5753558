"""A part of a MIME message, by its header block (RFC 2045, RFC 2046).

What could be read in two ways raises :class:`Unclear`: a message is rather left alone
than broken.  Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from milterd.core.mail import HeaderField, split_header

BOUNDARY_LIMIT = 2048
"""Octets of a boundary (Postfix's mime_boundary_length_limit); RFC 2046 allows 70."""
IDENTITY = (b"7bit", b"8bit", b"binary")
"""Encodings that encode nothing."""

_WORD = rb"[!#$%&'*+.^_`{|}~0-9A-Za-z-]+"
_TYPE = re.compile(rb"\s*(" + _WORD + rb")/(" + _WORD + rb")(?=[\s;]|\Z)")
_PARAMETER = re.compile(rb';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))\s*', re.DOTALL)


class Unclear(Exception):  # noqa: N818 - a finding about the message, in words for its sender
    """The structure is beyond a limit, or not sure."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """A part of the message: the whole is number 0.  `encoding` is in small letters.

    `composite` has parts of its own; in a `sealed` one every octet is signed or encrypted.
    `block` is its header as it stands there, with the blank line if there is one.
    """

    number: int
    parent: Part | None
    block: bytes
    fields: tuple[HeaderField, ...]
    major: bytes
    minor: bytes
    encoding: bytes
    composite: bool
    sealed: bool
    depth: int
    boundary: bytes = b""

    @property
    def message(self) -> bool:
        """Whether its header is that of a mail, not of a part of a mail."""
        return self.parent is None or self.parent.major == b"message"


def read_part(number: int, parent: Part | None, block: bytes, depth: int) -> Part:
    """A part from its header block.  Raises :class:`Unclear`."""
    fields, _, offset = split_header(block)
    if offset != len(block):
        raise Unclear("a header that is none")
    value = _only(fields, b"Content-Type")
    encoding = (_only(fields, b"Content-Transfer-Encoding") or b"7bit").lower()
    in_digest = parent is not None and (parent.major, parent.minor) == (b"multipart", b"digest")
    major, minor, boundary = b"text", b"plain", b""
    if value is None and in_digest:
        major, minor = b"message", b"rfc822"
    elif value is not None:
        major, minor, boundary = content_type(value)
    composite = major == b"multipart"
    if composite and encoding not in IDENTITY:
        raise Unclear("a multipart that is encoded itself")
    if (major, minor) == (b"message", b"rfc822"):
        composite = encoding in IDENTITY
    sealed = major == b"multipart" and minor in (b"signed", b"encrypted")
    sealed = sealed or (parent is not None and parent.sealed)
    return Part(
        number, parent, block, fields, major, minor, encoding, composite, sealed, depth, boundary
    )  # fmt: skip


def _only(fields: tuple[HeaderField, ...], name: bytes) -> bytes | None:
    """The value of a field that may stand there once, without comments and folds."""
    values = [each.value for each in fields if each.named(name)]
    if len(values) > 1:
        raise Unclear(f"more than one {name.decode()} field")
    return uncommented(values[0]).strip() if values else None


def uncommented(value: bytes) -> bytes:
    """A structured field without its comments (RFC 5322 section 3.2.2), unfolded."""
    value = value.replace(b"\r\n", b"")
    if b"(" not in value:
        return value
    kept, depth, quoted, at = bytearray(), 0, False, 0
    while at < len(value):
        octets = value[at : at + 2] if value[at] == 0x5C else value[at : at + 1]
        at += len(octets)
        if octets == b'"' and not depth:
            quoted = not quoted
        if octets == b"(" and not quoted:
            depth += 1
        elif octets == b")" and depth and not quoted:
            depth -= 1
        elif not depth:
            kept += octets
    if depth:
        raise Unclear("a comment that does not end")
    return bytes(kept)


def content_type(value: bytes) -> tuple[bytes, bytes, bytes]:
    """Type and subtype in small letters, and a multipart's boundary.  What is no type counts
    as application/octet-stream.  Raises :class:`Unclear`."""
    match = _TYPE.match(value)
    if match is None:
        if value.lstrip().lower().startswith((b"multipart", b"message")):
            raise Unclear("a Content-Type that cannot be read")
        return b"application", b"octet-stream", b""
    major, minor = match[1].lower(), match[2].lower()
    if major != b"multipart":
        return major, minor, b""
    found = [
        (quoted, token)
        for name, quoted, token in _parameters(value[match.end() :].strip())
        if name.lower().partition(b"*")[0] == b"boundary" and _plain(name)
    ]
    if len(found) != 1:
        raise Unclear("a multipart without a boundary, or with several")
    quoted, token = found[0]
    boundary = (re.sub(rb"\\(.)", rb"\1", quoted, flags=re.DOTALL) or token).rstrip()
    if not 0 < len(boundary) <= BOUNDARY_LIMIT or not boundary.isascii():
        raise Unclear("a boundary that is none")
    return major, minor, boundary


def _plain(name: bytes) -> bool:
    if b"*" in name:
        raise Unclear("a boundary in pieces (RFC 2231)")
    return True


def _parameters(text: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    at = 0
    while text[at:].strip(b"; \t"):
        match = _PARAMETER.match(text, at)
        if match is None:
            raise Unclear("a Content-Type that cannot be read")
        yield match[1], match[2] or b"", match[3] or b""
        at = match.end()
