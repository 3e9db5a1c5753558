"""A session with one milter: mails offered one after the other, and what came of each.

The MTA is whichever the rules are; the socket and the clock are the link's.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from milterd.core.actions import Edit
from milterd.core.decision import Verdict
from milterd.core.mail import Mail, Session
from milterd.lab.link import Fault, Link, MilterError
from milterd.lab.mta_rules import Outcome, Rules
from milterd.wire import messages as m
from milterd.wire.agreement import NOT_OFFERED, Negotiated
from milterd.wire.errors import PeerError
from milterd.wire.replytext import SmtpReply, parse_reply
from milterd.wire.states import State

_NO_MAIL = Mail()


@dataclass(frozen=True, slots=True)
class StageReply:
    """One answer: the event it answers (`mail`, `header`...), and the reply.

    `subject` tells events of one kind apart: an address, a field's name.
    """

    stage: str
    subject: bytes
    reply: m.Reply


@dataclass(frozen=True, slots=True)
class Played:
    """What became of a mail.

    `edits` are those that count: none where the mail was not let pass.  `reply`
    is what the milter would have the client told, None for the MTA's own text.
    `refused` are recipients the milter refused, without brackets.  `violations`
    are breaches of the protocol that an MTA lets pass.  `before` and `after` are the
    mail as the MTA has it, its own field included and refused recipients left out,
    without the edits and with them.  `quarantine` is the reason it is held for, None for
    not held.  `notes` say which edits the MTA carries out otherwise than asked.
    `own_text` is the MTA's own text for this verdict, if it has one.
    """

    verdict: Verdict
    reply: SmtpReply | None
    edits: tuple[Edit, ...]
    replies: tuple[StageReply, ...]
    refused: tuple[bytes, ...] = ()
    violations: tuple[str, ...] = ()
    agreed: Negotiated | None = None
    before: Mail = _NO_MAIL
    after: Mail = _NO_MAIL
    quarantine: bytes | None = None
    notes: tuple[str, ...] = ()
    own_text: str = ""


_VERDICTS: dict[type[m.Reply], Verdict] = {
    m.Accept: Verdict.ACCEPT,
    m.Reject: Verdict.REJECT,
    m.TempFail: Verdict.TEMPFAIL,
    m.Discard: Verdict.DISCARD,
    m.Shutdown: Verdict.TEMPFAIL,
    m.ConnFail: Verdict.TEMPFAIL,
}
_PASSED = (Verdict.CONTINUE, Verdict.ACCEPT)
_HANG_UP = SmtpReply(421, "4.7.1", ("Service unavailable - try again later",))


def verdict_of(reply: m.Reply) -> tuple[Verdict, SmtpReply | None]:
    """What a reply decides, and what it would have the client told."""
    if isinstance(reply, m.ReplyCode):
        told = parse_reply(reply.text)
        return (Verdict.REJECT if told.code >= 500 else Verdict.TEMPFAIL), told
    told_by_mta = _HANG_UP if isinstance(reply, m.Shutdown) else None
    return _VERDICTS.get(type(reply), Verdict.CONTINUE), told_by_mta


def subject_of(event: m.CommandMessage) -> bytes:
    """What tells an event from others of its kind: an address, a name."""
    match event:
        case m.MailFrom() | m.RcptTo():
            return event.address
        case m.Header() | m.Helo():
            return event.name
        case m.Connect():
            return event.host
        case _:
            return b""


def settles(reply: m.Reply) -> bool:
    """Whether nothing more of this message need be told."""
    return not isinstance(reply, m.Continue | m.Skip | m.Progress | m.EditReply)


class Conversation:
    """One connection: `begin`, an `offer` for each mail, `end`.  All raise MilterError."""

    def __init__(self, link: Link, rules: Rules) -> None:
        self._link, self._mta, self._rules = link, link.mta, rules
        self._opening: tuple[StageReply, ...] = ()
        self._settled: m.Reply | None = None
        self._agreed: Negotiated | None = None
        self._replies: list[StageReply] = []
        self._refused: list[bytes] = []

    async def begin(self, session: Session) -> None:
        """The negotiation, CONNECT and HELO."""
        self._agreed = await self._link.negotiate()
        if not self._rules.lenient and NOT_OFFERED in self._mta.violations:
            raise self._link.broken(PeerError(NOT_OFFERED), 0)
        nobody = Mail(session)
        self._macros = self._rules.macros(nobody, self._mta.wanted)
        for event in self._rules.session_events(nobody):
            final = await self._say(event)
            if settles(final) and not isinstance(final, m.Discard):
                self._settled = final
                break
        self._opening = tuple(self._replies)

    async def offer(self, mail: Mail) -> Played:
        """One transaction.  The mail's own session is not looked at but for its macros."""
        self._replies, self._refused = list(self._opening), []
        taken = self._rules.take(mail)
        final = self._settled
        if final is None:
            self._macros = self._rules.macros(taken, self._mta.wanted)
            final = await self._transaction(taken)
            await self._after()
        return self._played(taken, final)

    async def end(self) -> None:
        """Hang up as the MTA does: Postfix without a word where the session is settled."""
        if self._settled is not None and self._rules.aborts:
            return
        last = (m.Abort(), m.Quit()) if self._rules.aborts else (m.Quit(),)
        try:
            await self._link.write(b"".join([self._mta.send(each) for each in last]))
        except MilterError as error:
            # All verdicts are known; who has left before need not be told of the end.
            if error.fault is not Fault.GONE:
                raise

    async def _after(self) -> None:
        if self._rules.aborts or self._mta.state not in (State.IDLE, State.CLOSING):
            await self._link.write(self._mta.send(m.Abort()))

    async def _transaction(self, mail: Mail) -> m.Reply:
        """The answer that settled it."""
        envelope = mail.envelope
        final = await self._say(m.MailFrom(b"<%b>" % envelope.sender, envelope.sender_args))
        if settles(final):
            return final
        for each in envelope.recipients:
            final = await self._say(m.RcptTo(b"<%b>" % each.address, each.args))
            if isinstance(final, m.Reject | m.TempFail | m.ReplyCode):
                self._refused.append(each.address)
                self._macros.refused()
            elif settles(final):
                return final
        if len(self._refused) == len(envelope.recipients):
            return final
        return await self._content(mail)

    async def _content(self, mail: Mail) -> m.Reply:
        final = await self._say(m.Data())
        if settles(final):
            return final
        for event in self._rules.content_events(mail, self._mta.leading_space):
            final = await self._say(event)
            if settles(final):
                return final
        return final

    async def _say(self, event: m.CommandMessage) -> m.Reply:
        """Send one event and wait for its answer; Continue where none is due."""
        final: m.Reply = m.Continue()
        octet = self._link.octet
        for reply in await self._link.say(event, self._macros.before(event)):
            if self._rules.bogus(type(event), type(reply)):
                what = f"{type(reply).__name__} in answer to {type(event).__name__}"
                raise self._link.broken(PeerError(what), octet)
            octet += len(reply.encode())
            self._replies.append(StageReply(self._link.stage, subject_of(event), reply))
            final = reply
        return final

    def _played(self, taken: Mail, final: m.Reply) -> Played:
        verdict, told = verdict_of(final)
        if self._settled is not None and not self._rules.connect_text:
            told = None if self._opening[-1].stage == "connect" else told
        before = self._without_refused(taken)
        outcome = Outcome(before)
        if verdict in _PASSED and self._settled is None:
            outcome = self._edited(before)
            if outcome.failure is not None:
                verdict, told = Verdict.TEMPFAIL, outcome.failure
        return Played(
            verdict,
            told,
            outcome.edits,
            tuple(self._replies),
            tuple(self._refused),
            self._mta.violations,
            self._agreed,
            before,
            outcome.mail,
            outcome.quarantine,
            outcome.notes,
            self._rules.told.get(verdict, ""),
        )

    def _edited(self, mail: Mail) -> Outcome:
        assert self._agreed is not None  # noqa: S101 - `begin` has come before
        asked = [each.reply for each in self._replies if isinstance(each.reply, m.EditReply)]
        return self._rules.edit(mail, asked, self._agreed)

    def _without_refused(self, mail: Mail) -> Mail:
        if not self._refused:
            return mail
        left = tuple(each for each in mail.envelope.recipients if each.address not in self._refused)
        return replace(mail, envelope=replace(mail.envelope, recipients=left))
