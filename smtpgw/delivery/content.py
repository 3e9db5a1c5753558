"""What a message needs of a peer, and its octets in the form this peer can take.

A body is looked at once for each delivery, in a thread where it is a file; one that was looked at
as it came in is not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from milterd.core.mail import BytesBody
from milterd.core.spooled import LONGEST, Seen, SeenBody, long_lines
from smtpgw.delivery.encode import Plan, convert, survey
from smtpgw.delivery.outcome import Job

SMALL = 2**16
"""Octets of a piece in which a large message leaves."""
READ = 2**17
"""Octets of a file that are read at once."""
AT_HAND = 2**18
"""Octets of a message in memory that leaves in one piece."""


@dataclass(frozen=True, slots=True)
class Traits:
    """`eight_bit`: octets above 127 anywhere; `awkward`: lines over the limit, or a NUL."""

    eight_bit: bool = False
    long_lines: bool = False
    nul: bool = False

    @property
    def awkward(self) -> bool:
        return self.long_lines or self.nul


def pieces(job: Job) -> Iterator[bytes]:
    """The message as it was queued."""
    yield job.head
    yield from job.body.pieces(READ)


def look(octets: Iterable[bytes], limit: int) -> Traits:
    """The traits of a message; lines of over `limit` octets are long, 0 for none."""
    eight_bit = long = nul = False
    column = 0
    for each in octets:
        eight_bit = eight_bit or not each.isascii()
        nul = nul or b"\0" in each
        if limit and not long:
            long, column = long_lines(each, limit, column)
    return Traits(eight_bit, long, nul)


_PLAIN, _EIGHT_BIT = Traits(), Traits(eight_bit=True)


def look_at(octets: bytes, limit: int) -> Traits:
    """The traits of a whole message."""
    nul = b"\0" in octets
    long = limit > 0 and long_lines(octets, limit)[0]
    if nul or long:
        return Traits(not octets.isascii(), long, nul)
    return _PLAIN if octets.isascii() else _EIGHT_BIT


def at_hand(job: Job) -> bytes | None:
    """A message that is in memory and not large, in one piece."""
    if not isinstance(job.body, BytesBody):
        return None
    head, octets = job.head, job.body.octets
    return head + octets if len(head) + len(octets) < AT_HAND else None


async def examine(job: Job, limit: int) -> Traits:
    """The traits of a job's message."""
    body = job.body
    if isinstance(body, BytesBody):
        return look((job.head, body.octets), limit)
    known = _known(body.seen, limit) if isinstance(body, SeenBody) else None
    if known is not None:
        head = look_at(job.head, limit)
        eight_bit = head.eight_bit or known.eight_bit
        return Traits(eight_bit, head.long_lines or known.long_lines, head.nul)
    return await asyncio.to_thread(look, pieces(job), limit)


def _known(seen: Seen, limit: int) -> Traits | None:
    """The traits of a body that was seen as it came in, as far as its lines tell of this limit."""
    if limit and (limit < LONGEST or (limit > LONGEST and seen.long_lines)):
        return None
    return Traits(seen.eight_bit, limit > 0 and seen.long_lines)


async def plan(job: Job) -> Plan:
    """How to make it 7-bit.  Raises :class:`smtpgw.delivery.parts.Unclear`."""
    if isinstance(job.body, BytesBody) and job.size < 2**16:
        return survey(pieces(job))
    return await asyncio.to_thread(survey, pieces(job))


def outgoing(job: Job, how: Plan | None) -> Iterator[bytes]:
    """What is sent: the message as it is, or converted."""
    return pieces(job) if how is None else convert(pieces(job), how)
