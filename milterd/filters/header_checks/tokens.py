"""Header tokens as Postfix reads them in Content-Type (header_token.c).  Pure, linear."""

from __future__ import annotations

import re
from collections.abc import Iterator

_SPECIALS = b'()<>@,;:\\"/[]?='
_ITEM = re.compile(
    rb"""[ \t\r\n]+|;|\(|"|[()<>@,:\\/\[\]?=]|[\x00-\x1f\x7f]"""
    rb"""|[^ \t\r\n()<>@,;:\\"/\[\]?=\x00-\x1f\x7f]+"""
)
_COMMENT = re.compile(rb"[()]|\\.?|[^()\\]+", re.DOTALL)
_QUOTED = re.compile(rb'"|\\.?|[^"\\]+', re.DOTALL)
_UNFOLD = re.compile(rb"[ \t\r]*\n")
TOKENS = 3
"""Of each item that many are kept: more say nothing about structure."""

Token = tuple[str, bytes]
"""Kind ("token", "quoted" or "special") and text."""


def items(text: bytes) -> Iterator[tuple[Token, ...]]:
    """The items between semicolons of a field's value, the first tokens of each."""
    found: list[Token] = []
    at, open_item = 0, False
    while at < len(text):
        match = _ITEM.match(text, at)
        if match is None:
            raise AssertionError("the pattern covers every octet")
        word, at = match[0], match.end()
        token: Token | None = None
        open_item = True
        if word == b";":
            yield tuple(found)
            found, open_item = [], False
        elif word == b"(":
            at = _after_comment(text, at)
        elif word == b'"':
            value, at = _quoted(text, at)
            token = ("quoted", value)
        elif word[:1] in b" \t\r\n":
            continue
        elif word in _SPECIALS or word[0] < 32 or word[0] == 127:
            token = ("special", word)
        else:
            token = ("token", word)
        if token is not None and len(found) < TOKENS:
            found.append(token)
    if found and open_item:
        yield tuple(found)


def _after_comment(text: bytes, at: int) -> int:
    depth = 1
    while at < len(text):
        match = _COMMENT.match(text, at)
        if match is None:
            return len(text)
        at = match.end()
        depth += (match[0] == b"(") - (match[0] == b")")
        if not depth:
            return at
    return at


def _quoted(text: bytes, at: int) -> tuple[bytes, int]:
    """What a quoted string says, folds taken out, and where it ends."""
    parts: list[bytes] = []
    while at < len(text):
        match = _QUOTED.match(text, at)
        if match is None:
            return b"".join(parts), len(text)
        at = match.end()
        if match[0] == b'"':
            break
        parts.append(match[0][1:] if match[0][:1] == b"\\" else _UNFOLD.sub(b"", match[0]))
    return b"".join(parts), at
