"""A milter that keeps every rule, and ways to break one: what `conform` is tried against."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import ClassVar

from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol, Stage
from milterd.wire.errors import PeerError
from milterd.wire.limits import Limits
from milterd.wire.milter import MilterConnection
from tests.peers.process import directory

_FOR_EVER = 600.0
"""Seconds: longer than any test."""


class CloseNowError(Exception):
    """End the connection."""


class Milter:
    """One connection of a good milter: it adds a field, refuses the virus, skips long bodies.

    Breaking it means to override `offer`, `answer` or one of the others.
    """

    actions: ClassVar[Actions] = Actions.ADDHDRS | Actions.QUARANTINE
    protocol: ClassVar[Protocol] = (
        Protocol.NR_HELO | Protocol.NR_HDR | Protocol.SKIP | Protocol.RCPT_REJ | Protocol.NODATA
    )
    macros: ClassVar[dict[Stage, tuple[str, ...]]] = {
        Stage.CONNECT: ("j", "{daemon_name}"),
        Stage.RCPT: ("i", "{rcpt_mailer}"),
        Stage.END_OF_MESSAGE: ("i",),
    }
    closes_on_error = True
    limits = Limits()
    connections = 0

    def __init__(self) -> None:
        self.wire = MilterConnection(
            accept_actions=self.actions,
            accept_protocol=self.protocol,
            macros=self.macros,
            limits=self.limits,
        )
        self.recipients = 0
        self.seen = 0
        self.heads: list[m.Header] = []
        self.body = b""
        self.rejected = False
        self.offered = m.Negotiate(0, Actions.NONE, Protocol.NONE)

    # --- what to override -----------------------------------------------------------

    def offer(self, offer: m.Negotiate) -> bytes:
        """The answer to the MTA's offer."""
        del offer
        return self.wire.negotiate()

    def hear(self, event: m.CommandMessage) -> None:
        """Take note of any event."""
        match event:
            case m.Macros(_, values):
                self.rejected = (b"{rcpt_mailer}", b"error") in values
            case m.MailFrom() | m.Abort() | m.QuitNewConnection():
                self.forget()
            case m.RcptTo():
                self.recipients += not self.rejected
            case m.Header():
                self.heads.append(event)
            case m.BodyChunk() | m.EndOfMessage():
                self.seen += len(event.octets)
                self.body = (self.body + event.octets)[:1000]
            case _:
                pass

    def forget(self) -> None:
        """The message is over."""
        self.recipients, self.seen, self.body, self.rejected = 0, 0, b"", False
        self.heads = []

    def answer(self, event: m.CommandMessage) -> list[m.Reply]:
        """The replies to an event that awaits some."""
        if isinstance(event, m.EndOfMessage):
            return self.judge()
        skips = Protocol.SKIP in self.wire.agreed_protocol
        if isinstance(event, m.BodyChunk) and self.seen > 50_000 and skips:
            return [m.Skip()]
        return [m.Continue()]

    def judge(self) -> list[m.Reply]:
        """The replies at the end of the message."""
        if b"EICAR" in self.body:
            return [m.ReplyCode(b"550 5.7.1 100%% infected")]
        edits: list[m.Reply] = []
        if Actions.ADDHDRS in self.wire.agreed_actions:
            value = b"%d recipients,\n\t%d fields" % (self.recipients, len(self.heads))
            edits.append(m.AddHeaderReply(b"X-Lab", value))
        return [*edits, m.Continue()]

    def send(self, event: m.CommandMessage, replies: list[m.Reply]) -> bytes:
        """The replies as octets; what breaks the rules goes round them."""
        del event
        return self.wire.reply(*replies)

    def unasked(self, event: m.CommandMessage) -> bytes:
        """What to say to an event that awaits nothing."""
        del event
        return b""

    def first(self, data: bytes) -> bytes:
        """Look at octets as they come; what to say to them instead of anything else."""
        del data
        return b""

    def at_end_of_file(self) -> bool:
        """Whether to close when the MTA has."""
        return True

    # --- the connection -------------------------------------------------------------

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            if said := self.first(data):
                writer.write(said)
                continue
            events = self.wire.receive(data)
            while events:
                for event in events:
                    self.hear(event)
                    writer.write(self._octets(event, event is events[-1]))
                    if isinstance(event, m.Quit):
                        return
                await writer.drain()
                events = self.wire.receive()
        if not self.at_end_of_file():
            await asyncio.sleep(_FOR_EVER)

    def _octets(self, event: m.CommandMessage, last: bool) -> bytes:
        if isinstance(event, m.Negotiate):
            self.offered = event
            return self.offer(event)
        if last and self.wire.reply_due:
            return self.send(event, self.answer(event))
        return self.unasked(event)


@asynccontextmanager
async def serving(make: Callable[[], Milter]) -> AsyncIterator[str]:
    """The address of a milter in this event loop; an object a connection."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        tasks.add(task)
        milter = make()
        try:
            await milter.serve(reader, writer)
        except (CloseNowError, ConnectionError, asyncio.CancelledError):
            pass
        except PeerError:
            if not milter.closes_on_error:
                await asyncio.sleep(_FOR_EVER)
        finally:
            tasks.discard(task)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                writer.close()

    with directory("broken") as home:
        path = home / "s"
        server = await asyncio.start_unix_server(serve, path, backlog=500)
        try:
            yield f"unix:{path}"
        finally:
            server.close()
            for each in list(tasks):
                each.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
