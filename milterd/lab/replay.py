"""Play a recorded conversation to a milter again, and tell what it answers otherwise.

Every packet of the MTA's goes out as it was recorded, macros and garbage included, and no
sooner than the MTA sent it: after the answers that it had by then.  What the milter has
said in this negotiation that it does not want is left out.  Where it ends a message or the
session that went on, the rest of that is left out.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from milterd.lab import status
from milterd.lab.differences import Difference, Found, Rules, compare, negotiated
from milterd.lab.link import Fault, Link, MilterError, Patience, connect
from milterd.lab.script import Script, Step, Terms, is_final, script
from milterd.lab.tape import Conversation
from milterd.lab.wording import decoded, name_of
from milterd.wire import messages as m
from milterd.wire.errors import PeerError
from milterd.wire.frames import frame
from milterd.wire.states import EVENTS, CommandType

_REFUSALS = (m.Reject, m.TempFail, m.ReplyCode)
_HANG_UPS = (m.Shutdown, m.ConnFail)


class _Over(enum.IntEnum):
    """How much an answer ends."""

    NOTHING = 0
    MESSAGE = 1
    SESSION = 2


_BEGINNINGS: dict[_Over, tuple[CommandType, ...]] = {
    _Over.NOTHING: (),
    _Over.MESSAGE: (
        m.Abort, m.MailFrom, m.Helo, m.Connect, m.Quit, m.QuitNewConnection,
    ),
    _Over.SESSION: (m.Quit, m.QuitNewConnection),
}  # fmt: skip
"""What is played again after an end that came too soon."""


@dataclass(slots=True)
class Replayed:
    """What came of one connection.  `worst` is an exit status."""

    connection: int
    messages: int = 0
    events: int = 0
    differences: list[Difference] = field(default_factory=list)
    worst: int = status.GOOD


async def replay(
    conversation: Conversation, address: str, rules: Rules, patience: Patience
) -> Replayed:
    """Play it to the milter at `address`.

    Raises MilterError if there is no connection, MaskError, and ValueError for an address
    that is none; whatever goes wrong later is told as a difference.
    """
    made = script(conversation)
    async with connect(address, patience=patience) as link:
        playing = _Playing(made, link, rules)
        await playing.run()
        return playing.done


class _Playing:
    def __init__(self, made: Script, link: Link, rules: Rules) -> None:
        self._script, self._link, self._rules = made, link, rules
        self.done = Replayed(made.connection, made.messages)
        self._terms = Terms()
        self._pending: deque[Step] = deque()
        self._skip: CommandType | None = None
        self._over = _Over.NOTHING
        self._left_out = 0
        self._gone = False
        self._last = Step(0, 0, b"")

    async def run(self) -> None:
        for step in self._script.steps:
            await self._collect(step.owed)
            if self._gone:
                self._leave_out(step)
            else:
                await self._play(step)
        await self._collect(())
        if not self._gone:
            await self._end()
        self._told_left_out()

    async def _play(self, step: Step) -> None:
        if self._over:
            if step.kind not in _BEGINNINGS[self._over]:
                self._leave_out(step)
                return
            self._told_left_out()
            self._over = _Over.NOTHING
        wanted = self._wanted(step)
        octets = step.macros + (step.octets if wanted else b"")
        self._link.stage = step.event
        self.done.events += wanted
        self._last = step
        if not wanted:
            self._compare(step, [])
        elif step.due and not self._terms.answers(step.kind):
            # It was answered once, and goes unanswered now.
            self._compare(step, [])
        elif step.answer or self._terms.answers(step.kind):
            self._pending.append(step)
        if octets:
            try:
                await self._link.write(octets)
            except MilterError as error:
                self._fault(step, error, [])

    def _wanted(self, step: Step) -> bool:
        kind = step.kind
        if kind is None:
            return True
        if kind is self._skip:
            return False
        self._skip = None
        return kind not in self._terms.unsent

    async def _collect(self, owed: tuple[Step, ...]) -> None:
        """Wait for what the MTA had been told by then."""
        while self._pending and self._pending[0] not in owed and not self._gone:
            step = self._pending[0]
            if not step.answered and step.due and not self._script.hung_up and not step.garbage:
                # Nor did the MTA ever get an answer: it left.
                self._pending.popleft()
                continue
            await self._answer(self._pending.popleft())

    async def _answer(self, step: Step) -> None:
        packets: list[bytes] = []
        # One reply; more where the milter once gave more than it was asked for.
        finals = max(1, sum(is_final(each) for each in step.answer))
        self._link.stage = step.event
        try:
            while (found := await self._link.frame()) is not None:
                packets.append(frame(bytes((found[0],)), found[1]))
                finals -= is_final(packets[-1])
                if not finals:
                    self._compare(step, packets)
                    return
        except MilterError as error:
            self._fault(step, error, packets)
            return
        self._closed(step, packets)

    def _compare(self, step: Step, packets: list[bytes]) -> None:
        """Tell what differs, and go where this answer leads."""
        seen = _decoded(packets[-1]) if packets else None
        expected = _decoded(step.answer[-1]) if step.answer else None
        if isinstance(seen, m.Negotiate):
            self._terms = Terms.of(seen.version, seen.protocol)
            if isinstance(expected, m.Negotiate):
                self._tell(step, negotiated(expected, seen))
                return
        if packets and seen is None and packets != step.answer:
            self.done.worst = max(self.done.worst, status.BROKEN)
        if isinstance(seen, m.Skip):
            self._skip = step.kind
        was, now = step.answer, packets
        if isinstance(seen, m.Continue) and not step.due:
            now = now[:-1]
        elif isinstance(expected, m.Continue) and not packets:
            was = was[:-1]
        if was or now:
            self._tell(step, compare(was, now, self._rules))
        if _over(step.kind, seen) > _over(step.kind, expected):
            self._over = _over(step.kind, seen)

    def _closed(self, step: Step, packets: list[bytes]) -> None:
        """The milter closed where an answer is due."""
        self._gone = True
        if not step.answered and self._script.hung_up and not step.garbage:
            if step.answer or packets:
                self._tell(step, compare(step.answer, packets, self._rules))
            return
        self.done.worst = max(self.done.worst, status.GONE)
        self._tell(step, [("connection", self._then(step), "closed by the milter")])

    def _fault(self, step: Step, error: MilterError, packets: list[bytes]) -> None:
        """The milter did not answer in time, closed in the middle of a packet, or sent none."""
        self._gone = True
        hung_up = self._script.hung_up and not step.answered
        if error.fault is Fault.GONE and hung_up and not packets:
            return
        if error.fault is Fault.BROKEN and step.garbage:
            return
        self.done.worst = max(self.done.worst, error.fault.value)
        self._tell(step, [("connection", self._then(step), str(error))])

    async def _end(self) -> None:
        """Leave as the MTA did; a milter that had hung up must do so again."""
        if not self._script.hung_up:
            return
        self._link.stage = self._last.event
        try:
            closed = await self._link.closed()
        except MilterError as error:
            closed = error.fault is Fault.GONE
        if not closed:
            self._tell(self._last, [("connection", "closed by the milter", "still open")])

    def _tell(self, step: Step, found: Iterable[Found]) -> None:
        for what, expected, seen in found:
            self.done.worst = max(self.done.worst, status.BAD)
            self.done.differences.append(
                Difference(self._script.connection, step.message, step.event, what, expected, seen)
            )

    def _then(self, step: Step) -> str:
        """What was answered when it was recorded."""
        if not step.answered:
            return "closed by the milter" if self._script.hung_up else "no answer"
        reply = _decoded(step.answer[-1])
        return name_of(reply) if reply is not None else "an unreadable packet"

    def _leave_out(self, step: Step) -> None:
        """What is not played brings no edits either."""
        self._left_out += step.kind in EVENTS
        found = compare(step.answer, [], self._rules)
        self._tell(step, (each for each in found if each[0] != "reply"))

    def _told_left_out(self) -> None:
        if self._left_out:
            seen = f"{self._left_out} event{'' if self._left_out == 1 else 's'} left out"
            self._tell(self._last, [("rest", None, seen)])
            self._left_out = 0


def _decoded(packet: bytes) -> m.CommandMessage | m.Reply | None:
    try:
        return decoded("milter", packet)
    except PeerError:
        return None


def _over(kind: CommandType | None, reply: m.CommandMessage | m.Reply | None) -> _Over:
    """How much a reply to an event of this kind ends (Postfix's milter8.c)."""
    if isinstance(reply, _HANG_UPS):
        return _Over.SESSION
    if kind in (m.Connect, m.Helo):
        return _Over.SESSION if isinstance(reply, (m.Accept, *_REFUSALS)) else _Over.NOTHING
    if kind in (m.Unknown, m.Negotiate, m.EndOfMessage):
        return _Over.NOTHING
    if isinstance(reply, m.Accept | m.Discard):
        return _Over.MESSAGE
    if isinstance(reply, _REFUSALS) and kind is not m.RcptTo:
        return _Over.MESSAGE
    return _Over.NOTHING
