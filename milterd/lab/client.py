"""Play Postfix to one milter with one mail, and report what the milter said.

Every wait has a limit.  Whatever the milter does wrong (not there, silent, gone,
out of step) is a `MilterError`, and then no edit of it counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from milterd.core.actions import Edit
from milterd.core.decision import Verdict
from milterd.core.mail import Mail
from milterd.lab.link import Link, MilterError, Patience, Tap, connect
from milterd.lab.postfix import Macros, content_events, session_events
from milterd.wire import messages as m
from milterd.wire.constants import NEWEST_VERSION
from milterd.wire.convert import EditCollector
from milterd.wire.errors import PeerError
from milterd.wire.mta import Negotiated
from milterd.wire.replytext import SmtpReply, parse_reply

__all__ = [
    "MilterError",
    "Played",
    "StageReply",
    "play",
    "settles",
    "subject_of",
    "verdict_of",
]


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
    are breaches of the protocol that an MTA lets pass.
    """

    verdict: Verdict
    reply: SmtpReply | None
    edits: tuple[Edit, ...]
    replies: tuple[StageReply, ...]
    refused: tuple[bytes, ...] = ()
    violations: tuple[str, ...] = ()
    agreed: Negotiated | None = None


async def play(
    address: str,
    mail: Mail,
    *,
    version: int = NEWEST_VERSION,
    patience: Patience | None = None,
    tap: Tap | None = None,
) -> Played:
    """Offer `mail` to the milter at `address` as Postfix does, and end the connection.

    `address` is `unix:PATH` or `inet:PORT@HOST`.  Raises MilterError, and
    ValueError for an address that is none.
    """
    async with connect(address, patience=patience, version=version, tap=tap) as link:
        return await _Conversation(link).run(mail)


_VERDICTS: dict[type[m.Reply], Verdict] = {
    m.Accept: Verdict.ACCEPT,
    m.Reject: Verdict.REJECT,
    m.TempFail: Verdict.TEMPFAIL,
    m.Discard: Verdict.DISCARD,
    m.Shutdown: Verdict.TEMPFAIL,
    m.ConnFail: Verdict.TEMPFAIL,
}
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


class _Conversation:
    """One mail on one connection, from the negotiation to Quit."""

    def __init__(self, link: Link) -> None:
        self._link, self._mta = link, link.mta
        self._replies: list[StageReply] = []
        self._edits = EditCollector(False)

    async def run(self, mail: Mail) -> Played:
        agreed = await self._link.negotiate()
        self._edits = EditCollector(self._mta.leading_space)
        self._macros = Macros(mail, self._mta.wanted)
        final, refused = await self._session(mail)
        verdict, told = verdict_of(final)
        passed = verdict in (Verdict.CONTINUE, Verdict.ACCEPT)
        edits = self._edits.edits() if passed else ()
        violations = self._mta.violations
        await self._link.bye()
        return Played(verdict, told, edits, tuple(self._replies), refused, violations, agreed)

    async def _session(self, mail: Mail) -> tuple[m.Reply, tuple[bytes, ...]]:
        """The answer that settled it, and the recipients refused before that."""
        for event in session_events(mail):
            final = await self._say(event)
            if settles(final) and not isinstance(final, m.Discard):
                return final, ()
        envelope = mail.envelope
        final = await self._say(m.MailFrom(b"<%b>" % envelope.sender, envelope.sender_args))
        if settles(final):
            return final, ()
        refused: list[bytes] = []
        for each in envelope.recipients:
            final = await self._say(m.RcptTo(b"<%b>" % each.address, each.args))
            if isinstance(final, m.Reject | m.TempFail | m.ReplyCode):
                refused.append(each.address)
            elif settles(final):
                return final, tuple(refused)
        if len(refused) == len(envelope.recipients):
            return final, tuple(refused)
        return await self._content(mail), tuple(refused)

    async def _content(self, mail: Mail) -> m.Reply:
        final = await self._say(m.Data())
        if settles(final):
            return final
        for event in content_events(mail, self._mta.leading_space):
            final = await self._say(event)
            if settles(final):
                return final
        return final

    async def _say(self, event: m.CommandMessage) -> m.Reply:
        """Send one event and wait for its answer; Continue where none is due."""
        final: m.Reply = m.Continue()
        for reply in await self._link.say(event, self._macros.before(event)):
            self._replies.append(StageReply(self._link.stage, subject_of(event), reply))
            if isinstance(reply, m.EditReply):
                self._take(reply)
            final = reply
        return final

    def _take(self, edit: m.EditReply) -> None:
        try:
            self._edits.take(edit)
        except PeerError as error:
            raise self._link.broken(error) from error


def settles(reply: m.Reply) -> bool:
    """Whether nothing more of this message need be told."""
    return not isinstance(reply, m.Continue | m.Skip | m.Progress | m.EditReply)
