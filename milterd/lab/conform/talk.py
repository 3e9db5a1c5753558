"""One connection of a check: events as Postfix sends them, answers as values.

A milter may settle a message or a session at any event; what a check wanted to see
after that is not to be seen, and the check does not apply (NotApplicableError).
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Iterator, Sequence

from milterd.core.mail import Mail
from milterd.lab.conform.check import fail, not_applicable
from milterd.lab.conform.judged import Judged
from milterd.lab.link import STAGES, Link
from milterd.lab.postfix import Macros, content_events, session_events
from milterd.lab.show import readable, reply_name
from milterd.wire import messages as m
from milterd.wire.agreement import Negotiated
from milterd.wire.states import EVENTS, CommandType, unanswered_commands, unsent_commands


def settles(reply: m.Reply | None) -> bool:
    """Whether nothing more of this message, or session, need be told."""
    return not isinstance(reply, None | m.Continue | m.Skip | m.Progress | m.EditReply)


def refuses(reply: m.Reply | None) -> bool:
    """Whether it is a refusal, of a recipient or of more."""
    return isinstance(reply, m.Reject | m.TempFail | m.ReplyCode)


def message_events(
    mail: Mail, leading_space: bool, chunks: Sequence[bytes] | None = None
) -> Iterator[m.CommandMessage]:
    """MAIL to end of message; `chunks` are the body's pieces if not the usual ones."""
    envelope = mail.envelope
    yield m.MailFrom(b"<%b>" % envelope.sender, envelope.sender_args)
    for each in envelope.recipients:
        yield m.RcptTo(b"<%b>" % each.address, each.args)
    yield m.Data()
    for event in content_events(mail, leading_space):
        if chunks is None or not isinstance(event, m.BodyChunk | m.EndOfMessage):
            yield event
    if chunks is not None:
        yield from map(m.BodyChunk, chunks)
        yield m.EndOfMessage()


def _shown(code: int, payload: bytes) -> str:
    return readable(bytes((code,)) + payload)


class Manner(enum.Enum):
    """How the octets leave: each event in one write, one octet a write, or as many events in
    one write as need no answer."""

    WHOLE = enum.auto()
    FRAGMENTS = enum.auto()
    COALESCED = enum.auto()


MacroOctets = Callable[[m.CommandMessage, Sequence[tuple[bytes, bytes]]], bytes]
"""The macro packets to send before an event, wanted or not, made of the usual pairs."""


class Talk:
    """A conversation; `mail` is whose session it is, `heard` what was answered to what."""

    def __init__(self, link: Link, mail: Mail) -> None:
        self.link, self.mta, self.mail = link, link.mta, mail
        self.edits: list[m.EditReply] = []
        self.agreed = Negotiated(0, link.mta.agreed_actions, link.mta.agreed_protocol)
        self.heard: list[tuple[CommandType, m.Reply]] = []
        self.manner = Manner.WHOLE
        self.macro_octets: MacroOctets | None = None
        self._held = b""
        self._macros: Macros | None = None

    async def negotiate(self) -> Negotiated:
        """Agree, on what the link was made to offer."""
        self.agreed = await self.link.negotiate()
        return self.agreed

    async def open(self) -> Talk:
        """Negotiation, CONNECT and HELO; does not apply if that settles the session."""
        await self.negotiate()
        await self.begin_session()
        return self

    async def begin_session(self) -> None:
        """CONNECT and HELO; does not apply if that settles the session."""
        for event in session_events(self.mail):
            await self._step(event)

    async def reach(self, kind: CommandType) -> m.Reply | None:
        """Everything from the negotiation to the first event of a kind, and its reply."""
        await self.negotiate()
        for event in session_events(self.mail):
            reply = await self._step(event)
            if type(event) is kind:
                return reply
        if kind is m.Unknown:
            return await self.say(m.Unknown(b"XLAB unknown"))
        return await self.until(kind)

    async def reach_open(self, kind: CommandType) -> None:
        """As `reach`; does not apply if that very event settles the message."""
        reply = await self.reach(kind)
        if settles(reply):
            not_applicable(f"the milter settles it before: {self.told(reply)}")

    async def say(
        self, event: m.CommandMessage, macros: Sequence[tuple[bytes, bytes]] | None = None
    ) -> m.Reply | None:
        """Send an event with its macros; the reply, None where none is due."""
        pairs = self.macros_for(event)
        self.link.stage = STAGES[type(event)]
        pairs = pairs if macros is None else macros
        if self.macro_octets is None or type(event) not in EVENTS:
            octets = self.mta.send(event, pairs)
        else:
            octets = self.macro_octets(event, pairs) + self.mta.send(event)
        await self._send(octets)
        replies = await self.link.answers()
        self.edits += [each for each in replies if isinstance(each, m.EditReply)]
        if replies:
            self.heard.append((type(event), replies[-1]))
        return replies[-1] if replies else None

    async def _send(self, octets: bytes) -> None:
        self._held += octets
        if self.manner is Manner.COALESCED and not self.mta.awaiting:
            return
        held, self._held = self._held, b""
        size = 1 if self.manner is Manner.FRAGMENTS else len(held)
        for at in range(0, len(held), max(size, 1)):
            await self.link.write(held[at : at + size])
            if self.manner is Manner.FRAGMENTS:
                await asyncio.sleep(0)

    def macros_for(self, event: m.CommandMessage) -> Sequence[tuple[bytes, bytes]]:
        """What Postfix would say before this event: nothing before one without an answer."""
        if type(event) not in EVENTS:
            return ()
        if self._macros is None:
            self._macros = Macros(self.mail, self.mta.wanted)
        return self._macros.before(event)

    def withholds(self, kind: CommandType) -> bool:
        """Whether the milter wants no events of this kind."""
        return kind in unsent_commands(self.agreed.protocol, self.agreed.version)

    def answers(self, kind: CommandType) -> bool:
        """Whether the milter answers events of this kind."""
        return kind not in unanswered_commands(self.agreed.protocol)

    async def until(self, last: CommandType, mail: Mail | None = None) -> m.Reply | None:
        """A message up to its first `last`, and the reply to that; does not apply if the
        message is settled before."""
        self._begin(mail)
        reply = None
        for event in message_events(self.mail, self.mta.leading_space):
            if type(event) is last:
                return await self.say(event)
            reply = await self._step(event)
        return reply

    async def _step(self, event: m.CommandMessage) -> m.Reply | None:
        reply = await self.say(event)
        of_one = isinstance(event, m.RcptTo) and refuses(reply)
        of_none = isinstance(event, m.Connect | m.Helo) and isinstance(reply, m.Discard)
        if settles(reply) and not of_one and not of_none:
            not_applicable(f"the milter settles it before: {self.told(reply)}")
        return reply

    async def message(
        self, mail: Mail | None = None, *, chunks: Sequence[bytes] | None = None
    ) -> Judged:
        """A whole message, and the ABORT after it, as Postfix has it."""
        judged = await self.transaction(mail, chunks=chunks)
        await self.say(m.Abort())
        return judged

    async def transaction(
        self, mail: Mail | None = None, *, chunks: Sequence[bytes] | None = None
    ) -> Judged:
        """A whole message, and nothing after it."""
        self._begin(mail)
        refused = 0
        reply: m.Reply | None = None
        for event in message_events(self.mail, self.mta.leading_space, chunks):
            reply = await self.say(event)
            if isinstance(event, m.RcptTo) and refuses(reply):
                refused += 1
                if self._macros is not None:
                    self._macros.refused()
                if refused == len(self.mail.envelope.recipients):
                    break
            elif settles(reply):
                break
        return Judged(self.link.stage, reply or m.Continue(), tuple(self.edits))

    def _begin(self, mail: Mail | None) -> None:
        self.mail, self.edits = mail or self.mail, []
        self._macros = Macros(self.mail, self.mta.wanted)

    async def quit(self) -> None:
        """QUIT, and what comes after it: nothing but the milter's end."""
        self.link.stage = STAGES[m.Quit]
        self.manner = Manner.WHOLE
        await self._send(self.mta.send(m.Quit()))
        frame = await self.link.frame()
        if frame is not None:
            self.fail(f"packet {_shown(*frame)} after everything was answered")

    async def rest(self) -> list[str]:
        """All packets up to the milter's end of file, in words."""
        found = []
        while (frame := await self.link.frame()) is not None:
            found.append(_shown(*frame))
        return found

    def told(self, reply: m.Reply | None) -> str:
        """A reply and where it was given."""
        return f"{reply_name(reply)} at {self.link.stage}" if reply else "no reply"

    def fail(self, seen: str) -> None:
        """End the check as failed at this place of the conversation."""
        fail(seen, self.link.stage, self.link.octet)
