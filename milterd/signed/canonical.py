"""What DKIM's canonicalisation makes of a mail (RFC 6376 section 3.4), by dkimpy.

dkimpy works on whole messages; bodies here may be large and come in pieces, so
the body's form is made piece by piece and memory stays at a few pieces whatever
the body.  Where dkimpy's own form depends on how a body without a final line end
is read, or strips more than white space, this module follows the RFC.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from dkim.canonicalization import unfold_header_value

from milterd.core.mail import CRLF, HeaderField

_BLANKS = CRLF * 8192
_BLANK_END = CRLF + CRLF
_OPEN_ENDS = (b"", b" ", b"\t", b"\r")
"""What may stand at the end of a body and be no part of its form, or of a line end."""


def relaxed_field(name: bytes, value: bytes) -> bytes:
    """A header field in relaxed form, without its final CRLF (section 3.4.2)."""
    if b"\n" in value:  # most have nothing to unfold
        value = unfold_header_value(value)
    value = compressed(value)
    # dkimpy's own would strip VT and FF too, which are not white space there.
    return name.lower() + b":" + value.strip(b" \t")


def relaxed(field: HeaderField) -> bytes:
    """The same, of a field."""
    return relaxed_field(field.name, field.value)


def compressed(text: bytes) -> bytes:
    """Each run of spaces and tabs as one space, which halves the longest run with each pass: a
    pattern that finds runs looks at every single space."""
    if b"\t" in text:
        text = text.replace(b"\t", b" ")
    elif b" " not in text:  # base64, say: to look for one octet is much cheaper than for two
        return text
    while b"  " in text:
        text = text.replace(b"  ", b" ")
    return text


def simple(field: HeaderField) -> bytes:
    """A header field in simple form: as it came (section 3.4.1)."""
    return field.raw


HEADER_FORMS = {"simple": simple, "relaxed": relaxed}
"""How a field looks to a signature, by the first half of its `c=`."""


class Header:
    """A mail's fields, looked up once for all of its signatures."""

    def __init__(self, fields: Iterable[HeaderField]) -> None:
        self._named: dict[bytes, list[HeaderField]] = {}
        for each in fields:
            self._named.setdefault(each.name.lower(), []).append(each)

    def count(self, name: bytes) -> int:
        """How many fields have that lower-case name."""
        return len(self._named.get(name, ()))

    def chosen(self, names: Iterable[bytes]) -> list[HeaderField]:
        """The fields that an `h=` list of lower-case `names` covers.

        Each mention of a name takes the next instance of it from the bottom up, and
        nothing when there is none left (section 5.4.2).  Linear in the names.
        """
        left = dict[bytes, int]()
        found = []
        for name in names:
            fields = self._named.get(name)
            if not fields:
                continue
            at = left.get(name, len(fields)) - 1
            if at >= 0:
                left[name] = at
                found.append(fields[at])
        return found

    def signed(self, names: Iterable[bytes], form: str) -> list[bytes]:
        """The forms of the fields that :meth:`chosen` finds."""
        shape = HEADER_FORMS[form]
        return [shape(each) for each in self.chosen(names)]


def signed_fields(
    fields: Sequence[HeaderField], names: Sequence[bytes], form: str = "relaxed"
) -> list[bytes]:
    """:meth:`Header.signed`, of fields that are looked up for this alone."""
    return Header(fields).signed(names, form)


class BodyForm(Protocol):
    """A canonical form of a body that is fed in pieces.

    A last line without CRLF counts as if it had one, since that is how the mail
    will be sent.  Time is linear in the octets fed, whatever they are.
    """

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield what is settled now that `piece` has come."""
        ...

    def finish(self) -> Iterator[bytes]:
        """Yield the rest; the form is complete then."""
        ...


class _HeldBlanks:
    """Counts line ends at the end of what was fed, which belong to the body only if more comes."""

    def __init__(self) -> None:
        self._blank_lines = 0
        self._pending = b""
        self._started = False

    def _settle(self, text: bytes) -> Iterator[bytes]:
        blank_lines = _final_line_ends(text)
        settled = text[: len(text) - 2 * blank_lines]
        if settled:
            yield from self._blanks()
            self._started = True
            yield settled
        self._blank_lines += blank_lines

    def _open_end(self) -> Iterator[bytes]:
        """A CR that turned out to be no line end."""
        if self._pending.endswith(b"\r"):
            yield from self._blanks()
            self._started = True
            yield self._pending

    def _blanks(self) -> Iterator[bytes]:
        """The line ends held back so far, which turned out not to be the last."""
        left, self._blank_lines = 2 * self._blank_lines, 0
        while left > 0:
            yield _BLANKS[:left]
            left -= len(_BLANKS)


class RelaxedBody(_HeldBlanks):
    """The relaxed form (section 3.4.4); see :class:`BodyForm`."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        text, self._pending = _split_open_end(_relaxed_text(self._pending + piece))
        yield from self._settle(text)

    def finish(self) -> Iterator[bytes]:
        yield from self._open_end()
        if self._started:
            yield CRLF


class SimpleBody(_HeldBlanks):
    """The simple form (section 3.4.3); see :class:`BodyForm`.  An empty body is one CRLF."""

    def feed(self, piece: bytes) -> Iterator[bytes]:
        text = self._pending + piece
        self._pending = b"\r" if text.endswith(b"\r") else b""
        yield from self._settle(text.removesuffix(b"\r"))

    def finish(self) -> Iterator[bytes]:
        yield from self._open_end()
        yield CRLF


BODY_FORMS: Mapping[str, type[RelaxedBody] | type[SimpleBody]] = {
    "simple": SimpleBody,
    "relaxed": RelaxedBody,
}
"""How a body looks to a signature, by the second half of its `c=`."""


def usual_form(octets: bytes, form: str) -> bytes | None:
    """The form of a whole body that ends as nearly all do, with one line end or in the middle of a
    line; None of any other, which has to be fed."""
    ended = octets.endswith(CRLF)
    if octets.endswith(_BLANK_END) if ended else octets[-1:] in _OPEN_ENDS:
        return None
    text = _relaxed_text(octets) if form == "relaxed" else octets
    if not ended:
        return text + CRLF
    # A last line of white space alone is none.
    return None if text == CRLF or text.endswith(_BLANK_END) else text


def _relaxed_text(text: bytes) -> bytes:
    """The white space of a body's relaxed form, whatever its end."""
    text = compressed(text)
    # One space at most is left before each CRLF: no pattern that could
    # try every start of a long run is needed to take it away.
    return text.replace(b" \r\n", CRLF) if b" " in text else text


def _split_open_end(text: bytes) -> tuple[bytes, bytes]:
    """Cut off what the next piece decides: a space, a CR, or both."""
    cut = len(text)
    if text.endswith(b" \r"):
        cut -= 2
    elif text.endswith((b" ", b"\r")):
        cut -= 1
    return text[:cut], text[cut:]


_BACKWARD_LINE_ENDS = re.compile(rb"(?:\n\r)*")


def _final_line_ends(text: bytes) -> int:
    """How many CRLFs the text ends with."""
    if not text.endswith(b"\r\n\r\n"):  # nearly all: nothing has to be searched
        return 1 if text.endswith(CRLF) else 0
    tail = text[len(text.rstrip(CRLF)) :]
    match = _BACKWARD_LINE_ENDS.match(tail[::-1])
    return match.end() // 2 if match else 0
