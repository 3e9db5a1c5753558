"""Whether every reader of a mail finds the same parts in it (RFC 2045, 2046).

Where a mail breaks a rule of MIME, one program sees an attachment and another sees text: a
scanner may be the one that sees text.  :func:`doubts` names what is not as the rules want it; a
mail without doubts has one reading only.  It looks at structure, never at meaning, and costs time
linear in the size of the mail and in the depth of its parts.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from mmap import mmap

from milterd.core.mail import HeaderField, split_header

Octets = bytes | mmap
"""A mail in memory, or a file of it."""
MAX_DEPTH = 20
"""Parts within parts; deeper ones are a doubt of their own."""
MAX_PARTS = 1000
"""Parts of a mail; more are a doubt of their own."""
MAX_DOUBTS = 20
"""Doubts that are named; one is enough to act on."""

_TOKEN = rb"[!#$%&'*+.^_`{|}~0-9A-Za-z-]+"
_QUOTED = rb'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f-\xff]|\\[ -~])*"'
_PARAMETER = re.compile(rb"[ \t]*;[ \t]*(" + _TOKEN + rb")=(" + _TOKEN + rb"|" + _QUOTED + rb")")
_TYPE = re.compile(rb"[ \t]*(" + _TOKEN + rb")/(" + _TOKEN + rb")")
_BOUNDARY = re.compile(rb"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_ENCODINGS = frozenset({b"7bit", b"8bit", b"binary", b"quoted-printable", b"base64"})
_PLAIN = frozenset({b"7bit", b"8bit", b"binary"})
_BASE64 = re.compile(rb"[0-9A-Za-z+/]*={0,2}")
_NOT_QUOTED = re.compile(rb"=(?![0-9A-F]{2}|\r\n)|=[0-9A-F]{2}[ \t]+\r\n\Z")
_SHORTEST_LINE = 16
_OTHER_CODES = re.compile(
    rb"^(?:begin(?:-base64)? [0-7]{3,4} |=ybegin |\(This file must be converted with BinHex)",
    re.MULTILINE,
)
_HIDDEN = re.compile(rb"^(?:Content-[A-Za-z-]+[ \t]*:|[0-9A-Za-z+/]{40,}={0,2}\r?$)", re.MULTILINE)
_VERSION = b"mime-version"
_ONE_OF_EACH = frozenset({
    b"content-type", b"content-transfer-encoding", b"content-disposition", _VERSION,
})  # fmt: skip
_Named = tuple[tuple[bytes, bytes, bytes], ...]
COMMON = 256
"""Octets of the values of a header that is read only once; longer ones are read each time."""
REMEMBERED = 256


@dataclass(frozen=True, slots=True)
class _Part:
    """An entity that is still to be looked at: its header, and where its body stands."""

    fields: Sequence[HeaderField]
    start: int
    end: int
    depth: int


@dataclass(frozen=True, slots=True)
class _Kind:
    """What an entity says of itself."""

    major: bytes = b"text"
    minor: bytes = b"plain"
    boundary: bytes = b""
    encoding: bytes = b"7bit"


def doubts(fields: Sequence[HeaderField], octets: Octets, start: int = 0) -> tuple[str, ...]:
    """What makes more than one reading possible, each in a few words; empty where nothing does.
    The body is `octets` from `start` on."""
    return tuple(islice(dict.fromkeys(_walk(fields, octets, start)), MAX_DOUBTS))


def has_structure(fields: Sequence[HeaderField]) -> bool:
    """Whether a mail with this header may have parts: of others only octets are looked for."""
    kind, _ = _read(_of_mime(fields))
    return kind.major in (b"multipart", b"message")


def _walk(fields: Sequence[HeaderField], body: Octets, start: int) -> Iterator[str]:
    todo = [_Part(fields, start, len(body), 0)]
    count = 0
    while todo:
        part = todo.pop()
        count += 1
        if count > MAX_PARTS:
            yield f"more than {MAX_PARTS} parts"
            return
        found = _of_mime(part.fields)
        if count == 1 and _lacks_version(found):
            yield "no MIME-Version"
        kind, wrong = _read(found)
        yield from wrong
        if part.depth >= MAX_DEPTH:
            yield f"parts more than {MAX_DEPTH} deep"
        elif kind.major == b"multipart":
            yield from _multipart(part, kind, body, todo)
        elif kind.major == b"message":
            yield from _message(part, kind, body, todo)
        else:
            yield from _leaf(kind, body[part.start : part.end])


def _of_mime(fields: Sequence[HeaderField]) -> _Named:
    """The fields that say how to read a body: name in small letters, white space before the
    colon, value.  Most headers have few, and nothing else is looked at."""
    return tuple(
        [
            (name, each.gap, each.value)
            for each in fields
            if (name := each.name.lower())[:8] == b"content-" or name == _VERSION
        ]
    )


def _read(fields: _Named) -> tuple[_Kind, tuple[str, ...]]:
    """What these fields say, and what is wrong with them.  Most mails say the same few things."""
    if sum([len(value) for _, _, value in fields]) > COMMON:
        return _read_anew(fields)
    return read_again(fields)


def _read_anew(fields: _Named) -> tuple[_Kind, tuple[str, ...]]:
    kind, wrong = _kind(fields)
    return kind, (*_header(fields), *wrong)


read_again = functools.lru_cache(REMEMBERED)(_read_anew)


def _lacks_version(fields: _Named) -> bool:
    names = [name for name, _, _ in fields]
    return b"content-type" in names and _VERSION not in names


def _header(fields: _Named) -> Iterator[str]:
    seen: set[bytes] = set()
    for name, gap, value in fields:
        if gap:
            yield "white space before a colon"
        if name not in _ONE_OF_EACH:
            continue
        shown = name.decode("ascii").title().replace("Mime", "MIME")
        if name in seen:
            yield f"two fields {shown}"
        seen.add(name)
        if b"\0" in value or not value.isascii():
            yield f"octets in {shown} that it may not have"


def _kind(fields: _Named) -> tuple[_Kind, list[str]]:
    """What the last field of each name says, and what is wrong with it."""
    wrong: list[str] = []
    major, minor, boundary, encoding = b"text", b"plain", b"", b"7bit"
    for name, _, value in fields:
        if name == b"content-type":
            found = _type(value.replace(b"\r\n", b""), wrong)
            if found is not None:
                major, minor, boundary = found
        elif name == b"content-transfer-encoding":
            encoding = value.replace(b"\r\n", b"").strip(b" \t").lower()
            if encoding not in _ENCODINGS:
                wrong.append("an encoding that is none")
    if encoding not in _PLAIN and major in (b"multipart", b"message"):
        wrong.append(f"an encoded {major.decode('ascii')}")
    return _Kind(major, minor, boundary, encoding), wrong


def _type(value: bytes, wrong: list[str]) -> tuple[bytes, bytes, bytes] | None:
    begin = _TYPE.match(value)
    if begin is None:
        wrong.append("a Content-Type that is none")
        return None
    at, seen, boundary = begin.end(), set[bytes](), b""
    while found := _PARAMETER.match(value, at):
        at, name = found.end(), found[1].lower()
        if name in seen:
            wrong.append("a parameter of Content-Type twice")
        seen.add(name)
        if name.partition(b"*")[0] == b"boundary":
            boundary = _boundary(name, found[2], wrong)
    if value[at:].strip(b" \t;"):
        wrong.append("more in Content-Type than its parameters")
    if b"=?" in value:
        wrong.append("an encoded word in Content-Type")
    if begin[1].lower() == b"multipart" and not boundary:
        wrong.append("a multipart without boundary")
    return begin[1].lower(), begin[2].lower(), boundary


def _boundary(name: bytes, value: bytes, wrong: list[str]) -> bytes:
    if value.startswith(b'"'):
        if b"\\" in value:
            wrong.append("a boundary with backslashes")
        value = value[1:-1]
    if name != b"boundary" or _BOUNDARY.fullmatch(value) is None:
        wrong.append("a boundary that may not be one")
        return b""
    return value


def _multipart(part: _Part, kind: _Kind, body: Octets, todo: list[_Part]) -> Iterator[str]:
    if not kind.boundary:
        return  # named already
    pieces: list[tuple[int, int]] = []
    closed, opened, after = False, -1, part.start
    for start, line_end, rest in _delimiters(part, kind.boundary, body):
        if rest.strip(b" \t") not in (b"", b"--") or closed:
            yield "a line that is a boundary for some readers only"
            continue
        if opened >= 0:
            pieces.append((opened, max(opened, start)))
        elif _HIDDEN.search(body, part.start, start):
            yield "content before the first part"
        closed, opened, after = rest.startswith(b"--"), line_end, line_end
        if closed:
            opened = -1
    if not closed:
        yield "a multipart without its end"
        if opened >= 0:
            pieces.append((opened, part.end))
    elif _HIDDEN.search(body, after, part.end):
        yield "content after the last part"
    if len(todo) + len(pieces) > MAX_PARTS:
        yield f"more than {MAX_PARTS} parts"
        return
    for start, end in pieces:
        yield from _entity(body, start, end, part.depth + 1, todo)


def _delimiters(part: _Part, boundary: bytes, body: Octets) -> Iterator[tuple[int, int, bytes]]:
    """Each line that begins with the boundary: where the content before it ends, where the next
    line begins, and what stands behind the boundary."""
    mark, at = b"--" + boundary, part.start
    while (found := body.find(mark, at, part.end)) >= 0:
        line_end = body.find(b"\n", found, part.end)
        line_end = part.end if line_end < 0 else line_end + 1
        at = found + len(mark)
        if found == part.start or body[found - 1 : found] == b"\n":
            yield max(part.start, found - 2), line_end, body[at:line_end].rstrip(b"\r\n")
            at = line_end


def _entity(body: Octets, start: int, end: int, depth: int, todo: list[_Part]) -> Iterator[str]:
    """An entity with a header of its own within the body."""
    limit = body.find(b"\r\n\r\n", start, end)
    if body[start : start + 2] == b"\r\n":
        limit = start - 2  # no header at all
    stop = end if limit < 0 else limit + 4
    fields, separator, offset = split_header(body[start:stop])
    if not separator and start + offset < end:
        yield "a part's header that is none"
    todo.append(_Part(fields, min(start + offset, end), end, depth))


def _message(part: _Part, kind: _Kind, body: Octets, todo: list[_Part]) -> Iterator[str]:
    if kind.minor in (b"partial", b"external-body"):
        yield f"a message/{kind.minor.decode('ascii')}"
    elif kind.minor in (b"rfc822", b"global", b"news"):
        yield from _entity(body, part.start, part.end, part.depth + 1, todo)


def _leaf(kind: _Kind, content: bytes) -> Iterator[str]:
    if kind.encoding == b"base64":
        plain = content.translate(None, b"\r\n")
        if len(plain) % 4 or _BASE64.fullmatch(plain) is None:
            yield "base64 that is not as it should be"
        elif content.count(b"\n") > len(plain) / _SHORTEST_LINE + 4:
            yield "base64 in lines of a few letters"
    elif kind.encoding == b"quoted-printable":
        if _NOT_QUOTED.search(content):
            yield "quoted-printable that is not as it should be"
    elif _may_be_coded(content) and _OTHER_CODES.search(content):
        yield "a file in an encoding that is not MIME's"
    if b"\0" in content:
        yield "NUL octets"


def _may_be_coded(content: bytes) -> bool:
    """Whether there are words that such a file's first line has: looking for them costs a tenth of
    what the pattern does, and for one letter next to nothing."""
    if b"(" in content and b"(This file must be" in content:
        return True
    return b"begin" in content and (
        b"\nbegin" in content or b"=ybegin" in content or content.startswith(b"begin")
    )
