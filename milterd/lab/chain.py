"""Several milters and one mail, asked as Postfix asks the list in smtpd_milters.

Seen on the wire of Postfix 3.7 with two scripted milters:

- Each event of the session and the envelope goes to every milter in turn before the next
  event.  A milter that refuses ends that event: those after it never hear of it, and of a
  refused recipient not even where they asked for such (RCPT_REJ is for smtpd's own refusals).
- A milter that accepts early hears no more; the others do.  A discard of one is the end for
  all.
- The message goes to one milter after the other, whole: the second is shown the header and
  the body as the first has left them.
- What a milter does to the envelope the later ones are not told: they have heard MAIL and
  RCPT before.  It counts all the same, one milter's changes on top of the other's.

So each milter has its own connection, open from the first event to the last.  What MTA is
played, and what it makes of the edits, the rules say.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from milterd.core.decision import Verdict
from milterd.core.mail import Mail, Recipient
from milterd.lab.client import Played, StageReply, settles, subject_of, verdict_of
from milterd.lab.link import Fault, Link, MilterError, Patience, connect
from milterd.lab.mta_rules import RULES, Outcome, Rules
from milterd.wire import messages as m
from milterd.wire.agreement import NOT_OFFERED, Negotiated
from milterd.wire.constants import NEWEST_VERSION
from milterd.wire.errors import PeerError
from milterd.wire.replytext import SmtpReply
from milterd.wire.states import State

_PASSED = (Verdict.CONTINUE, Verdict.ACCEPT)
_REFUSALS = (m.Reject, m.TempFail, m.ReplyCode)
_POSTFIX = RULES["postfix"]


@dataclass(frozen=True, slots=True)
class Part:
    """One milter's part: what it answered, with the mail before and after it.

    `shown` is whether it was shown the message; without that it has heard some of the
    envelope at most.
    """

    address: str
    played: Played
    shown: bool


@dataclass(frozen=True, slots=True)
class Chained:
    """What became of the mail: the parts in order, and which of them ended it, if one did.

    `mail` is as the MTA has it, its own Received field included, which is hidden.
    """

    parts: tuple[Part, ...]
    mail: Mail
    verdict: Verdict = Verdict.CONTINUE
    reply: SmtpReply | None = None
    ended_by: int | None = None

    @property
    def refused(self) -> tuple[bytes, ...]:
        """Recipients that some milter refused."""
        return tuple(each for part in self.parts for each in part.played.refused)


async def play_chain(
    addresses: Sequence[str],
    mail: Mail,
    *,
    version: int = NEWEST_VERSION,
    patience: Patience | None = None,
    rules: Rules = _POSTFIX,
) -> Chained:
    """Offer `mail` to the milters at `addresses`, in this order, on one SMTP session.

    Raises MilterError, which names the milter, and ValueError for an address that is none.
    """
    async with AsyncExitStack() as stack:
        members = []
        for address in addresses:
            link = await stack.enter_async_context(
                connect(address, patience=patience, version=version, macros_always=True)
            )
            members.append(_Member(address, link, rules))
        return await _Chain(members, rules.take(mail), rules).run()


class _Ended(Exception):  # noqa: N818  # no error: how the chain stops
    """A milter has decided about the whole mail; `told` goes before the reply's own text."""

    def __init__(self, member: _Member, verdict: Verdict, told: SmtpReply | None) -> None:
        super().__init__()
        self.member, self.verdict, self.told = member, verdict, told


@dataclass(eq=False)
class _Member:
    """One milter on its connection, and what it has said."""

    address: str
    link: Link
    rules: Rules
    agreed: Negotiated | None = None
    replies: list[StageReply] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)
    verdict: Verdict = Verdict.CONTINUE
    told: SmtpReply | None = None
    listens: bool = True
    hung_up: bool = False
    before: Mail | None = None
    outcome: Outcome | None = None

    async def open(self, mail: Mail) -> None:
        """The negotiation."""
        try:
            self.agreed = await self.link.negotiate()
            if not self.rules.lenient and NOT_OFFERED in self.link.mta.violations:
                raise self.link.broken(PeerError(NOT_OFFERED), 0)
        except MilterError as error:
            raise self._named(error) from error
        self.macros = self.rules.macros(mail, self.link.mta.wanted)

    async def say(self, event: m.CommandMessage) -> m.Reply:
        """Its answer to one event; Continue where none is due."""
        try:
            return await self._say(event)
        except MilterError as error:
            raise self._named(error) from error

    async def _say(self, event: m.CommandMessage) -> m.Reply:
        final: m.Reply = m.Continue()
        octet = self.link.octet
        for reply in await self.link.say(event, self.macros.before(event)):
            if self.rules.bogus(type(event), type(reply)):
                what = f"{type(reply).__name__} in answer to {type(event).__name__}"
                raise self.link.broken(PeerError(what), octet)
            octet += len(reply.encode())
            self.replies.append(StageReply(self.link.stage, subject_of(event), reply))
            final = reply
        return final

    async def show(self, mail: Mail) -> m.Reply:
        """Show it the message; its answer to that, its edits in `outcome`."""
        final: m.Reply = m.Continue()
        for event in self.rules.content_events(mail, self.link.mta.leading_space):
            final = await self.say(event)
            if settles(final):
                break
        self.before, self.outcome = mail, Outcome(mail)
        if verdict_of(final)[0] in _PASSED and self.agreed is not None:
            asked = [each.reply for each in self.replies if isinstance(each.reply, m.EditReply)]
            self.outcome = self.rules.edit(mail, asked, self.agreed)
        return final

    async def bye(self) -> None:
        """End the session as the MTA does: Postfix without a word to one that left it early."""
        aborts, state = self.rules.aborts, self.link.mta.state
        octets = b""
        if not self.hung_up:
            if aborts or state not in (State.IDLE, State.CLOSING):
                octets += self.link.mta.send(m.Abort())
            octets += self.link.mta.send(m.Abort()) if aborts else b""
        if not (self.hung_up and aborts):
            octets += self.link.mta.send(m.Quit())
        try:
            if octets:
                await self.link.write(octets)
        except MilterError as error:
            # All is known by then; who has left before need not be told of the end.
            if error.fault is not Fault.GONE:
                raise self._named(error) from error

    def part(self, mail: Mail) -> Part:
        """What is to be told of it; `mail` is what it would have been shown."""
        before = self.before or mail
        outcome = self.outcome or Outcome(before)
        if outcome.failure is not None:
            outcome = Outcome(before)
        played = Played(
            verdict=self.verdict,
            reply=self.told,
            edits=outcome.edits,
            replies=tuple(self.replies),
            refused=tuple(self.refused),
            violations=self.link.mta.violations,
            agreed=self.agreed,
            before=before,
            after=outcome.mail,
            quarantine=outcome.quarantine,
            notes=outcome.notes,
            own_text=self.rules.told.get(self.verdict, ""),
        )
        return Part(self.address, played, self.before is not None)

    def _named(self, error: MilterError) -> MilterError:
        text = f"{self.address}: {error}"
        return MilterError(error.fault, text, error.stage, error.octet)


class _Chain:
    """One mail before all members."""

    def __init__(self, members: list[_Member], mail: Mail, rules: Rules) -> None:
        self._members, self._mail, self._rules = members, mail, rules

    async def run(self) -> Chained:
        for each in self._members:
            await each.open(self._mail)
        ended: _Ended | None = None
        try:
            await self._session()
            await self._envelope()
            await self._content()
        except _Ended as stop:
            ended = stop
            stop.member.verdict, stop.member.told = stop.verdict, stop.told
        for each in self._members:
            await each.bye()
        parts = tuple(each.part(self._mail) for each in self._members)
        if ended is None:
            return Chained(parts, self._mail)
        number = self._members.index(ended.member)
        return Chained(parts, self._mail, ended.verdict, ended.told, number)

    async def _session(self) -> None:
        for event in self._rules.session_events(self._mail):
            for member in self._listening():
                reply = await member.say(event)
                # MTAs warn of a discard here, and go on.
                if settles(reply) and not isinstance(reply, m.Discard):
                    member.hung_up = True
                    texted = self._rules.connect_text or not isinstance(event, m.Connect)
                    self._settle(member, reply, texted=texted)

    async def _envelope(self) -> None:
        envelope = self._mail.envelope
        await self._all(m.MailFrom(b"<%b>" % envelope.sender, envelope.sender_args))
        last: _Ended | None = None
        left: list[Recipient] = []
        for recipient in envelope.recipients:
            refused = await self._recipient(recipient)
            if refused is None:
                left.append(recipient)
            last = refused or last
        if last is not None and not left:
            raise last
        self._mail = replace(self._mail, envelope=replace(envelope, recipients=tuple(left)))
        await self._all(m.Data())

    async def _recipient(self, recipient: Recipient) -> _Ended | None:
        """Tell of one recipient, up to the first that refuses it."""
        event = m.RcptTo(b"<%b>" % recipient.address, recipient.args)
        for number, member in enumerate(listening := self._listening(), 1):
            reply = await member.say(event)
            if isinstance(reply, _REFUSALS):
                member.refused.append(recipient.address)
                for each in listening[:number]:
                    each.macros.refused()
                return _Ended(member, *verdict_of(reply))
            self._settle(member, reply)
        return None

    async def _content(self) -> None:
        for member in self._listening():
            reply = await member.show(self._mail)
            self._settle(member, reply)
            outcome = member.outcome
            if outcome is not None and outcome.failure is not None:
                raise _Ended(member, Verdict.TEMPFAIL, outcome.failure)
            self._mail = self._mail if outcome is None else outcome.mail

    async def _all(self, event: m.CommandMessage) -> None:
        for member in self._listening():
            self._settle(member, await member.say(event))

    def _listening(self) -> list[_Member]:
        return [each for each in self._members if each.listens]

    def _settle(self, member: _Member, reply: m.Reply, *, texted: bool = True) -> None:
        """Let a milter go that has accepted; raise _Ended where one has decided otherwise."""
        if isinstance(reply, m.Accept):
            member.listens, member.verdict = False, Verdict.ACCEPT
        elif settles(reply):
            verdict, told = verdict_of(reply)
            raise _Ended(member, verdict, told if texted else None)
