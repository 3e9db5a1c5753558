"""Play Postfix to one milter with one mail, and report what the milter said.

Every wait has a limit.  Whatever the milter does wrong (not there, silent, gone,
out of step) is a `MilterError`, and then no edit of it counts.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from milterd.base.sockets import parse
from milterd.core.actions import Edit
from milterd.core.decision import Verdict
from milterd.core.mail import Mail
from milterd.lab.postfix import Macros, content_events, session_events
from milterd.wire import messages as m
from milterd.wire.constants import NEWEST_VERSION
from milterd.wire.convert import EditCollector
from milterd.wire.errors import PeerError
from milterd.wire.mta import MtaConnection, Negotiated
from milterd.wire.replytext import SmtpReply, parse_reply

_READ = 65536


class MilterError(Exception):
    """The milter could not be reached, did not answer in time, or broke the protocol."""


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
    timeout: float = 30.0,  # noqa: ASYNC109 - a limit for each answer, not for the call
) -> Played:
    """Offer `mail` to the milter at `address` as Postfix does, and end the connection.

    `address` is `unix:PATH` or `inet:PORT@HOST`; `timeout` is in seconds, for
    the connection and for each answer.  Raises MilterError, and ValueError for an
    address that is none.
    """
    target = parse(address)
    try:
        async with asyncio.timeout(timeout):
            if target.kind == "unix":
                streams = await asyncio.open_unix_connection(target.path)
            else:
                streams = await asyncio.open_connection(target.host, target.port)
    except TimeoutError:
        raise MilterError(f"no connection to {address} within {timeout:g} s") from None
    except OSError as error:
        raise MilterError(f"no connection to {address}: {error.strerror or error}") from error
    conversation = _Conversation(*streams, MtaConnection(version=version), timeout)
    try:
        return await conversation.run(mail)
    except PeerError as error:
        raise MilterError(f"protocol error: {error.reason}") from error
    except TimeoutError:
        raise MilterError(f"no answer to {conversation.stage} within {timeout:g} s") from None
    except OSError as error:
        reason = error.strerror or error
        raise MilterError(f"connection lost at {conversation.stage}: {reason}") from error
    finally:
        await conversation.close()


_VERDICTS: dict[type[m.Reply], Verdict] = {
    m.Accept: Verdict.ACCEPT,
    m.Reject: Verdict.REJECT,
    m.TempFail: Verdict.TEMPFAIL,
    m.Discard: Verdict.DISCARD,
    m.Shutdown: Verdict.TEMPFAIL,
    m.ConnFail: Verdict.TEMPFAIL,
}
_HANG_UP = SmtpReply(421, "4.7.1", ("Service unavailable - try again later",))
_STAGES: dict[type[m.CommandMessage], str] = {
    m.Negotiate: "negotiate",
    m.Connect: "connect",
    m.Helo: "helo",
    m.MailFrom: "mail",
    m.RcptTo: "rcpt",
    m.Data: "data",
    m.Header: "header",
    m.EndOfHeaders: "end of headers",
    m.BodyChunk: "body",
    m.EndOfMessage: "end of message",
}


def _verdict(reply: m.Reply) -> tuple[Verdict, SmtpReply | None]:
    if isinstance(reply, m.ReplyCode):
        told = parse_reply(reply.text)
        return (Verdict.REJECT if told.code >= 500 else Verdict.TEMPFAIL), told
    told_by_mta = _HANG_UP if isinstance(reply, m.Shutdown) else None
    return _VERDICTS.get(type(reply), Verdict.CONTINUE), told_by_mta


def _subject(event: m.CommandMessage) -> bytes:
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
    """One connection, from the negotiation to Quit."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        mta: MtaConnection,
        patience: float,
    ) -> None:
        self._reader, self._writer, self._mta = reader, writer, mta
        self._patience = patience
        self._replies: list[StageReply] = []
        self._edits: list[m.EditReply] = []
        self.stage = "negotiate"

    async def run(self, mail: Mail) -> Played:
        self._writer.write(self._mta.negotiate())
        (agreed,) = await self._answers()
        assert isinstance(agreed, Negotiated)  # noqa: S101 - the connection gives nothing else here
        self._macros = Macros(mail, self._mta.wanted)
        final, refused = await self._session(mail)
        verdict, told = _verdict(final)
        edits = EditCollector(self._mta.leading_space)
        if verdict in (Verdict.CONTINUE, Verdict.ACCEPT):
            for each in self._edits:
                edits.take(each)
        violations = self._mta.violations
        # Postfix ends every transaction with an ABORT, and the session with another.
        for last in (m.Abort(), m.Abort(), m.Quit()):
            self._writer.write(self._mta.send(last))
        return Played(
            verdict, told, edits.edits(), tuple(self._replies), refused, violations, agreed
        )

    async def _session(self, mail: Mail) -> tuple[m.Reply, tuple[bytes, ...]]:
        """The answer that settled it, and the recipients refused before that."""
        for event in session_events(mail):
            final = await self._say(event)
            if _settles(final) and not isinstance(final, m.Discard):
                return final, ()
        envelope = mail.envelope
        final = await self._say(m.MailFrom(b"<%b>" % envelope.sender, envelope.sender_args))
        if _settles(final):
            return final, ()
        refused: list[bytes] = []
        for each in envelope.recipients:
            final = await self._say(m.RcptTo(b"<%b>" % each.address, each.args))
            if isinstance(final, m.Reject | m.TempFail | m.ReplyCode):
                refused.append(each.address)
            elif _settles(final):
                return final, tuple(refused)
        if len(refused) == len(envelope.recipients):
            return final, tuple(refused)
        return await self._content(mail), tuple(refused)

    async def _content(self, mail: Mail) -> m.Reply:
        final = await self._say(m.Data())
        if _settles(final):
            return final
        for event in content_events(mail, self._mta.leading_space):
            final = await self._say(event)
            if _settles(final):
                return final
        return final

    async def _say(self, event: m.CommandMessage) -> m.Reply:
        """Send one event and wait for its answer; Continue where none is due."""
        self.stage = _STAGES[type(event)]
        self._writer.write(self._mta.send(event, self._macros.before(event)))
        if not self._mta.awaiting:
            await self._drain()
            return m.Continue()
        final: m.Reply = m.Continue()
        for reply in await self._answers():
            if isinstance(reply, Negotiated):
                continue
            self._replies.append(StageReply(self.stage, _subject(event), reply))
            if isinstance(reply, m.EditReply):
                self._edits.append(reply)
            final = reply
        return final

    async def _drain(self) -> None:
        async with asyncio.timeout(self._patience):
            await self._writer.drain()

    async def _answers(self) -> list[m.Reply | Negotiated]:
        await self._drain()
        found: list[m.Reply | Negotiated] = []
        async with asyncio.timeout(self._patience):
            while self._mta.awaiting:
                data = await self._reader.read(_READ)
                if not data:
                    self._mta.eof()
                found += self._mta.receive(data)
        return found

    async def close(self) -> None:
        """Close, and wait a moment for Quit to leave."""
        self._writer.close()
        try:
            async with asyncio.timeout(self._patience):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            # The answer is known by then; how the milter left does not matter.
            self._writer.transport.abort()


def _settles(reply: m.Reply) -> bool:
    """Whether nothing more of this message need be told."""
    return not isinstance(reply, m.Continue | m.Skip | m.Progress | m.EditReply)
