"""A small MTA that keeps every rule, and whose subclasses break one: what `conform --mta` is
tried against.  It takes mail by SMTP, asks one milter, and delivers to one next hop."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import ClassVar

from milterd.base.sockets import parse
from milterd.core.actions import Edit, Quarantine
from milterd.core.apply import apply
from milterd.core.mail import Envelope, Family, HeaderField, Mail, Recipient, parse_message
from milterd.lab.link import Link, MilterError, Patience, connect
from milterd.lab.mta import smtp
from milterd.wire import messages as m
from milterd.wire.convert import EditCollector, header_to_wire
from milterd.wire.errors import PeerError
from milterd.wire.mta import MtaConnection
from milterd.wire.replytext import parse_reply

Pairs = tuple[tuple[bytes, bytes], ...]
_PATH = re.compile(rb"<(.*?)>\s*(.*)", re.DOTALL)


class Session:
    """One SMTP session.  Breaking it means to override one of the small methods."""

    action: ClassVar[str] = "tempfail"
    limit: ClassVar[float] = 1.0

    def __init__(self, milter: str, sink: str) -> None:
        self.milter, self.sink = milter, sink
        self.link: Link | None = None
        self.fixed = b""
        self.over = False
        self.hang_up = False
        self.told_helo = False
        self.forget()

    def forget(self) -> None:
        """A new transaction."""
        self.sender: tuple[bytes, tuple[bytes, ...]] | None = None
        self.recipients: list[tuple[bytes, tuple[bytes, ...]]] = []
        self.passed = self.discarded = False

    # --- what to override -----------------------------------------------------------

    def offer(self) -> MtaConnection:
        """The milter's connection."""
        return MtaConnection()

    def macros(self, event: m.CommandMessage) -> Pairs:
        """What is told before an event."""
        match event:
            case m.Connect():
                return ((b"j", b"small.example"), (b"{daemon_name}", b"small"))
            case m.MailFrom():
                return ((b"{mail_addr}", event.address[1:-1]),)
            case m.RcptTo():
                return ((b"{rcpt_addr}", event.address[1:-1]),)
            case m.Data() | m.EndOfHeaders() | m.EndOfMessage():
                return ((b"i", b"Q1"),)
            case _:
                return ()

    def header(self, field: HeaderField, leading_space: bool) -> m.Header:
        """A field as the milter is shown it."""
        return header_to_wire(field, leading_space)

    def pieces(self, mail: Mail) -> Sequence[bytes]:
        """The body as the milter is shown it."""
        return list(mail.body.pieces(65535))

    def edited(self, mail: Mail, edits: Sequence[Edit]) -> Mail:
        """The mail as it is delivered."""
        return apply(mail, edits)

    def held(self, edits: Sequence[Edit]) -> bool:
        """Whether the mail is kept back."""
        return any(isinstance(each, Quarantine) for each in edits)

    def refusal(self, event: m.CommandMessage, reply: m.Reply) -> bytes:
        """What the client is told of a milter's refusal; empty where it refuses nothing."""
        del event
        match reply:
            case m.Reject():
                return b"550 5.7.1 Command rejected"
            case m.TempFail() | m.ConnFail():
                return b"451 4.7.1 Try again later"
            case m.ReplyCode():
                parsed = parse_reply(reply.text)
                return self.lines(parsed.code, parsed.enhanced, parsed.lines)
            case _:
                return b""

    def lines(self, code: int, enhanced: str, texts: Sequence[str]) -> bytes:
        """A reply of several lines."""
        marks = "-" * (len(texts) - 1) + " "
        parts = (f"{code}{mark}{enhanced} {text}" for mark, text in zip(marks, texts, strict=True))
        return "\r\n".join(parts).encode()

    def failed(self, event: m.CommandMessage, edits: Sequence[Edit]) -> tuple[Edit, ...]:
        """The milter failed; the edits to make of those it asked for before."""
        del event, edits
        self.over = True
        if self.action == "tempfail":
            self.fixed = b"451 4.7.1 Service unavailable"
        return ()

    def discard(self) -> None:
        """The milter wants the mail gone."""
        self.discarded = True

    async def say(self, command: m.CommandMessage) -> list[m.Reply]:
        """One event to the milter, and its answers.  Raises MilterError."""
        assert self.link is not None
        return await self.link.say(command, self.macros(command))

    # --- the milter -------------------------------------------------------------------

    async def ask(self, event: m.CommandMessage) -> tuple[bytes, tuple[Edit, ...]]:
        """What the client is told instead of the usual, and the edits."""
        if self.fixed or self.over or self.passed or self.discarded or self.link is None:
            return self.fixed, ()
        collector = EditCollector(self.link.mta.leading_space)
        try:
            replies = await self.say(event)
            for each in replies[:-1]:
                if not isinstance(each, m.Progress):
                    collector.take(each)  # type: ignore[arg-type] # edits, but for the last
        except (MilterError, PeerError):
            made = self.failed(event, collector.edits())
            return self.fixed, made
        final = replies[-1] if replies else m.Continue()
        refused = self.refusal(event, final)
        if isinstance(event, m.Connect | m.Helo):
            self.fixed = refused
            self.over = isinstance(final, m.Accept)
        elif isinstance(final, m.Accept):
            self.passed = True
        elif isinstance(final, m.Discard):
            self.discard()
        return refused, collector.edits()

    async def content(self, mail: Mail) -> tuple[bytes, tuple[Edit, ...]]:
        """The message; what the client is told, and the edits."""
        space = self.link is not None and self.link.mta.leading_space
        events: list[m.CommandMessage] = [self.header(each, space) for each in mail.visible()]
        events.append(m.EndOfHeaders())
        events += [m.BodyChunk(each) for each in self.pieces(mail)]
        edits: tuple[Edit, ...] = ()
        for event in [*events, m.EndOfMessage()]:
            told, edits = await self.ask(event)
            if told or self.passed or self.discarded:
                return told, edits
        return b"", edits

    # --- SMTP -------------------------------------------------------------------------

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A whole session."""
        try:
            patience = Patience(self.limit, 60.0)
            async with connect(self.milter, patience=patience) as self.link:
                self.link.mta = self.offer()
                await self.link.negotiate()
                await self._session(reader, writer)
                if not self.over:
                    await self.link.bye()
        except MilterError as error:
            if not self.over and error.stage in ("connection", "negotiate"):
                self.failed(m.Abort(), ())
                await self._session(reader, writer)
        except (ConnectionError, EOFError):
            pass  # the client left
        finally:
            writer.close()

    async def _session(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = writer.get_extra_info("peername")[:2]
        told, _ = await self.ask(
            m.Connect(b"[%b]" % host.encode(), Family.INET, port, b"127.0.0.1")
        )
        writer.write((b"554 no service" if told[:1] == b"5" else b"220 small.example") + b"\r\n")
        while line := (await reader.readline()).rstrip(b"\r\n"):
            answer = await self._command(line, reader, writer)
            writer.write(answer + b"\r\n")
            if line == b"QUIT":
                return

    async def _command(
        self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bytes:
        verb, _, rest = line.partition(b" ")
        match verb:
            case b"EHLO":
                self.helo = rest
                await self.ask(m.Helo(rest))
                return b"250 small.example"
            case b"MAIL":
                return await self._mail(rest)
            case b"RCPT":
                return await self._rcpt(rest)
            case b"DATA":
                told, _ = await self.ask(m.Data())
                if told:
                    return told
                writer.write(b"354 go on\r\n")
                return await self._message(reader)
            case b"QUIT" | b"NOOP" | b"RSET":
                await self._end()
                return b"221 bye" if verb == b"QUIT" else b"250 ok"
            case _:
                told, _ = await self.ask(m.Unknown(line))
                return told or b"502 5.5.2 unknown"

    async def _mail(self, rest: bytes) -> bytes:
        await self._end()
        address, args = _path(rest)
        told, _ = await self.ask(m.MailFrom(b"<%b>" % address, args))
        if told:
            return told
        self.sender = (address, args)
        return b"250 2.1.0 ok"

    async def _rcpt(self, rest: bytes) -> bytes:
        address, args = _path(rest)
        told, _ = await self.ask(m.RcptTo(b"<%b>" % address, args))
        if told:
            return told
        self.recipients.append((address, args))
        return b"250 2.1.5 ok"

    async def _end(self) -> None:
        """The end of a transaction, for the milter too."""
        if self.sender is not None and self.link is not None and not self.over and not self.fixed:
            await self.link.write(self.link.mta.send(m.Abort()))
        self.forget()

    async def _message(self, reader: asyncio.StreamReader) -> bytes:
        octets = b""
        while not octets.endswith(b"\r\n.\r\n"):
            octets += await reader.readuntil(b".\r\n")
        octets = octets[:-3].replace(b"\r\n.", b"\r\n")
        assert self.sender is not None
        parsed = parse_message(octets)
        trace = HeaderField(b"Received", b" from %b by small.example" % self.helo, hidden=True)
        envelope = Envelope(
            self.sender[0], self.sender[1], tuple(Recipient(*each) for each in self.recipients)
        )
        mail = Mail(envelope=envelope, headers=(trace, *parsed.headers), body=parsed.body)
        told, edits = await self.content(mail)
        if told:
            return told
        if not self.discarded and not self.held(edits):
            await self._deliver(self.edited(mail, edits))
        return b"250 2.0.0 Ok: queued as Q1"

    async def _deliver(self, mail: Mail) -> None:
        recipients = [each.address for each in mail.envelope.recipients]
        async with smtp.connect(parse(self.sink), 5.0) as client:
            await client.answer()
            await client.say(b"EHLO small.example")
            await client.send(b"".join(mail.pieces()), mail.envelope.sender, recipients)


def _path(rest: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    match = _PATH.search(rest)
    assert match is not None
    return match[1], tuple(match[2].split())


@asynccontextmanager
async def small_mta(
    kind: type[Session], milter: str, sink: str, port: int, lenient: int
) -> AsyncIterator[None]:
    """Serve at `port`, and at `lenient` with a default action of accept."""

    class Lenient(kind):  # type: ignore[valid-type,misc] # any of the wrong ones
        action = "accept"

    servers = [
        await asyncio.start_server(
            lambda r, w, one=one: one(milter, sink).run(r, w), "127.0.0.1", at, limit=1 << 20
        )
        for one, at in ((kind, port), (Lenient, lenient))
    ]
    try:
        yield
    finally:
        for each in servers:
            each.close()
