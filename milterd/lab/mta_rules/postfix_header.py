"""A message header as Postfix's cleanup(8) edits it in its queue file.

Sources: cleanup_milter.c, cleanup_out.c and is_header.c of Postfix 3.7, held against a
running one by tests/lab/test_postfix_queue.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from milterd.core.mail import HeaderField

SIZE_LIMIT = 60_000
"""Octets of one field: header_size_limit, which Postfix lowers where it has milters."""
_NICE_CUT = SIZE_LIMIT * 9 // 10
_LABEL = re.compile(rb"([!-9;-~]+)[ \t]*:")


class Header:
    """Header fields under edit.

    An insertion counts all fields, from 0; a change passes over the hidden one.  A line
    that is no field, which a milter can bring in with an odd name, ends the header for both.
    """

    def __init__(self, fields: Iterable[HeaderField]) -> None:
        self._fields = list(fields)
        self._labels = [_label(each) for each in self._fields]

    def fields(self) -> tuple[HeaderField, ...]:
        """What is there now."""
        return tuple(self._fields)

    def append(self, field: HeaderField) -> None:
        """Below all others."""
        self._put(len(self._fields), field)

    def insert(self, index: int, field: HeaderField) -> None:
        """Before the field at `index`; below all others if there is none."""
        end = self._end()
        self._put(index if index < end else len(self._fields), field)

    def change(self, name: bytes, nth: int, field: HeaderField | None) -> None:
        """Put `field`, or nothing, for the `nth` of that name; append it if there is none."""
        at = self._find(name.lower(), max(nth, 1))
        if at is None:
            if field is not None:
                self.append(field)
            return
        del self._fields[at], self._labels[at]
        if field is not None:
            self._put(at, field)

    def _put(self, at: int, field: HeaderField) -> None:
        self._fields.insert(at, field)
        self._labels.insert(at, _label(field))

    def _end(self) -> int:
        return self._labels.index(None) if None in self._labels else len(self._labels)

    def _find(self, name: bytes, nth: int) -> int | None:
        for at, label in enumerate(self._labels):
            if label is None:
                return None
            if label == name and not self._fields[at].hidden:
                nth -= 1
                if not nth:
                    return at
        return None


def _label(field: HeaderField) -> bytes | None:
    """The name in lower case; None for a line that is no header field."""
    match = _LABEL.match(field.raw)
    return match[1].lower() if match else None


def taken(field: HeaderField) -> HeaderField:
    """A field of the client's as cleanup(8) writes it: without white space before the colon,
    a stray CR made a space, and cut at the limit."""
    if len(field.raw) <= SIZE_LIMIT and not field.gap and b"\r" not in field.value:
        return field
    value = field.value.replace(b"\r\n", b"\n").replace(b"\r", b" ")
    return made(field.name, value, True)


def made(name: bytes, value: bytes, leading_space: bool) -> HeaderField:
    """The field that cleanup(8) writes: what goes on after a LF gets a tab if it has no
    white space, a CR stays, and what is over the limit is cut."""
    text = name + (b":" if leading_space else b": ") + value
    whole = b"\r\n".join(_lines(text))
    first, _, rest = whole.partition(b":")
    return HeaderField(first, rest)


def _lines(text: bytes) -> Iterator[bytes]:
    start = 0
    for line in text.split(b"\n"):
        cut = start + len(line) > SIZE_LIMIT
        if cut and start > _NICE_CUT:
            return
        kept = line[: SIZE_LIMIT - start] if cut else line
        yield kept if not start or kept[:1] in (b" ", b"\t") else b"\t" + kept
        if cut:
            return
        start += len(line) + 1
