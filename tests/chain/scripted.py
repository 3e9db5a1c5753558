"""Milters that do as they are told, well or badly, on real sockets; and a client to walk a chain.

A script says for each kind of command what to answer: replies in their order, raw
octets, STALL (no answer, ever) or HANG_UP.  What the milter was sent is kept.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from milterd.core.mail import (
    BytesBody,
    Client,
    Direction,
    Envelope,
    Family,
    HeaderField,
    Mail,
    Recipient,
    Session,
)
from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol, Stage
from milterd.wire.errors import WireError
from milterd.wire.milter import MilterConnection
from smtpgw.chain import Chain, ChainResult, EditLimits, Health, MilterOptions, StageResult

LOOP = os.environ.get("CHAIN_TESTS_LOOP", "uvloop")
STALL, HANG_UP = object(), object()
Answer = object
"""A reply, several of them, raw octets, STALL, HANG_UP, or a function of the event that
gives one of these."""

EDITS = Actions.ALL & ~Actions.SETSYMLIST
NOTHING_DUE = Protocol.NR_HDR | Protocol.NR_EOH | Protocol.NR_BODY

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T], within: float = 60.0, *, steady: bool = False) -> T:
    """Run a test's coroutine; it is a failure if it takes longer.  With `steady` no short limit of
    its runs out while the machine stands still."""

    async def bounded() -> T:
        async with asyncio.timeout(within):
            return await main

    # The gateway runs on uvloop; the other loop, which tests of the chain alone may use
    # as well, differs in what it buffers and when it calls back.
    factory = None if steady or LOOP != "uvloop" else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(bounded())


@dataclass
class Log:
    """Keeps what was logged."""

    lines: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def info(self, event: str, **values: object) -> None:
        self.lines.append((event, values))

    def warning(self, event: str, **values: object) -> None:
        self.lines.append((event, values))

    def said(self, event: str) -> list[dict[str, object]]:
        return [values for name, values in self.lines if name == event]


@dataclass
class Scripted:
    """A milter that follows its script; `sessions` holds the events of each connection."""

    path: Path
    answers: Mapping[type, Answer] = field(default_factory=dict)
    actions: Actions = EDITS
    protocol: Protocol = Protocol.NONE
    macros: Mapping[Stage, Sequence[str]] = field(default_factory=dict)
    version: int = 6
    greeting: Answer = None
    write: Callable[[asyncio.StreamWriter, bytes], Coroutine[Any, Any, None]] | None = None
    sessions: list[list[m.CommandMessage]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)

    @property
    def events(self) -> list[m.CommandMessage]:
        """What the first session was sent, macros left out."""
        return [each for each in self.sessions[0] if not isinstance(each, m.Macros)]

    @property
    def kinds(self) -> list[str]:
        """The same, as names."""
        return [type(each).__name__ for each in self.events]

    def macros_before(self, kind: type) -> dict[bytes, bytes]:
        """The macros of the packet just before the first event of that kind."""
        told = self.sessions[0]
        at = next(at for at, each in enumerate(told) if isinstance(each, kind))
        before = told[at - 1]
        return dict(before.values) if isinstance(before, m.Macros) else {}

    def options(self, name: str = "one", **more: Any) -> MilterOptions:
        defaults: dict[str, Any] = {
            "connect_timeout": 5.0,
            "command_timeout": 5.0,
            "content_timeout": 5.0,
            "total_timeout": 10.0,
        }
        return MilterOptions(name=name, address=f"unix:{self.path}", **{**defaults, **more})

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        told: list[m.CommandMessage] = []
        self.sessions.append(told)
        connection = MilterConnection(
            accept_actions=self.actions,
            accept_protocol=self.protocol,
            macros=self.macros,
            version=self.version,
        )
        try:
            while data := await reader.read(65536):
                self.reads.append(len(data))
                events = connection.receive(data)
                while events:
                    for event in events:
                        told.append(event)
                        # Only the last one can be the one that wants an answer.
                        due = connection.reply_due and event is events[-1]
                        if not await self._answer(connection, event, due, writer):
                            self.ended.append("hung up")
                            return
                    events = connection.receive()
            self.ended.append("eof")
        except (WireError, ConnectionError) as error:
            self.ended.append(str(error))
        finally:
            writer.close()

    async def _answer(
        self,
        connection: MilterConnection,
        event: m.CommandMessage,
        due: bool,
        writer: asyncio.StreamWriter,
    ) -> bool:
        if isinstance(event, m.Negotiate) and self.greeting is None:
            writer.write(connection.negotiate())
            return True
        given = self.greeting if isinstance(event, m.Negotiate) else self.answers.get(type(event))
        if callable(given):
            given = given(event)
        if given is HANG_UP:
            return False
        if given is STALL:
            await asyncio.Event().wait()
        if isinstance(given, bytes):
            await self._put(writer, given)
            if due and not isinstance(event, m.Negotiate):
                connection.reply(m.Continue())  # so that the script's own state goes on
        elif due:
            await self._put(writer, _encode(connection, given))
        return True

    async def _put(self, writer: asyncio.StreamWriter, octets: bytes) -> None:
        if self.write is not None:
            await self.write(writer, octets)
        else:
            writer.write(octets)
            await writer.drain()


def _encode(connection: MilterConnection, given: Answer) -> bytes:
    if given is None:
        return connection.reply(m.Continue())
    if isinstance(given, list | tuple):
        return connection.reply(*given)
    return connection.reply(given)  # type: ignore[arg-type] # the script holds replies


@asynccontextmanager
async def scripted(answers: Mapping[type, Answer] | None = None, **more: Any) -> AsyncIterator[Any]:
    """Serve a script on a socket of its own."""
    home = Path(tempfile.mkdtemp(prefix="gp-chain-", dir="/tmp"))
    milter = Scripted(home / "s", answers or {}, **more)
    tasks: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(milter.serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_unix_server(accepted, milter.path)
    try:
        yield milter
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        shutil.rmtree(home)


SESSION = Session(Client(b"client.example.org", Family.INET, b"192.0.2.7", 4321))
MAIL = Mail(
    session=SESSION,
    envelope=Envelope(
        b"s@example.org", (b"SIZE=10",), (Recipient(b"a@example.net"), Recipient(b"b@example.net"))
    ),
    headers=(
        HeaderField(b"Received", b" from us", hidden=True),
        HeaderField(b"Received", b" from them\r\n\tby others"),
        HeaderField(b"Subject", b"  two spaces"),
        HeaderField(b"From", b" s@example.org"),
        HeaderField(b"X-Tab", b"\tafter"),
    ),
    body=BytesBody(b"line one\r\n.dot\r\n"),
)


def chain_of(*milters: MilterOptions, log: Log | None = None, **more: Any) -> Chain:
    """A chain for these milters."""
    facts = {"j": b"mx.example.net", "daemon_name": b"mx", "v": b"Gatepost 1"}
    return Chain(milters, log=log or Log(), macros=facts, **more)


async def walk(chain: Chain, mail: Mail = MAIL, queue_id: str = "Q1") -> StageResult | ChainResult:
    """Bring a mail through a chain as the gateway does: a refused recipient is left out,
    any other refusal ends it."""
    result = await chain.connect(mail.session)
    if result.refused:
        return result
    result = await chain.helo(b"client.example.org")
    if result.refused:
        return result
    return await transact(chain, mail, queue_id)


async def transact(
    chain: Chain, mail: Mail = MAIL, queue_id: str = "Q1"
) -> StageResult | ChainResult:
    """One transaction of a session that is under way."""
    envelope = mail.envelope
    result = await chain.mail(envelope.sender, envelope.sender_args)
    if result.refused:
        return result
    accepted = []
    for each in envelope.recipients:
        result = await chain.rcpt(each.address, each.args)
        if result.hangup:
            return result
        if not result.refused:
            accepted.append(each)
    if not accepted:
        return result
    result = await chain.data()
    if result.refused:
        return result
    kept = replace(mail, envelope=replace(envelope, recipients=tuple(accepted)))
    return await chain.message(kept, queue_id)


async def until(condition: Callable[[], object], within: float = 20.0) -> None:
    """Wait for something the milter does by itself."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - what happens elsewhere sets no event
            await asyncio.sleep(0.005)


__all__ = [
    "HANG_UP",
    "MAIL",
    "SESSION",
    "STALL",
    "ChainResult",
    "Direction",
    "EditLimits",
    "Health",
    "Log",
    "Scripted",
    "StageResult",
    "chain_of",
    "run",
    "scripted",
    "transact",
    "until",
    "walk",
]
