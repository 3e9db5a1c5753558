"""A milter's answers held against the protocol's tables, for one connection of a bench.

The same rules as `milterd.wire.mta`, without what a bench does not need: the plain
Continue that nearly every answer is never comes here.
"""

from __future__ import annotations

from milterd.wire import messages as m
from milterd.wire.agreement import Negotiated
from milterd.wire.constants import Protocol
from milterd.wire.errors import PeerError
from milterd.wire.frames import HEAD, FrameDecoder
from milterd.wire.limits import Limits
from milterd.wire.replytext import parse_reply
from milterd.wire.states import EDIT_ACTIONS, REPLIES, TOLERATED, CommandType


class Answers:
    """The frames of one milter; `good` counts the octets of those that were right."""

    __slots__ = ("_agreed", "_edits", "_frames", "_limits", "_octets", "good", "violations")

    def __init__(self, agreed: Negotiated, violations: dict[str, int]) -> None:
        self._agreed, self.violations = agreed, violations
        self._limits = Limits()
        self._frames = FrameDecoder(self._limits.frame)
        self._edits = self._octets = self.good = 0

    @property
    def partial(self) -> bool:
        """Whether octets wait for the rest of their packet."""
        return self._frames.buffered > 0

    def feed(self, data: bytes) -> None:
        """Take octets as they came."""
        self._frames.feed(data)

    def take(self, asked: CommandType) -> m.Reply | None:
        """The answer to an event, edits and progress before it counted and left out.

        None until it is there.  Raises PeerError for what may not answer it.
        """
        while (found := self._frames.next_frame()) is not None:
            reply = m.decode_reply(*found)
            if isinstance(reply, m.Negotiate):
                raise PeerError("negotiation comes once, and first")
            self._check(asked, reply, len(found[1]))
            self.good += HEAD + len(found[1])
            if not isinstance(reply, m.Progress) and type(reply) not in EDIT_ACTIONS:
                self._edits = self._octets = 0
                return reply
        return None

    def _check(self, asked: CommandType, reply: m.Reply, octets: int) -> None:
        kind = type(reply)
        if kind not in REPLIES[asked]:
            if kind not in TOLERATED[asked]:
                raise PeerError(f"{kind.__name__} in answer to {asked.__name__}")
            self._note(f"{kind.__name__} in answer to {asked.__name__}")
        if isinstance(reply, m.ReplyCode):
            parse_reply(reply.text, self._limits)
        elif isinstance(reply, m.Skip) and Protocol.SKIP not in self._agreed.protocol:
            self._note("Skip without having negotiated it")
        elif kind in EDIT_ACTIONS:
            self._count(reply, octets)

    def _count(self, reply: m.Reply, octets: int) -> None:
        if EDIT_ACTIONS[type(reply)] not in self._agreed.actions:
            self._note(f"{type(reply).__name__} without having negotiated it")
        self._edits += 1
        self._octets += octets
        if self._edits > self._limits.edits or self._octets > self._limits.replaced_body:
            raise PeerError(f"{self._edits} edits of {self._octets} octets")

    def _note(self, violation: str) -> None:
        self.violations[violation] = self.violations.get(violation, 0) + 1
