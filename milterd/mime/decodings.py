"""What a body may hold for some reader: every decoding that any structure could make of it.

For mail with :mod:`doubts <milterd.mime.doubts>`.  No structure is believed here.  Whatever a
reader takes for boundaries and encodings, an attachment stands in the body as lines of base64, as
quoted-printable, as uuencoded or yEnc lines, or as it is behind some part's header.  So all runs of
lines that could be base64 are decoded, at each of the four places a group of letters can begin;
all of the text is decoded as quoted-printable; and so on for what comes out, to a depth.

The result is a superset of what any mail program extracts, bounded in number and in octets.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass

_RUN = re.compile(rb"(?:^[ \t]*[0-9A-Za-z+/=][^\s]*[ \t]*\n?)+", re.MULTILINE)
"""Lines of one word each: what base64 looks like, and no prose."""
_FOREIGN = bytes(sorted(set(range(256)) - set(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/=")))  # fmt: skip
_SHARE = 0.7
"""How much of a run must be letters of base64."""
_LEAST = 16
"""Octets below which nothing is a file that harms."""
_LEAST_RUN = 44
"""Letters of base64 below which a run is words and addresses, not a file."""
_ESCAPES = re.compile(rb"=(?:[0-9A-Fa-f]{2}|[ \t]*\n)")
_LOOSE_BREAK = re.compile(rb"=[ \t]+\n")
_UU = re.compile(rb"^begin [0-7]{3,4} [^\n]*\n", re.MULTILINE)
_YENC = re.compile(rb"^=ybegin [^\n]*\n(?:=ypart [^\n]*\n)?", re.MULTILINE)
_BLANK = re.compile(rb"\n[ \t]*\n")
_HEAD = re.compile(rb"^(?:--|content-[a-z-]+[ \t]*:|mime-version[ \t]*:)", re.MULTILINE | re.I)
_STRUCTURE = re.compile(rb"^(?:content-[a-z-]+|mime-version)[ \t]*:", re.MULTILINE)
_YENC_SHIFT = bytes((each - 42) % 256 for each in range(256))
_NUL = b"\0"


class TooMuch(Exception):  # noqa: N818 - what it is
    """More decodings, or more octets of them, than are allowed."""


@dataclass(slots=True)
class Allowance:
    """How many decodings there may be, and octets in all of them."""

    number: int = 2000
    octets: int = 104_857_600

    def take(self, found: bytes) -> bytes:
        """Count a decoding.  Raises TooMuch."""
        self.number -= 1
        self.octets -= len(found)
        if self.number < 0 or self.octets < 0:
            raise TooMuch("more readings than are looked at")
        return found


def decodings(body: bytes, allowance: Allowance, depth: int = 3) -> Iterator[bytes]:
    """Every decoding once, as octets that a scanner may take for a file.  Raises TooMuch."""
    seen: set[int] = set()
    todo: list[tuple[bytes, int]] = [(body, depth)]
    if len(body) >= _LEAST:
        yield allowance.take(body)
    while todo:
        text, left = todo.pop()
        for found in _decoded(_lines(text)):
            if len(found) < _LEAST or hash(found) in seen:
                continue
            seen.add(hash(found))
            yield allowance.take(found)
            if left > 1 and _STRUCTURE.search(found[:65536].lower()):
                todo.append((found, left - 1))


def _lines(text: bytes) -> bytes:
    """The text with line ends of one kind, and without what some readers do not see."""
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(_NUL, b"")


def _decoded(text: bytes) -> Iterator[bytes]:
    yield from _after_headers(text)
    yield from _runs(text)
    yield from map(_uudecoded, _blocks(_UU, b"\nend", text))
    yield from map(_yenc, _blocks(_YENC, b"\n=yend", text))
    if _ESCAPES.search(text):
        plain = binascii.a2b_qp(_LOOSE_BREAK.sub(b"=\n", text))
        yield plain
        plain = _lines(plain)
        yield from _after_headers(plain)
        yield from _runs(plain)


def _after_headers(text: bytes) -> Iterator[bytes]:
    """What a part would be that has no encoding: from the blank line behind what may be a header,
    or a delimiter, to the next delimiter."""
    before = 0
    for blank in _BLANK.finditer(text):
        block, before = text[before : blank.start()], blank.end() - 1
        if _HEAD.search(block):
            end = text.find(b"\n--", blank.end() - 1)
            yield text[blank.end() : end if end >= 0 else len(text)]


def _blocks(begin: re.Pattern[bytes], end: bytes, text: bytes) -> Iterator[bytes]:
    at = 0
    while (found := begin.search(text, at)) is not None:
        stop = text.find(end, found.end() - 1)
        at = stop if stop >= 0 else len(text)
        yield text[found.end() : at]


def _runs(text: bytes) -> Iterator[bytes]:
    for run in _RUN.finditer(text):
        lines = run[0]
        letters = lines.translate(None, _FOREIGN)
        if len(letters) >= _LEAST_RUN and len(letters) >= _SHARE * len(
            lines.translate(None, b" \t\n")
        ):
            yield from _base64(letters)


def _base64(letters: bytes) -> Iterator[bytes]:
    """All that these letters can be: with padding as an end, and without; begun at each place."""
    whole = letters.replace(b"=", b"")
    for start in range(4):
        yield _groups(whole[start:])
    if b"=" in letters.rstrip(b"="):
        ended = [each for each in re.split(rb"=+", letters) if each]
        yield b"".join(map(_groups, ended))
        yield from (_groups(each) for each in ended)


def _groups(letters: bytes) -> bytes:
    rest = len(letters) % 4
    if rest == 1:
        letters = letters[:-1]
    return binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))


def _uudecoded(lines: bytes) -> bytes:
    found = []
    for line in lines.splitlines():
        try:
            found.append(binascii.a2b_uu(line))
        except binascii.Error:  # what some decoders mend: a count that is too large
            size = ((line[0] - 32) & 63) * 4 // 3 + 5 if line else 0
            found.append(_uu_line(line[:size]))
    return b"".join(found)


def _uu_line(line: bytes) -> bytes:
    try:
        return binascii.a2b_uu(line)
    except binascii.Error:
        return b""


def _yenc(lines: bytes) -> bytes:
    plain = lines.translate(None, b"\r\n")
    parts = plain.split(b"=")
    out = [parts[0].translate(_YENC_SHIFT)]
    for each in parts[1:]:
        out.append(bytes([(each[0] - 64 - 42) % 256]) if each else b"")
        out.append(each[1:].translate(_YENC_SHIFT))
    return b"".join(out)
