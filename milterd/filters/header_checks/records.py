"""A body as Postfix's cleanup(8) gets it: one record a line, a long line in several.  Pure.

`offset` says where a record stands in the body, so that a change can be made there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from milterd.core.mail import CRLF, Body


@dataclass(frozen=True, slots=True)
class Record:
    """`whole` is whether the line ends here (Postfix's REC_TYPE_NORM); its CRLF counts into
    `end`."""

    start: int
    end: int
    text: bytes
    whole: bool


def records(body: Body, limit: int) -> Iterator[Record]:
    """The lines of a body, in pieces of `limit` octets (line_length_limit)."""
    rest, at = b"", 0
    for piece in body.pieces():
        rest += piece
        start = 0
        while (end := rest.find(CRLF, start)) >= 0:
            yield from _line(rest[start:end], at + start, limit, len(CRLF))
            start = end + 2
        # What has no end yet is given away as far as it cannot be part of a line end.
        while len(rest) - start > limit:
            yield Record(at + start, at + start + limit, rest[start : start + limit], False)
            start += limit
        rest, at = rest[start:], at + start
    if rest:
        yield from _line(rest, at, limit, 0)


def _line(text: bytes, at: int, limit: int, end: int) -> Iterator[Record]:
    while len(text) >= limit:
        yield Record(at, at + limit, text[:limit], False)
        text, at = text[limit:], at + limit
    yield Record(at, at + len(text) + end, text, True)
