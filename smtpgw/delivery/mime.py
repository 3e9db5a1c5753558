"""The structure of a MIME message, read as it streams by (RFC 2045, RFC 2046).

Octets go in, in pieces of any size; out come header blocks, content of leaves, and what
stands between them.  Joined again in order they are what went in, to the octet.  Depth,
number of parts, a header block and a boundary are bounded; what is beyond, or could be
read in two ways, raises :class:`Unclear`.  Wants what
:class:`smtpgw.delivery.emit.LineEnds` gives.  Sans-I/O.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from smtpgw.delivery.parts import BOUNDARY_LIMIT, Part, Unclear, read_part

DEPTH_LIMIT = 100
"""Parts in parts (Postfix's mime_nesting_limit)."""
PARTS_LIMIT = 10_000
HEADER_LIMIT = 2**20
_DELIMITER_LIMIT = BOUNDARY_LIMIT + 1024

_FIELD = re.compile(rb"[!-9;-~]+[ \t]*:")


@dataclass(frozen=True, slots=True)
class Header:
    """The header block of a part that begins."""

    part: Part


@dataclass(frozen=True, slots=True)
class Content:
    """Octets of a leaf."""

    part: Part
    octets: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The end of a leaf."""

    part: Part


@dataclass(frozen=True, slots=True)
class Between:
    """A delimiter, or what stands before the first or behind the last part of `part`."""

    part: Part
    octets: bytes


Event = Header | Content | End | Between


class Walker:
    """Feed the message from its header on, then finish; iterate over what each gives.

    `_part` is what the octets now read belong to, None while it is a header; `_parent`
    whose part that will be; `_open` the multiparts whose delimiters count, in `_marks` by what
    stands behind the two dashes.
    """

    def __init__(self) -> None:
        self._buffer = b""
        self._open: list[Part] = []
        self._marks: dict[bytes, tuple[int, bool]] = {}
        self._count = 0
        self._part: Part | None = None
        self._parent: Part | None = None
        self._header = bytearray()
        self._line_start = True

    def feed(self, data: bytes) -> Iterator[Event]:
        """Raises :class:`Unclear`."""
        self._buffer += data
        return self._read(last=False)

    def finish(self) -> Iterator[Event]:
        """Raises :class:`Unclear`."""
        yield from self._read(last=True)
        while self._part is None:  # a mail that ends with a header
            yield from self._header_ends()
        if not self._part.composite:
            yield End(self._part)

    def _read(self, *, last: bool) -> Iterator[Event]:
        moved = True
        while moved:
            before = len(self._buffer), self._part, self._count
            if self._part is None:
                yield from self._header_lines(last=last)
            else:
                yield from self._text(self._part, last=last)
            moved = before != (len(self._buffer), self._part, self._count)

    def _take(self, count: int) -> bytes:
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def _header_lines(self, *, last: bool) -> Iterator[Event]:
        at = 0
        while True:
            end = self._buffer.find(b"\r\n", at)
            stop = end + 2 if end >= 0 else len(self._buffer)
            if len(self._header) + stop > HEADER_LIMIT:
                raise Unclear(f"a header of over {HEADER_LIMIT} octets")
            line = self._buffer[at:stop]
            if end < 0 and not (last and line):
                self._header += self._take(at)
                return
            blank = line == b"\r\n"
            if not blank and not self._continues(line, first=not self._header and not at):
                break
            at = stop
            if blank:
                break
        self._header += self._take(at)
        yield from self._header_ends()

    def _continues(self, line: bytes, *, first: bool) -> bool:
        """Whether the line belongs to the header, as :func:`split_header` sees it."""
        if line[:1] in (b" ", b"\t"):
            return not first
        return _FIELD.match(line) is not None and self._delimiter(line) is None

    def _header_ends(self) -> Iterator[Event]:
        block = bytes(self._header)
        self._header.clear()
        part = self._new(block)
        yield Header(part)
        self._line_start = True
        if part.composite and not part.boundary:
            self._parent = part
            return
        if part.boundary:
            self._opened(part)
        self._part = part

    def _opened(self, part: Part) -> None:
        marks = (part.boundary, part.boundary + b"--")
        if any(each in self._marks for each in marks):
            raise Unclear("the same boundary for two parts")
        self._marks |= {marks[0]: (len(self._open), False), marks[1]: (len(self._open), True)}
        self._open.append(part)

    def _new(self, block: bytes) -> Part:
        parent = self._parent
        depth = 0 if parent is None else parent.depth + 1
        if depth > DEPTH_LIMIT:
            raise Unclear(f"parts nested deeper than {DEPTH_LIMIT}")
        if self._count >= PARTS_LIMIT:
            raise Unclear(f"more than {PARTS_LIMIT} parts")
        part = read_part(self._count, parent, block, depth)
        self._count += 1
        return part

    def _text(self, part: Part, *, last: bool) -> Iterator[Event]:
        """What belongs to a part, up to the next delimiter or as far as there surely is none."""
        if not self._open:
            yield from self._say(part, len(self._buffer))
            return
        at = self._candidate(0) if not self._line_start else 0
        while at >= 0:
            if at == 0 and not self._buffer.startswith(b"--"):
                if not last and b"--".startswith(self._buffer):
                    return
            else:
                line = self._line(at, last=last)
                if line is None:
                    yield from self._say(part, max(at - 2, 0))
                    return
                if (found := self._delimiter(line)) is not None:
                    yield from self._say(part, max(at - 2, 0))
                    yield from self._delimited(part, len(line), *found)
                    return
            at = self._candidate(at)
        kept = 0 if last else next((n for n in (3, 2) if self._buffer[-n:] == b"\r\n-"[:n]), 0)
        yield from self._say(part, len(self._buffer) - kept)

    def _candidate(self, at: int) -> int:
        """Where the next line begins that begins like a delimiter; -1 for none."""
        found = self._buffer.find(b"\r\n--", at)
        return found + 2 if found >= 0 else -1

    def _line(self, at: int, *, last: bool) -> bytes | None:
        """The line at `at`, the first part of one that is too long, or None: not all is here."""
        end = self._buffer.find(b"\r\n", at, at + _DELIMITER_LIMIT)
        if end >= 0:
            return self._buffer[at : end + 2]
        if not last and len(self._buffer) - at < _DELIMITER_LIMIT:
            return None
        line = self._buffer[at : at + _DELIMITER_LIMIT]
        if len(line) == _DELIMITER_LIMIT and self._delimiter(line) is not None:
            raise Unclear("a delimiter of a thousand spaces")
        return line

    def _delimiter(self, line: bytes) -> tuple[int, bool] | None:
        """Which of the open multiparts the line delimits, and whether it closes it."""
        if not line.startswith(b"--"):
            return None
        return self._marks.get(line[2:].rstrip(b" \t\r\n"))

    def _delimited(self, part: Part, count: int, at: int, closes: bool) -> Iterator[Event]:
        if not part.composite:
            yield End(part)
        container = self._open[at]
        before = 2 if self._buffer.startswith(b"\r\n") else 0
        yield Between(container, self._take(before + count))
        for each in self._open[at if closes else at + 1 :]:
            del self._marks[each.boundary], self._marks[each.boundary + b"--"]
        del self._open[at if closes else at + 1 :]
        self._part, self._parent = (container if closes else None), container
        # The CRLF behind a closing delimiter begins the epilogue's first line.
        self._line_start = True

    def _say(self, part: Part, count: int) -> Iterator[Event]:
        if count <= 0:
            return
        octets = self._take(count)
        self._line_start = False
        yield Between(part, octets) if part.composite else Content(part, octets)
