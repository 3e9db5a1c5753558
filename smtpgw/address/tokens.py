"""The tokens of an address list (RFC 5322 section 3.2).  Pure, and linear in the length."""

from __future__ import annotations

import re
from collections.abc import Iterator

Token = tuple[str, int, int]
"""Kind, start and end: `quoted`, `open` (a quoted string that does not end), `literal`, `space`,
`comment`, `text`, `mark` (one of `,:;<>` and whatever stands alone)."""

_TOKEN = re.compile(
    rb'(?P<quoted>"(?:[^"\\]|\\.)*(?P<end>")?\\?)'
    rb"|(?P<literal>\[[^\[\]]*\])"
    rb"|(?P<space>[ \t\r\n]+)"
    rb'|(?P<text>[^"\[(),:;<> \t\r\n]+)'
    rb"|(?P<mark>.)",
    re.DOTALL,
)
_COMMENT = re.compile(rb"\\.|[()]", re.DOTALL)


def tokens(value: bytes) -> Iterator[Token]:
    """Every octet is in one token."""
    at = 0
    while at < len(value):
        if value.startswith(b"(", at):
            end = _after_comment(value, at)
            yield "comment", at, end
        else:
            kind, end = _next(value, at)
            yield kind, at, end
        at = end


def _next(value: bytes, at: int) -> tuple[str, int]:
    match = _TOKEN.match(value, at)
    if match is None:
        raise AssertionError("every octet begins a token")
    if match["quoted"] is None:
        return str(match.lastgroup), match.end()
    # What follows the closing quote belongs to the next token.
    return ("quoted", match.end("end")) if match["end"] else ("open", len(value))


def _after_comment(value: bytes, start: int) -> int:
    """Where a comment ends, those inside it included; one without an end takes all."""
    depth = 0
    for match in _COMMENT.finditer(value, start):
        if match[0] == b"(":
            depth += 1
        elif match[0] == b")":
            depth -= 1
            if not depth:
                return match.end()
    return len(value)
