"""A real listener on loopback with a road that writes down what it was given, and a raw client."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import TracebackType

import uvloop

from milterd.core.mail import Envelope, HeaderField, body_octets, join_header
from smtpgw.address.params import MailParams, RcptParams
from smtpgw.address.path import NULL, Path
from smtpgw.admission import Admission
from smtpgw.edge.content import Content
from smtpgw.edge.listener import Listener, serve
from smtpgw.edge.options import Deadlines, EdgeOptions, Limits
from smtpgw.edge.road import Answer, Attempt, Connection, Hello, Login
from tests.steady import SteadyLoop

PATIENCE = 30.0
"""Seconds until a test gives up on something that should happen at once."""

QUICK = EdgeOptions(
    myhostname="mx.example.net",
    limits=Limits(error_sleep_time=0.0),
    deadlines=Deadlines(smtpd_timeout=PATIENCE * 3),
)


def wait_for(what: Callable[[], bool]) -> None:
    """Until `what` is true, or a failure."""
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


@dataclass
class Accepted:
    """One message the road was given."""

    envelope: Envelope
    headers: tuple[HeaderField, ...]
    octets: bytes
    notes: tuple[str, ...]
    hello: Hello | None

    @property
    def recipients(self) -> list[bytes]:
        return [each.address for each in self.envelope.recipients]


@dataclass
class Ledger:
    """What all sessions of a test did, and how their road is to behave.

    `on_message` may raise, wait, or give another answer.
    """

    calls: list[str] = field(default_factory=list)
    accepted: list[Accepted] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    answers: dict[str, Answer] = field(default_factory=dict)
    raises: set[str] = field(default_factory=set)
    on_message: Callable[[], object] | None = None
    policy: Callable[[Connection], Admission] | None = None
    open: int = 0
    forwarded: list[Mapping[str, bytes]] = field(default_factory=list)

    def session(self, connection: Connection) -> RecordingRoad:
        self.connections.append(connection)
        self.open += 1
        return RecordingRoad(self, connection)


SECRET = "secret of /etc/gatepost"


class RecordingRoad:
    def __init__(self, ledger: Ledger, connection: Connection) -> None:
        self.ledger = ledger
        self.connection = connection
        self.hello: Hello | None = None
        self.sender = NULL
        policy = ledger.policy
        self.admission = None if policy is None else policy(connection)

    def step(self, name: str) -> Answer | None:
        self.ledger.calls.append(name)
        if name in self.ledger.raises:
            raise RuntimeError(SECRET)
        return self.ledger.answers.get(name)

    async def connect(self) -> Answer | None:
        if self.admission is not None:
            await self.admission.know()
        return self.step("connect")

    async def helo(self, hello: Hello) -> Answer | None:
        self.hello = hello
        return self.step("helo")

    async def attempt(self, what: Attempt) -> Answer | None:
        return self.step(what)

    async def login(self, login: Login | None) -> Answer | None:
        if self.hello is not None:
            self.hello = replace(self.hello, login=login)
        return self.step("login" if login is not None else "logout")

    async def readmit(self, connection: Connection, login: Login | None) -> Answer | None:
        self.connection, self.hello = connection, None
        self.ledger.connections.append(connection)
        return self.step("readmit" if login is None else "readmit with login")

    async def forwarded(self, facts: Mapping[str, bytes]) -> Answer | None:
        self.ledger.forwarded.append(facts)
        return self.step("forwarded")

    async def mail(self, sender: Path, _params: MailParams) -> Answer | None:
        self.sender = sender
        if self.admission is not None:
            refusal = await self.admission.mail(sender)
            if refusal is not None:
                return Answer.of(refusal.reply)
        return self.step("mail")

    async def rcpt(self, recipient: Path, _params: RcptParams) -> Answer | None:
        if recipient.local in (b"refused", b"later"):
            self.step("rcpt")
            code = 550 if recipient.local == b"refused" else 451
            return Answer(code, f"{code // 100}.1.1", "no")
        if self.admission is not None:
            refusal = await self.admission.rcpt(recipient)
            if refusal is not None:
                return Answer.of(refusal.reply)
        return self.step("rcpt")

    def now(self, name: str) -> bool:
        """Whether a step waits for nothing and lets pass: then it is done."""
        ledger = self.ledger
        if self.admission is not None or name in ledger.raises or name in ledger.answers:
            return False
        self.step(name)
        return True

    def mail_now(self, sender: Path, _params: MailParams) -> bool:
        if not self.now("mail"):
            return False
        self.sender = sender
        return True

    def rcpt_now(self, recipient: Path, _params: RcptParams) -> bool:
        return recipient.local not in (b"refused", b"later") and self.now("rcpt")

    def data_now(self) -> bool:
        return self.now("data")

    def close_now(self) -> bool:
        if not self.now("close"):
            return False
        self.ledger.open -= 1
        return True

    async def vrfy(self, recipient: Path) -> Answer | None:
        if self.admission is not None:
            refusal = await self.admission.vrfy(recipient)
            if refusal is not None:
                return Answer.of(refusal.reply)
        return self.step("vrfy")

    async def etrn(self, node: str, *, below: bool) -> Answer | None:
        return self.step(f"etrn {node} {below}")

    async def data(self) -> Answer | None:
        return self.step("data")

    async def message(self, envelope: Envelope, content: Content) -> Answer:
        answer = self.step("message")
        if answer is not None:
            return answer
        if self.ledger.on_message is not None:
            result = self.ledger.on_message()
            if asyncio.iscoroutine(result):
                await result
        octets = join_header(content.headers) + content.separator + body_octets(content.body)
        self.ledger.accepted.append(
            Accepted(envelope, content.headers, octets, content.notes, self.hello)
        )
        return Answer(250, "2.0.0", f"Ok: queued as {len(self.ledger.accepted)}")

    async def unknown(self, _line: bytes) -> Answer | None:
        return self.step("unknown")

    async def reset(self) -> None:
        self.step("reset")

    async def close(self) -> None:
        self.ledger.open -= 1
        self.step("close")


class Server:
    """A listener in a thread of its own, on uvloop as in production; with `steady` on a loop whose
    limits do not run out while the machine stands still."""

    def __init__(
        self,
        options: EdgeOptions = QUICK,
        ledger: Ledger | None = None,
        stressed: EdgeOptions | None = None,
        *,
        steady: bool = False,
    ) -> None:
        self.ledger = ledger or Ledger()
        self.options, self.stressed = options, stressed
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self.socket.getsockname()[1]
        self.listener: Listener
        self.loop: asyncio.AbstractEventLoop
        self._make_loop = SteadyLoop if steady else uvloop.new_event_loop
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=self._make_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        self.listener = await serve(self.socket, self.options, self.ledger, stressed=self.stressed)
        self._ready.set()
        await self._stop.wait()
        await self.listener.drain(0.2)

    def __enter__(self) -> Server:
        self._thread.start()
        assert self._ready.wait(PATIENCE)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        if kind is None:
            assert self.ledger.open == 0, "a session was not closed"

    @property
    def accepted(self) -> list[Accepted]:
        return self.ledger.accepted

    def client(self, *, greeted: bool = True) -> Client:
        client = Client(self.port)
        if greeted:
            client.expect(220)
            client.command(b"EHLO client.example", 250)
        return client

    def hurry(self, **deadlines: float) -> None:
        """Give the sessions that are here these deadlines, shorter than theirs: what went before
        had time enough."""
        shorter = replace(self.options.deadlines, **deadlines)
        self.run(lambda: [each.hurry(shorter) for each in self.listener._sessions])

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """The loop stands still meanwhile."""
        go_on = threading.Event()
        self.loop.call_soon_threadsafe(go_on.wait, PATIENCE)
        try:
            yield
        finally:
            go_on.set()

    def run(self, work: Callable[[], object]) -> object:
        """Run a coroutine function on the server's loop and give its result."""

        async def call() -> object:
            result = work()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(PATIENCE)


_LAST_LINE = re.compile(rb"(?:\A|\r\n)([2-5][0-9][0-9])(?: [^\r\n]*)?\r\n")


class Client:
    """A raw socket that knows how an SMTP reply ends, and nothing else."""

    def __init__(self, port: int, *, receive_buffer: int = 0) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._seen = b""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *pieces: bytes) -> None:
        for each in pieces:
            self.socket.sendall(each)

    def slowly(self, octets: bytes) -> None:
        """One octet a segment, each read by the server before the next is sent, mostly."""
        for at in range(len(octets)):
            self.socket.sendall(octets[at : at + 1])
            time.sleep(0.002)

    def reply(self) -> tuple[int, str]:
        """The next reply: its code, and all its text."""
        while True:
            match = _LAST_LINE.search(self._seen)
            if match is not None:
                reply, self._seen = self._seen[: match.end()], self._seen[match.end() :]
                return int(match[1]), reply.decode()
            more = self.socket.recv(65536)
            assert more, f"closed after {self._seen!r}"
            self._seen += more

    def expect(self, code: int, enhanced: str = "") -> str:
        got, text = self.reply()
        assert (got, enhanced) == (code, enhanced if f"{code} {enhanced}" in text else ""), text
        return text

    def command(self, line: bytes, code: int, enhanced: str = "") -> str:
        self.send(line + b"\r\n")
        return self.expect(code, enhanced)

    def begin(self, *recipients: bytes) -> None:
        """MAIL, RCPT and DATA, up to 354."""
        self.command(b"MAIL FROM:<a@example.com>", 250)
        for each in recipients or (b"u@example.net",):
            self.command(b"RCPT TO:<" + each + b">", 250)
        self.command(b"DATA", 354)

    def until_told(self, code: int, enhanced: str, step: Callable[[], None]) -> None:
        """Do `step` again and again until this reply comes."""
        end = time.monotonic() + PATIENCE
        self.socket.settimeout(0.05)
        while True:
            step()
            try:
                self.expect(code, enhanced)
                break
            except TimeoutError:
                assert time.monotonic() < end, "it did not happen in time"
        self.socket.settimeout(PATIENCE)

    def closed(self) -> bytes:
        """All that still comes until the server closes; fails if it does not."""
        try:
            while more := self.socket.recv(65536):
                self._seen += more
        except ConnectionResetError:
            pass
        rest, self._seen = self._seen, b""
        return rest
