"""Addresses inside header fields, rewritten where a rule says so and nowhere else.

What is not an address that a rule changes stays to the octet: names, comments, folding, the
order of things.  A field that the signature of a mail covers is left alone unless it is told
otherwise, since every change there breaks the signature.  RFC 5322 sections 3.4 and 3.6.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from smtpgw.address import form
from smtpgw.address.tokens import Token, tokens

SENDERS = frozenset({
    b"from", b"sender", b"reply-to", b"errors-to", b"return-receipt-to",
    b"disposition-notification-to", b"resent-from", b"resent-sender", b"resent-reply-to",
})  # fmt: skip
RECIPIENTS = frozenset({b"to", b"cc", b"bcc", b"apparently-to", b"resent-to", b"resent-cc"})
"""Fields with addresses (header_opts of cleanup(8))."""

Rewrite = Callable[[bytes], Awaitable[bytes]]
"""An internal address to an internal address."""


@dataclass(frozen=True, slots=True)
class Span:
    """An address in a field's value: octets `start` to `end` of it."""

    start: int
    end: int


class _Place(enum.Enum):
    OUTSIDE = enum.auto()
    INSIDE = enum.auto()
    """Of angle brackets."""
    AFTER = enum.auto()


def spans(value: bytes) -> tuple[Span, ...]:
    """Where the addresses are.  A value that does not read as a list of addresses has none:
    what cannot be read is not changed either."""
    found: list[Span] = []
    words: list[Token] = []
    place = _Place.OUTSIDE
    for kind, start, end in [*tokens(value), ("mark", len(value), len(value))]:
        mark = value[start:end]
        if kind == "open":
            return ()
        if kind != "mark":
            words.append((kind, start, end))
            continue
        if place is _Place.OUTSIDE and mark in (b",", b";", b""):
            found += _one(words)
        elif place is _Place.INSIDE and mark == b">":
            found += _one(words)
            place = _Place.AFTER
        elif place is _Place.OUTSIDE and mark == b"<":
            place = _Place.INSIDE
        elif place is _Place.AFTER and mark in (b",", b";", b""):
            place = _Place.OUTSIDE
        elif mark != b":" and not (place is _Place.INSIDE and mark == b","):
            return ()
        # What stood before `:` is the name of a group or a source route, and no address.
        words = []
    return tuple(found)


def _one(words: list[Token]) -> list[Span]:
    """An address is one run of tokens without white space among them."""
    those = [each for each in words if each[0] not in ("space", "comment")]
    if not those:
        return []
    joined = all(a[2] == b[1] for a, b in itertools.pairwise(those))
    return [Span(those[0][1], those[-1][2])] if joined else []


async def rewritten(value: bytes, rewrite: Rewrite) -> bytes:
    """The value with each address that the rule changes in its new form, all else as it was."""
    parts, at = [], 0
    for each in spans(value):
        old = value[each.start : each.end]
        meant = form.internal(old)
        new = await rewrite(meant)
        if new and new != meant:
            parts += [value[at : each.start], form.external(new)]
            at = each.end
    return b"".join([*parts, value[at:]]) if parts else value
