"""What DKIM's relaxed canonicalisation makes of a mail (RFC 6376 section 3.4), by dkimpy.

dkimpy works on whole messages; bodies here may be large and come in pieces, so
the body's form is made piece by piece and memory stays at a few pieces whatever
the body.  Where dkimpy's own form depends on how a body without a final line end
is read, or strips more than white space, this module follows the RFC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from dkim import select_headers
from dkim.canonicalization import compress_whitespace, unfold_header_value

from milterd.core.mail import CRLF, HeaderField

_BLANKS = CRLF * 8192


def relaxed_field(name: bytes, value: bytes) -> bytes:
    """A header field in relaxed form, without its final CRLF (section 3.4.2)."""
    # dkimpy's own would strip VT and FF too, which are not white space there.
    text: bytes = compress_whitespace(unfold_header_value(value)).strip(b" \t")
    return name.lower() + b":" + text


def signed_fields(fields: Sequence[HeaderField], names: Sequence[bytes]) -> list[bytes]:
    """The relaxed forms of the fields that an `h=` list of lower-case `names` covers.

    Each mention of a name takes the next instance of it from the bottom up, and
    nothing when there is none left (section 5.4.2).
    """
    pairs = [(each.name, each.value) for each in fields]
    return [relaxed_field(name, value) for name, value in select_headers(pairs, names)]


class RelaxedBody:
    """The relaxed form of a body that is fed in pieces (section 3.4.4).

    A last line without CRLF counts as if it had one, since that is how the mail
    will be sent.  Time is linear in the octets fed, whatever they are.
    """

    def __init__(self) -> None:
        self._blank_lines = 0
        self._pending = b""
        self._started = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield what is settled now that `piece` has come."""
        text = self._pending + piece
        if b"\t" in text or b"  " in text:
            text = compress_whitespace(text)
        # One space at most is left before each CRLF: no pattern that could
        # try every start of a long run is needed to take it away.
        text = text.replace(b" \r\n", CRLF)
        text, self._pending = _split_open_end(text)
        blank_lines = _final_line_ends(text)
        settled = text[: len(text) - 2 * blank_lines]
        if settled:
            yield from self._blanks()
            self._started = True
            yield settled
        self._blank_lines += blank_lines

    def finish(self) -> Iterator[bytes]:
        """Yield the rest; the form is complete then."""
        if self._pending.endswith(b"\r"):
            yield from self._blanks()
            self._started = True
            yield self._pending
        if self._started:
            yield CRLF

    def _blanks(self) -> Iterator[bytes]:
        """The line ends held back so far, which turned out not to be the last."""
        left, self._blank_lines = 2 * self._blank_lines, 0
        while left > 0:
            yield _BLANKS[:left]
            left -= len(_BLANKS)


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
    tail = text[len(text.rstrip(CRLF)) :]
    match = _BACKWARD_LINE_ENDS.match(tail[::-1])
    return match.end() // 2 if match else 0
