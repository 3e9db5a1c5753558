"""Which of a mail's lines are header fields, and of what: the walk of Postfix's mime_state.c.

Headers of a mail and of its parts come whole, body lines one by one.  Nothing is decoded, and
nothing is too broken: what is no header is body.  Time is linear, memory that of one header.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator
from dataclasses import dataclass

from milterd.core.mail import Body, HeaderField
from milterd.filters.header_checks.records import Record, records
from milterd.filters.header_checks.tokens import items


class Kind(enum.Enum):
    """Which table a line is for."""

    HEADER = "header_checks"
    MIME = "mime_header_checks"
    NESTED = "nested_header_checks"
    BODY = "body_checks"


MIME_FIELDS = frozenset(
    {
        b"content-description",
        b"content-disposition",
        b"content-id",
        b"content-transfer-encoding",
        b"content-type",
        b"mime-version",
    }
)
"""Fields that are for mime_header_checks wherever they stand (header_opts.c)."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Postfix's parameters of the same names; octets, and levels."""

    header_size_limit: int = 102_400
    mime_nesting_limit: int = 100
    mime_boundary_length_limit: int = 2048
    line_length_limit: int = 2048
    disable_mime_input_processing: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """A line, or a header with its folds as LF.

    `start` and `end` are octets of the body.  `depth` counts the octets of body_checks_size_limit
    before a body line; `whole` is false for a piece of a line that goes on.
    """

    kind: Kind
    text: bytes
    start: int
    end: int
    depth: int = 0
    whole: bool = True


_NAME = re.compile(rb"([!-9;-~]+)[ \t]*(?=:)")


def header_name(text: bytes) -> bytes | None:
    """The name of the field that a line begins, None if it begins none (is_header.c)."""
    match = _NAME.match(text)
    return None if match is None else match[1]


def field_text(field: HeaderField, bounds: Bounds) -> bytes:
    """A field of the mail's own header as tables see it: cut at header_size_limit."""
    text = b""
    first, *rest = field.value.split(b"\r\n")
    for number, line in enumerate((field.name + b":" + first, *rest)):
        if number == 0:
            pass
        elif len(text) < bounds.header_size_limit:
            text += b"\n"
        else:
            break
        step = bounds.line_length_limit
        for start in range(0, len(line), step):
            if start and len(text) >= bounds.header_size_limit:
                break
            text += line[start : start + step]
    return text.partition(b"\0")[0]


class _Type(enum.Enum):
    OTHER = enum.auto()
    MULTIPART = enum.auto()
    MESSAGE = enum.auto()
    RFC822 = enum.auto()


class Walk:
    """One mail.  Give :meth:`field` the fields of its header, then take :meth:`body`."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._type = _Type.OTHER
        self._stack: list[tuple[bytes, _Type]] = []
        self._kind: Kind | None = None  # the header we are in, None in a body
        self._depth = 0
        self._cut = False  # the record before was a piece of this line
        self._text, self._from, self._to = b"", 0, 0
        self.too_deep = False
        """Whether parts are nested deeper than mime_nesting_limit."""

    def field(self, name: bytes, text: bytes) -> Kind:
        """A field of the mail's own header; which table it is for."""
        name = name.lower()
        if name == b"content-type":
            self._content_type(text)
        return Kind.MIME if name in MIME_FIELDS else Kind.HEADER

    def body(self, body: Body) -> Iterator[Seen]:
        """Everything below the mail's own header."""
        self._enter()
        self._depth = 1  # the blank line is the body's first
        for each in records(body, self._bounds.line_length_limit):
            yield from self._record(each)
        yield from self._flush()

    def _record(self, record: Record) -> Iterator[Seen]:
        text = record.text.partition(b"\0")[0] if b"\0" in record.text else record.text
        if self._kind is not None:
            if self._text and (self._cut or text[:1] in (b" ", b"\t")):
                self._append(text, record)
                return
            yield from self._flush()
            name = header_name(text)
            if name is not None:
                self._text = name + text[len(name) :].lstrip(b" \t")
                self._from, self._to = record.start, record.end
                self._cut = not record.whole
                return
            self._end_of_header(text)
        if self._stack and not self._cut and text[:2] == b"--":
            self._boundary(text)
        yield Seen(Kind.BODY, text, record.start, record.end, self._depth, record.whole)
        self._depth += len(record.text) + 1
        self._cut = not record.whole

    def _append(self, text: bytes, record: Record) -> None:
        """More of the header at hand, unless it is too long already."""
        if len(self._text) < self._bounds.header_size_limit:
            self._text += text if self._cut else b"\n" + text
        self._to = record.end
        self._cut = not record.whole

    def _flush(self) -> Iterator[Seen]:
        if self._kind is None or not self._text:
            return
        name = self._text.partition(b":")[0].lower()
        if name == b"content-type":
            self._content_type(self._text)
        kind = Kind.MIME if name in MIME_FIELDS else self._kind
        yield Seen(kind, self._text, self._from, self._to)
        self._text = b""
        self._cut = False

    def _end_of_header(self, text: bytes) -> None:
        if text:
            self._kind, self._depth = None, 1  # Postfix puts a blank line before it
        else:
            self._enter()
            self._depth = 0

    def _enter(self) -> None:
        """Behind the blank line: another header, or a body."""
        nested = self._type is _Type.RFC822
        self._kind = Kind.NESTED if nested else None
        if nested or self._type is _Type.MULTIPART:
            self._type = _Type.OTHER

    def _boundary(self, text: bytes) -> None:
        for at in range(len(self._stack) - 1, -1, -1):
            boundary, inner = self._stack[at]
            if text.startswith(boundary, 2):
                del self._stack[at + 1 :]
                if text.startswith(b"--", 2 + len(boundary)):
                    del self._stack[at:]
                    self._kind, self._type, self._depth = None, _Type.OTHER, 0
                else:
                    self._kind, self._type = Kind.MIME, inner
                return

    def _content_type(self, text: bytes) -> None:
        if self._bounds.disable_mime_input_processing:
            return
        parts = items(text.partition(b":")[2])
        first = next(parts, ())
        words = [value.lower() if kind == "token" else b"" for kind, value in first]
        subtype = words[2] if len(first) > 2 and first[1] == ("special", b"/") else b""
        if not words:
            return
        if words[0] == b"message":
            self._type = _Type.RFC822 if subtype == b"rfc822" else _Type.MESSAGE
        elif words[0] == b"multipart":
            self._type = _Type.MULTIPART
            inner = _Type.RFC822 if subtype == b"digest" else _Type.OTHER
            for each in parts:
                self._parameter(each, inner)
        else:
            self._type = _Type.OTHER

    def _parameter(self, tokens: tuple[tuple[str, bytes], ...], inner: _Type) -> None:
        """Every boundary that is given counts: a reader takes one of them."""
        if len(tokens) < 3 or tokens[1] != ("special", b"="):
            return
        if tokens[0][0] != "token" or tokens[0][1].lower() != b"boundary":
            return
        if len(self._stack) > self._bounds.mime_nesting_limit:
            self.too_deep = True
            return
        boundary = tokens[2][1].partition(b"\0")[0]
        self._stack.append((boundary[: self._bounds.mime_boundary_length_limit], inner))
