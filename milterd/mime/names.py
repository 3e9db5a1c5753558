"""What a part may be called: every name that some mail program shows for it or saves it under.

A name stands in `filename` of Content-Disposition (RFC 2183) or in `name` of Content-Type, plain,
in pieces and percent signs (RFC 2231), or as encoded words (RFC 2047), where it may not stand and
is understood nevertheless.  All of them are given, decoded, with the octets that matter to nobody
but an attacker left in.  Linear; names and their lengths are bounded.
"""

from __future__ import annotations

import binascii
import codecs
import re
from collections.abc import Iterator, Sequence

from milterd.core.mail import HeaderField

LIMIT = 1024
"""Characters of a name."""
MOST = 50
"""Names of one part, and pieces of one name."""
_FIELDS = (b"content-disposition", b"content-type", b"content-description")
_VALUE = 65536
_PARAMETER = re.compile(
    rb"(?:^|[;\s])(file)?name(\*\d{1,4})?(\*)?[ \t]*=[ \t]*"
    rb'(?:"((?:[^"\\]|\\.){0,4096})"?|([^;\r\n]{0,4096}))',
    re.IGNORECASE | re.DOTALL,
)
_WORD = re.compile(rb"=\?([^?\s]{1,40})\?([bBqQ])\?([^?]{0,4096})\?=")
_BETWEEN = re.compile(rb"\?=[ \t\r\n]+=\?")


def names(fields: Sequence[HeaderField]) -> tuple[str, ...]:
    """The names that these fields give their part, each once."""
    found: dict[str, None] = {}
    for each in fields:
        if each.name.lower() in _FIELDS:
            found.update(dict.fromkeys(names_in(each.value[:_VALUE])))
    return tuple(found)[:MOST]


def names_in(text: bytes) -> tuple[str, ...]:
    """The names in any text: for mail whose header fields nobody can be sure of."""
    plain: list[bytes] = []
    pieces: dict[bool, list[tuple[int, bool, bytes]]] = {}
    for count, found in enumerate(_PARAMETER.finditer(text)):
        if count == MOST * 4:
            break
        quoted = found[4] is not None
        value = re.sub(rb"\\(.)", rb"\1", found[4], flags=re.S) if quoted else found[5].strip()
        if found[2] or found[3]:
            number = int(found[2][1:]) if found[2] else 0
            pieces.setdefault(found[1] is not None, []).append((number, bool(found[3]), value))
        else:
            plain.append(value)
    decoded = [*map(_joined, pieces.values()), *(name for each in plain for name in _plain(each))]
    return tuple(dict.fromkeys(each[:LIMIT] for each in decoded if each))[:MOST]


def _joined(pieces: list[tuple[int, bool, bytes]]) -> str:
    """RFC 2231: pieces by number, those with a star with percent signs; the first has the
    charset."""
    charset, octets = "utf-8", b""
    for at, (_, starred, value) in enumerate(sorted(pieces, key=lambda each: each[0])[:MOST]):
        text = value
        if starred and at == 0 and text.count(b"'") >= 2:
            name, _, text = text.split(b"'", 2)
            charset = name.decode("ascii", "replace") or charset
        octets += _percent(text) if starred else text
    return _text(octets, charset)


def _percent(text: bytes) -> bytes:
    return re.sub(rb"%([0-9A-Fa-f]{2})", lambda found: bytes([int(found[1], 16)]), text)


def _plain(value: bytes) -> Iterator[str]:
    """A name as it stands, and what its encoded words and percent signs may be taken for."""
    unfolded = value.replace(b"\r\n", b"")
    yield _text(unfolded, "utf-8")
    if b"=?" in unfolded:
        joined = _BETWEEN.sub(b"?==?", unfolded)
        yield _WORD.sub(_word, joined).decode("utf-8", "replace")
    if b"%" in unfolded:
        yield _text(_percent(unfolded), "utf-8")


def _word(found: re.Match[bytes]) -> bytes:
    charset, kind, text = found[1].partition(b"*")[0], found[2].lower(), found[3]
    if kind == b"q":
        octets = binascii.a2b_qp(text, header=True)
    else:
        letters = re.sub(rb"[^A-Za-z0-9+/]", b"", text)
        letters = letters[: len(letters) - (len(letters) % 4 == 1)]
        octets = binascii.a2b_base64(letters + b"=" * (-len(letters) % 4))
    return _text(octets, charset.decode("ascii", "replace")).encode("utf-8", "replace")


def _text(octets: bytes, charset: str) -> str:
    """Octets as text; where the charset is none, or no charset for text, as latin-1."""
    try:
        if not codecs.lookup(charset)._is_text_encoding:
            charset = "latin-1"
        return octets.decode(charset)
    except (LookupError, ValueError):
        return octets.decode("utf-8", "replace") if charset == "utf-8" else octets.decode("latin-1")
