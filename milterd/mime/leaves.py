"""The parts of a mail as a lenient mail program finds them (RFC 2045, 2046), each with its place.

This is one reading; whether there are others, :mod:`milterd.mime.doubts` says.  Parts and depth
are bounded, and what is beyond them is said, never passed over.  Time is linear in the size of the
mail and in the depth of its parts.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from milterd.core.mail import HeaderField, split_header

MAX_DEPTH = 20
_VALUE_LIMIT = 65536
_TYPE = re.compile(rb"[ \t]*([^\s;/]+/[^\s;]+)")
_BOUNDARY = re.compile(rb';\s*boundary\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;]*))', re.I | re.S)
_SCHEMES = (b"quoted-printable", b"base64")


@dataclass(frozen=True, slots=True)
class Leaf:
    """A part that has no parts: its fields, where it begins with its header, where its content
    stands, and what it says that is.  The mail's own body, where it is no multipart, begins at -1:
    its header is the mail's."""

    fields: Sequence[HeaderField]
    begin: int
    start: int
    end: int
    declared: bytes
    encoding: bytes

    def content(self, octets: bytes) -> bytes:
        """The content decoded, as far as it can be."""
        text = octets[self.start : self.end]
        if self.encoding == b"quoted-printable":
            return binascii.a2b_qp(text)
        if self.encoding == b"base64":
            return _base64(text)
        return text


@dataclass(frozen=True, slots=True)
class Leaves:
    """The parts in order; `beyond` says what limit kept others from being found."""

    those: tuple[Leaf, ...]
    beyond: str = ""


@dataclass(frozen=True, slots=True)
class _Entity:
    fields: Sequence[HeaderField]
    begin: int
    start: int
    end: int
    depth: int


def leaves(fields: Sequence[HeaderField], octets: bytes, limit: int) -> Leaves:
    """The leaves of a mail with this header and body, at most `limit` parts in all."""
    todo = [_Entity(fields, -1, 0, len(octets), 0)]
    found: list[Leaf] = []
    count = 0
    while todo:
        each = todo.pop()
        count += 1
        if count > limit:
            return Leaves(tuple(found), f"more than {limit} parts")
        if each.depth > MAX_DEPTH:
            return Leaves(tuple(found), f"parts more than {MAX_DEPTH} deep")
        declared, boundary, encoding = _said(each.fields)
        if declared.startswith(b"multipart/") and boundary:
            inner = list(_parts(octets, each, boundary, limit - count))
            if len(inner) > limit - count:
                return Leaves(tuple(found), f"more than {limit} parts")
            todo += reversed(inner)
        elif declared in (b"message/rfc822", b"message/global") and encoding not in _SCHEMES:
            todo.append(_entity(octets, each.start, each.end, each.depth + 1))
        else:
            found.append(Leaf(each.fields, each.begin, each.start, each.end, declared, encoding))
    return Leaves(tuple(found))


def value(fields: Sequence[HeaderField], name: bytes) -> bytes:
    """The last field of that name without folds; empty if there is none.  At most 64 KiB."""
    values = [each.value for each in fields if each.named(name)]
    return values[-1][:_VALUE_LIMIT].replace(b"\r\n", b"") if values else b""


def _said(fields: Sequence[HeaderField]) -> tuple[bytes, bytes, bytes]:
    text = value(fields, b"Content-Type")
    begin, mark = _TYPE.match(text), _BOUNDARY.search(text)
    boundary = b""
    if mark is not None:
        boundary = re.sub(rb"\\(.)", rb"\1", mark[1]) if mark[1] is not None else mark[2]
    encoding = value(fields, b"Content-Transfer-Encoding").strip().lower()
    return begin[1].lower() if begin else b"text/plain", boundary, encoding


def _parts(octets: bytes, whole: _Entity, boundary: bytes, limit: int) -> Iterator[_Entity]:
    """The parts between the delimiters, one more than `limit` at most."""
    mark, opened, count, at = b"--" + boundary, -1, 0, whole.start
    while (found := octets.find(mark, at, whole.end)) >= 0:
        at = found + len(mark)
        if found != whole.start and octets[found - 1 : found] != b"\n":
            continue
        if opened >= 0:
            count += 1
            yield _entity(octets, opened, max(opened, found - 2), whole.depth + 1)
            opened = -1
        if octets[at : at + 2] == b"--" or count > limit:
            return
        line_end = octets.find(b"\n", at, whole.end)
        opened = at = whole.end if line_end < 0 else line_end + 1
    if opened >= 0:
        yield _entity(octets, opened, whole.end, whole.depth + 1)


def _entity(octets: bytes, start: int, end: int, depth: int) -> _Entity:
    blank = octets.find(b"\r\n\r\n", start, end)
    if octets[start : start + 2] == b"\r\n":
        blank = start - 2
    stop = end if blank < 0 else blank + 4
    fields, _, offset = split_header(octets[start:stop])
    return _Entity(fields, start, min(start + offset, end), end, depth)


_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_FOREIGN = bytes(each for each in range(256) if each not in _LETTERS)


def _base64(text: bytes) -> bytes:
    """As a lenient reader decodes it: what are no letters is passed over."""
    try:
        return binascii.a2b_base64(text)
    except binascii.Error:
        letters = text.translate(None, _FOREIGN)
        letters = letters[: len(letters) - (len(letters) % 4 == 1)]
        return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))
