"""From what a program wrote to a message: line ends, the end, the header.

LF becomes CRLF, a CR that ends no line a space (as Postfix's cleanup_replace_stray_cr_lf
does), NUL is dropped, and so is the line that mbox files put before a message.  A line of any
length is read in pieces.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from milterd.core.mail import CRLF, HeaderField, split_header

_PIECE = 65536
_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")


class TooLarge(Exception):  # noqa: N818 - the name says what happened
    """The message, or its header, is beyond the limit."""


def lines(stream: BinaryIO, *, dots: bool, stuffed: bool = False) -> Iterator[bytes]:
    """The message's lines with CRLF, a long one in pieces; the last has one in any case.

    With `dots` a line with nothing but a dot ends the message; with `stuffed` other lines
    lose their first dot (SMTP), and EOFError is raised if that line does not come.
    """
    begin, held = True, b""
    while piece := stream.readline(_PIECE):
        piece, held = held + piece, b""
        ends = piece.endswith(b"\n")
        text = piece.rstrip(b"\n")
        if ends:
            text = text.removesuffix(b"\r")
        elif text.endswith(b"\r"):
            text, held = text[:-1], b"\r"
        if begin and dots and ends and text == b".":
            return
        if begin and stuffed:
            text = text.removeprefix(b".")
        yield _clean(text) + (CRLF if ends else b"")
        begin = ends
    if stuffed:
        raise EOFError
    if not begin:
        yield CRLF


def _clean(text: bytes) -> bytes:
    return text.replace(b"\0", b"").replace(b"\r", b" ")


class Message:
    """A message being read: `fields` at once, the rest by :meth:`body`.

    Raises TooLarge, from the constructor too.
    """

    def __init__(self, source: Iterator[bytes], *, header_limit: int, limit: int) -> None:
        self._source, self._limit = source, limit
        self._first: list[bytes] = []
        head = self._read_head(header_limit)
        self.fields: tuple[HeaderField, ...] = split_header(head)[0]
        self._size = len(head)

    def _read_head(self, limit: int) -> bytes:
        head = bytearray()
        begin, first = True, True
        for piece in self._source:
            mailbox, first = first and piece.startswith((b"From ", b">From ")), False
            if mailbox:
                continue
            if begin and not _in_header(piece, head):
                if piece != CRLF:
                    self._first.append(piece)
                break
            head += piece
            begin = piece.endswith(CRLF)
            if len(head) > limit:
                raise TooLarge(f"the header is larger than {limit} octets (header_size_limit)")
        return bytes(head)

    def body(self) -> Iterator[bytes]:
        """What follows the blank line."""
        for piece in self._pieces():
            self._size += len(piece)
            if self._size > self._limit:
                raise TooLarge(
                    f"the message is larger than {self._limit} octets (message_size_limit)"
                )
            yield piece

    def _pieces(self) -> Iterator[bytes]:
        yield from self._first
        yield from self._source


def _in_header(piece: bytes, head: bytearray) -> bool:
    """Whether a line begins or continues a field."""
    if piece[:1] in (b" ", b"\t"):
        return bool(head)
    return _FIELD.match(piece) is not None
