"""A message in the form in which a peer gets it, by DATA or in chunks (RFC 5321, RFC 3030)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from milterd.core.spooled import SeenBody, WholeBody
from smtpgw.delivery import content
from smtpgw.delivery.content import outgoing
from smtpgw.delivery.emit import DotStuffer, LineEnds, is_whole, stuffed
from smtpgw.delivery.encode import Plan
from smtpgw.delivery.outcome import Job

_PIECE = content.SMALL


@dataclass(slots=True)
class Message:
    """A job as a peer can have it: converted by `plan` if there is one, `eight_bit` as it
    leaves, in chunks or by DATA, its lines broken after `fold` octets (0: not at all).
    `octets` is a small message in memory."""

    job: Job
    plan: Plan | None
    eight_bit: bool
    chunked: bool
    fold: int
    octets: bytes | None = None

    def stuffed(self) -> Iterator[bytes]:
        """What follows DATA; the last piece ends it."""
        stuffer = DotStuffer(self.fold, whole=self._is_whole())
        pending = b""
        for piece in outgoing(self.job, self.plan):
            # A small message leaves in one piece, a large one as its pieces come.
            fed = stuffer.feed(piece)
            pending = pending + fed if pending else fed
            if len(pending) >= _PIECE:
                yield pending
                pending = b""
        yield pending + stuffer.finish()

    def chunks(self) -> Iterator[bytes]:
        """What BDAT carries."""
        ends = LineEnds(whole=self._is_whole())
        pending = b""
        for piece in outgoing(self.job, self.plan):
            pending += ends.feed(piece)
            while len(pending) >= _PIECE:
                yield pending[:_PIECE]
                pending = pending[_PIECE:]
        yield pending + ends.finish()

    def _is_whole(self) -> bool:
        """Whether it is known that CRLF ends all lines, and nothing else is in it of a line end."""
        seen = self.plan is None and isinstance(self.job.body, SeenBody)
        return seen and is_whole(self.job.head)

    def whole(self) -> bytes | None:
        """The same in one piece, where it is small and goes as it is."""
        if self.octets is None or self.plan is not None or self.fold:
            return None
        job = self.job
        return stuffed(self.octets, len(job.head) if isinstance(job.body, WholeBody) else None)
