"""A peer that follows a script, and the road from queue to it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from milterd.core.mail import BytesBody, Mail
from smtpgw.courier import Courier, CourierOptions, Route
from smtpgw.delivery.fixed import Fixed
from smtpgw.delivery.hop import Hop
from smtpgw.delivery.maildir import MaildirDelivery
from smtpgw.delivery.options import (
    ClientOptions,
    PoolOptions,
    Reuse,
    SaslOptions,
    Timeouts,
    TlsOptions,
)
from smtpgw.delivery.outcome import Deliverer, Destination, Job, Target
from smtpgw.delivery.pool import Pool
from smtpgw.dsn.report import DsnOptions
from smtpgw.intake import Intake
from smtpgw.queue.clock import QueueClock
from smtpgw.queue.manager import ManagerOptions, QueueManager
from smtpgw.queue.schedule import Schedule, ScheduleOptions
from smtpgw.queue.sqlite import SqliteStore
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Filter
from tests.delivery.roads import routes
from tests.queue.support import START, FakeClock, opened

CLOSE = b"<close>"
STALL = b"<stall>"
TLS = b"<tls>"
EXTENSIONS = b"250-peer.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 0\r\n"

Answer = bytes | Callable[[bytes], bytes]
SCRIPT: Mapping[str, Answer] = {
    "CONNECT": b"220 peer.example LMTP\r\n",
    "LHLO": EXTENSIONS,
    "EHLO": EXTENSIONS,
    "MAIL": b"250 2.1.0 ok\r\n",
    "RCPT": b"250 2.1.5 ok\r\n",
    "DATA": b"354 go\r\n",
    "RSET": b"250 2.0.0 ok\r\n",
    "QUIT": b"221 2.0.0 bye\r\n",
}


class Peer:
    """Answers by verb, `DOT` after the message (by default one 250 for each RCPT).

    An answer may hold CLOSE, STALL or, after STARTTLS, TLS: what stands before it is sent
    first.  After TLS, or with "AUTH" answered 334, answers are those of the verb with a
    "TLS " before it if there are such, and the lines of an exchange have the verb "AUTH 2".
    `context` is what the peer shows of itself.
    """

    def __init__(
        self,
        answers: Mapping[str, Answer | list[Answer]] | None = None,
        context: ssl.SSLContext | None = None,
    ) -> None:
        self.answers: dict[str, Answer | list[Answer]] = {**SCRIPT, **(answers or {})}
        self.commands: list[bytes] = []
        self.messages: list[bytes] = []
        self.chunks: list[int] = []
        self.connections = 0
        self.handshakes: list[ssl.SSLObject] = []
        self._context = context
        self._recipients: dict[asyncio.StreamWriter, int] = {}
        self._writers: set[asyncio.StreamWriter] = set()
        self._secure: set[asyncio.StreamWriter] = set()
        self._asking: set[asyncio.StreamWriter] = set()
        self._chunked: dict[asyncio.StreamWriter, bytes] = {}

    def _answer(self, verb: str, line: bytes, writer: asyncio.StreamWriter) -> bytes:
        if writer in self._secure:
            verb = f"TLS {verb}" if f"TLS {verb}" in self.answers else verb
        return self._pick(self.answers.get(verb, b"500 5.5.2 what?\r\n"), line)

    def _pick(self, answer: Answer | list[Answer], line: bytes) -> bytes:
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        return answer(line) if callable(answer) else answer

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            if await self._say(writer, self._answer("CONNECT", b"", writer)):
                while line := await reader.readline():
                    if not await self._command(reader, writer, line):
                        break
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client may hang up whenever it likes
        finally:
            self._writers.discard(writer)
            self._recipients.pop(writer, None)
            writer.close()

    async def _command(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes
    ) -> bool:
        self.commands.append(line)
        verb = line.split()[0].upper().decode("latin-1") if line.strip() else ""
        if writer in self._asking:
            verb = "AUTH 2"
        if verb in ("MAIL", "RSET"):
            self._recipients[writer] = 0
            self._chunked[writer] = b""
        if verb == "BDAT":
            return await self._chunk(reader, writer, line)
        answer = self._answer(verb, line, writer)
        if verb == "RCPT" and answer.startswith(b"2"):
            self._recipients[writer] += 1
        (self._asking.add if answer.startswith(b"334") else self._asking.discard)(writer)
        if not await self._say(writer, answer):
            return False
        if verb == "DATA" and answer.startswith(b"354"):
            self.messages.append(await reader.readuntil(b"\r\n.\r\n"))
            return await self._stored(writer, line)
        return verb != "QUIT"

    async def _chunk(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, line: bytes
    ) -> bool:
        _, size, *last = line.split()
        self._chunked[writer] += await reader.readexactly(int(size))
        self.chunks.append(int(size))
        if not last:
            return await self._say(writer, self._answer("BDAT", line, writer))
        self.messages.append(self._chunked[writer])
        return await self._stored(writer, line)

    async def _stored(self, writer: asyncio.StreamWriter, line: bytes) -> bool:
        done = self.answers.get("DOT", b"250 2.0.0 stored\r\n" * self._recipients[writer])
        return await self._say(writer, self._pick(done, line))

    async def _say(self, writer: asyncio.StreamWriter, answer: bytes) -> bool:
        for mark in (CLOSE, STALL, TLS):
            if mark in answer:
                writer.write(answer.partition(mark)[0])
                await writer.drain()
                if mark is TLS:
                    return await self._handshake(writer)
                if mark is STALL:
                    await asyncio.sleep(60)
                return False
        writer.write(answer)
        await writer.drain()
        return True

    async def _handshake(self, writer: asyncio.StreamWriter) -> bool:
        assert self._context is not None
        try:
            await writer.start_tls(self._context)
        except OSError:
            return False
        self.handshakes.append(writer.get_extra_info("ssl_object"))
        self._secure.add(writer)
        return True

    def verbs(self) -> list[str]:
        return [each.split()[0].decode("latin-1") for each in self.commands if each.strip()]

    def hang_up(self) -> None:
        for each in self._writers:
            each.close()


@contextlib.asynccontextmanager
async def on_port(
    peer: Peer, *, lmtp: bool = False, host: str = "mx.example.net"
) -> AsyncIterator[Hop]:
    """The peer on a loopback port, as the host of example.net."""
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, limit=2**26)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Hop("example.net", host, "127.0.0.1", port, lmtp)
    finally:
        server.close()
        peer.hang_up()


@contextlib.asynccontextmanager
async def listening(peer: Peer, transport: str = "lmtp") -> AsyncIterator[Destination]:
    """The peer on a UNIX socket."""
    directory = tempfile.mkdtemp(dir="/tmp")
    path = f"{directory}/s"
    server = await asyncio.start_unix_server(peer.serve, path, limit=2**26)
    try:
        yield Destination(transport, f"unix:{path}")
    finally:
        server.close()
        peer.hang_up()
        shutil.rmtree(directory)


@contextlib.asynccontextmanager
async def listening_at(address: str, port: int, peer: Peer) -> AsyncIterator[None]:
    """The peer at a loopback address of its own, as a host among others at the same port."""
    server = await asyncio.start_server(peer.serve, address, port, limit=2**26)
    try:
        yield
    finally:
        server.close()
        peer.hang_up()


def job(
    rcpts: tuple[bytes, ...] = (b"u@example.net",),
    text: bytes = b"hello\r\n",
    *,
    sender: bytes = b"a@example.com",
    sender_args: tuple[bytes, ...] = (),
    rcpt_args: tuple[bytes, ...] = (),
    head: bytes = b"Subject: x\r\n\r\n",
    attempt: int = 1,
) -> Job:
    targets = tuple(Target(n, each, rcpt_args) for n, each in enumerate(rcpts))
    body = BytesBody(text)
    return Job("0123456789abcd", sender, sender_args, targets, head, body, attempt, arrived=START)


def pool(
    *,
    kept: float = 2.0,
    tls: TlsOptions | None = None,
    sasl: SaslOptions | None = None,
    reuse: Reuse | None = None,
    client: Mapping[str, object] | None = None,
    **limits: float,
) -> Pool:
    """`limits` are timeouts by Postfix's names, whether smtp_ or lmtp_; `client` holds other
    options of the dialogue."""
    short = {each.split("_", 1)[1].removesuffix("_timeout"): n for each, n in limits.items()}
    short = {{"lhlo": "helo"}.get(each, each): n for each, n in short.items()}
    options = ClientOptions("gw.example", Timeouts(**short), **(client or {}))  # type: ignore[arg-type] # a test knows
    keep = reuse or Reuse(cache_time=kept)
    return Pool(
        PoolOptions(
            smtp_reuse=keep, lmtp_reuse=keep, smtp=options, lmtp=options,
            tls=tls or TlsOptions("none"), sasl=sasl or SaslOptions(),
        )
    )  # fmt: skip


@dataclass
class Road:
    """A queue with a courier at work on it."""

    store: SqliteStore
    intake: Intake
    courier: Courier
    clock: FakeClock
    pool: Pool
    seen: list[tuple[str, str]] = field(default_factory=list)

    async def accept(self, mail: Mail) -> str:
        queue_id = self.intake.new_id()
        await self.intake.accept(mail, queue_id=queue_id)
        return queue_id

    async def empty(self) -> bool:
        return sum((await self.store.counts()).values()) == 0

    async def wait_empty(self) -> None:
        async with asyncio.timeout(10):
            while not await self.empty():  # noqa: ASYNC110 - the store is asked, it tells nobody
                await asyncio.sleep(0.005)

    async def settled(self) -> None:
        """Until all that is due has been tried, and what came of that is not on its way: then the
        clock may go on without ending a lease."""
        async with asyncio.timeout(30):
            while not await self._rests():  # noqa: ASYNC110 - as above
                await asyncio.sleep(0.005)

    async def _rests(self) -> bool:
        left = await self.store.list(Filter())
        now = self.clock.wall()
        wait = all(
            each.state is MailState.DEFERRED and each.due is not None and each.due > now
            for each in left
        )
        return wait and bool(self.seen) and not self.courier.active


@contextlib.asynccontextmanager
async def road(
    directory: Path,
    default: Destination,
    exceptions: Mapping[str, Destination] | None = None,
    *,
    clock: FakeClock | None = None,
    schedule: ScheduleOptions | None = None,
    options: CourierOptions | None = None,
    manager_options: ManagerOptions | None = None,
    deliverers: Pool | None = None,
    smtp: Deliverer | None = None,
    route: Route | None = None,
    direct: bool = True,
) -> AsyncIterator[Road]:
    clock = clock or FakeClock()
    chance = random.Random(7)
    queue_clock = QueueClock(clock)
    async with opened(directory / "00", queue_clock) as store:
        manager = QueueManager(store, queue_clock, manager_options or ManagerOptions(poll=0.02))
        intake = Intake(store, queue_clock, manager.wake)
        table = routes(default, exceptions)
        intake.site_of = table.site
        connections = deliverers or pool()
        fixed = Fixed()
        seen: list[tuple[str, str]] = []
        courier = Courier(
            store=store,
            intake=intake,
            manager=manager,
            clock=queue_clock,
            schedule=Schedule(schedule or ScheduleOptions()),
            route=route or table.route,
            deliverers={
                "lmtp": connections,
                "smtp": smtp or connections,
                "relay": smtp or connections,
                "maildir": MaildirDelivery("gw.example"),
                "error": fixed,
                "retry": fixed,
                "discard": fixed,
                "hold": fixed,
            },
            chance=chance.random,
            token=lambda: f"{chance.getrandbits(128):032x}",
            log=structlog.get_logger(),
            options=options or CourierOptions(pause=0.01, dsn=DsnOptions("gw.example")),
            observe=lambda transport, outcome, _: seen.append((transport, outcome)),
            known=table.known,
        )
        if direct:
            store.taker = courier.direct
        running = asyncio.ensure_future(courier.run())
        try:
            yield Road(store, intake, courier, clock, connections, seen)
        finally:
            await courier.drain(5)
            await asyncio.gather(running, return_exceptions=True)
