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

So each milter has its own connection, open from the first event to the last.  An MTA puts
a Received field of its own on top, which milters neither see nor can change, but which an
insertion counts; one stands in for it here, and is taken off what is given out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from milterd.core.actions import Edit
from milterd.core.apply import apply
from milterd.core.decision import Verdict
from milterd.core.mail import HeaderField, Mail, Recipient
from milterd.lab.client import Played, StageReply, settles, subject_of, verdict_of
from milterd.lab.link import Link, MilterError, Patience, connect
from milterd.lab.postfix import Macros, content_events, session_events
from milterd.wire import messages as m
from milterd.wire.constants import NEWEST_VERSION
from milterd.wire.convert import EditCollector
from milterd.wire.errors import PeerError
from milterd.wire.mta import Negotiated
from milterd.wire.replytext import SmtpReply

Editing = Callable[[Mail, tuple[Edit, ...]], Mail]
"""How the MTA carries out a milter's edits."""

_TRACE = HeaderField(b"Received", b" by the MTA", hidden=True)
_PASSED = (Verdict.CONTINUE, Verdict.ACCEPT)
_REFUSALS = (m.Reject, m.TempFail, m.ReplyCode)


@dataclass(frozen=True, slots=True)
class Part:
    """One milter's part: what it answered, and the mail before and after it.

    `shown` is whether it was shown the message; without that it has heard some of the
    envelope at most.
    """

    address: str
    played: Played
    shown: bool
    before: Mail
    after: Mail


@dataclass(frozen=True, slots=True)
class Chained:
    """What became of the mail: the parts in order, and which of them ended it, if one did."""

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
    editing: Editing = apply,
) -> Chained:
    """Offer `mail` to the milters at `addresses`, in this order, on one SMTP session.

    Raises MilterError, which names the milter, and ValueError for an address that is none.
    """
    async with AsyncExitStack() as stack:
        members = []
        for address in addresses:
            link = await stack.enter_async_context(
                connect(address, patience=patience, version=version)
            )
            members.append(_Member(address, link))
        traced = mail.with_headers((_TRACE, *mail.headers))
        return await _Chain(members, traced, editing).run()


def _untraced(mail: Mail) -> Mail:
    return mail.with_headers(each for each in mail.headers if each is not _TRACE)


class _Ended(Exception):  # noqa: N818  # no error: how the chain stops
    """A milter has decided about the whole mail."""

    def __init__(self, member: _Member, reply: m.Reply) -> None:
        super().__init__()
        self.member, self.reply = member, reply


@dataclass(eq=False)
class _Member:
    """One milter on its connection, and what it has said."""

    address: str
    link: Link
    agreed: Negotiated | None = None
    replies: list[StageReply] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)
    final: m.Reply = field(default_factory=m.Continue)
    edits: tuple[Edit, ...] = ()
    listens: bool = True
    shown: tuple[Mail, Mail] | None = None

    async def open(self, mail: Mail) -> None:
        try:
            self.agreed = await self.link.negotiate()
        except MilterError as error:
            raise self._named(error) from error
        self._macros = Macros(mail, self.link.mta.wanted)
        self._collected = EditCollector(self.link.mta.leading_space)

    async def say(self, event: m.CommandMessage) -> m.Reply:
        """Its answer to one event; Continue where none is due."""
        final: m.Reply = m.Continue()
        try:
            for reply in await self.link.say(event, self._macros.before(event)):
                self.replies.append(StageReply(self.link.stage, subject_of(event), reply))
                if isinstance(reply, m.EditReply):
                    self._collected.take(reply)
                final = reply
        except PeerError as error:
            raise self._named(self.link.broken(error)) from error
        except MilterError as error:
            raise self._named(error) from error
        return final

    async def show(self, mail: Mail) -> m.Reply:
        """Show it the message; its answer to that."""
        final: m.Reply = m.Continue()
        for event in content_events(mail, self.link.mta.leading_space):
            final = await self.say(event)
            if settles(final):
                break
        if verdict_of(final)[0] in _PASSED:
            self.edits = self._collected.edits()
        return final

    async def bye(self) -> None:
        """End the session."""
        try:
            await self.link.bye()
        except MilterError as error:
            raise self._named(error) from error

    def part(self, mail: Mail) -> Part:
        """What is to be told of it; `mail` is what it would have been shown."""
        verdict, told = verdict_of(self.final)
        violations = self.link.mta.violations
        refused, replies = tuple(self.refused), tuple(self.replies)
        played = Played(verdict, told, self.edits, replies, refused, violations, self.agreed)
        before, after = map(_untraced, self.shown or (mail, mail))
        return Part(self.address, played, self.shown is not None, before, after)

    def _named(self, error: MilterError) -> MilterError:
        text = f"{self.address}: {error}"
        return MilterError(error.fault, text, error.stage, error.octet)


class _Chain:
    """One mail before all members."""

    def __init__(self, members: list[_Member], mail: Mail, editing: Editing) -> None:
        self._members, self._mail, self._editing = members, mail, editing

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
            ended.member.final = stop.reply
        for each in self._members:
            await each.bye()
        parts = tuple(each.part(self._mail) for each in self._members)
        mail = _untraced(self._mail)
        if ended is None:
            return Chained(parts, mail)
        verdict, told = verdict_of(ended.reply)
        return Chained(parts, mail, verdict, told, self._members.index(ended.member))

    async def _session(self) -> None:
        for event in session_events(self._mail):
            for member in self._listening():
                reply = await member.say(event)
                # Postfix warns of a discard here, and goes on.
                if not isinstance(reply, m.Discard):
                    self._settle(member, reply)

    async def _envelope(self) -> None:
        envelope = self._mail.envelope
        await self._all(m.MailFrom(b"<%b>" % envelope.sender, envelope.sender_args))
        last: _Ended | None = None
        for recipient in envelope.recipients:
            last = await self._recipient(recipient) or last
        refused = {each for member in self._members for each in member.refused}
        left = tuple(each for each in envelope.recipients if each.address not in refused)
        if last is not None and not left:
            raise last
        self._mail = replace(self._mail, envelope=replace(envelope, recipients=left))
        await self._all(m.Data())

    async def _recipient(self, recipient: Recipient) -> _Ended | None:
        """Tell of one recipient, up to the first that refuses it."""
        event = m.RcptTo(b"<%b>" % recipient.address, recipient.args)
        for member in self._listening():
            reply = await member.say(event)
            if isinstance(reply, _REFUSALS):
                member.refused.append(recipient.address)
                return _Ended(member, reply)
            self._settle(member, reply)
        return None

    async def _content(self) -> None:
        for member in self._listening():
            before = self._mail
            member.final = reply = await member.show(before)
            self._mail = self._editing(before, member.edits)
            member.shown = before, self._mail
            self._settle(member, reply)

    async def _all(self, event: m.CommandMessage) -> None:
        for member in self._listening():
            self._settle(member, await member.say(event))

    def _listening(self) -> list[_Member]:
        return [each for each in self._members if each.listens]

    def _settle(self, member: _Member, reply: m.Reply) -> None:
        """Let a milter go that has accepted; raise _Ended where one has decided otherwise."""
        if isinstance(reply, m.Accept):
            member.listens, member.final = False, reply
        elif settles(reply):
            raise _Ended(member, reply)
