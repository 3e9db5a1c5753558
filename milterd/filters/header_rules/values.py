"""What `strip-comments` and `mask-client` make of a structured value.  Linear in its length."""

from __future__ import annotations

import re
from collections.abc import Iterator

_PIECE = re.compile(rb'"(?:[^"\\]|\\.)*"|\\.|[()]|[^"\\()]+|["\\]', re.DOTALL)
_BLANKS = re.compile(rb"[ \t]+")
_BY = re.compile(rb"(?:^|(?<=[ \t]))by(?=[ \t])", re.IGNORECASE)
_FROM = re.compile(rb"from[ \t(]", re.IGNORECASE)


def without_comments(text: bytes) -> bytes:
    """An unfolded value without its comments (RFC 5322 section 3.2.2), blanks in their place
    made one.  One whose comments do not end is given back as it is."""
    kept: list[bytes] = []
    after = 0
    for before, after, piece in _pieces(text):
        if after < 0:
            return text
        if not before and not after:
            kept.append(piece)
        elif not before:
            kept.append(b" ")
    if after or b"(" not in text:
        return text
    return _BLANKS.sub(b" ", b"".join(kept)).strip(b" \t")


def masked(text: bytes, by: bytes) -> bytes:
    """An unfolded Received value in which `by` stands for who the client was: all between
    "from" and "by" (RFC 5321 section 4.4).  Without both words it is given back as it is."""
    if _FROM.match(text) is None:
        return text
    at = 0
    for before, after, piece in _pieces(text):
        if not before and not after and piece[:1] != b'"':
            found = _BY.search(text, at, at + len(piece) + 1)
            if found is not None and found.end() <= at + len(piece):
                return b"from " + by + b" " + text[found.start() :]
        at += len(piece)
    return text


def _pieces(text: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Quoted strings, brackets of comments and what is between, each with the depth of comments
    before and after it; -1 is a bracket that closes none."""
    depth = at = 0
    while at < len(text):
        match = _PIECE.match(text, at)
        piece = match[0] if match is not None else text[at : at + 1]
        if depth and piece[:1] == b'"':
            piece = b'"'  # a quote means nothing in a comment
        before = depth
        depth += (piece == b"(") - (piece == b")")
        yield before, depth, piece
        depth = max(depth, 0)
        at += len(piece)
