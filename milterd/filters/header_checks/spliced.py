"""A body with some stretches of it replaced; the rest stays where it is stored."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from milterd.core.mail import PIECE, Body
from milterd.filters.header_rules.outcome import Splice


@dataclass(frozen=True, slots=True)
class SplicedBody:
    """`splices` are in order and do not overlap."""

    body: Body
    splices: Sequence[Splice]

    @property
    def size(self) -> int:
        gone = sum(each.end - each.start for each in self.splices)
        return self.body.size - gone + sum(len(each.octets) for each in self.splices)

    def pieces(self, limit: int = PIECE) -> Iterator[bytes]:
        at = 0
        waiting = iter(self.splices)
        splice = next(waiting, None)
        for piece in self.body.pieces(limit):
            end = at + len(piece)
            keep = at
            while splice is not None and splice.start < end:
                if splice.start >= at:
                    yield from _cut(piece[keep - at : splice.start - at], limit)
                    yield from _cut(splice.octets, limit)
                if splice.end > end:
                    keep = end
                    break
                keep = max(splice.end, at)
                splice = next(waiting, None)
            yield from _cut(piece[keep - at :], limit)
            at = end
        while splice is not None:
            if splice.start >= at:
                yield from _cut(splice.octets, limit)
            splice = next(waiting, None)


def _cut(octets: bytes, limit: int) -> Iterator[bytes]:
    for start in range(0, len(octets), limit):
        yield octets[start : start + limit]
