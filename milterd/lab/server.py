"""A milter that does as it is told: the other end for any MTA that is to be tried.

A `Plan` says what to answer at each event: replies, edits, octets of any kind, a
pause, silence, the end of the connection.  What the MTA said is kept, and held
against the protocol by `milterd.wire.milter`: where it breaks a rule, `Heard.fault`
says which, and the connection ends.

    async with serve("unix:/run/lab.sock") as milter:
        visit = milter.expect(Plan({m.EndOfMessage: [m.AddHeaderReply(b"X", b"y"), m.Accept()]}))
        ...                     # have the MTA take a mail
        await visit.ended()     # visit.heard holds the events
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from milterd.base import sockets
from milterd.wire import messages as m
from milterd.wire.constants import NEWEST_VERSION, Actions, Protocol, Stage
from milterd.wire.errors import WireError
from milterd.wire.milter import MilterConnection
from milterd.wire.states import EDIT_ACTIONS, REPLIES, CommandType

_READ = 65536
EDITS = Actions.ALL & ~Actions.SETSYMLIST


class Do(enum.Enum):
    """What is no octets at all."""

    SILENCE = "say nothing more, until the MTA hangs up"
    CLOSE = "close the connection"


@dataclass(frozen=True, slots=True)
class Wait:
    """Seconds to wait before the next step."""

    seconds: float


Step = m.Reply | bytes | Wait | Do
Answer = Step | Sequence[Step]
Choice = Answer | Callable[[m.CommandMessage, int], Answer]
"""An answer, or a function that gives one for the event and how many of its kind came
before on this connection."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the milter says to the MTA's offer, cut down to what was offered.

    `answer`, where given, is sent instead as it is: a lie, garbage, nothing.
    """

    version: int = NEWEST_VERSION
    actions: Actions = EDITS
    protocol: Protocol = Protocol.NONE
    macros: Mapping[Stage, Sequence[str]] = field(default_factory=dict)
    answer: Answer | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """One connection's part: an answer for each kind of event, Continue for the others.

    An answer to an event that wants none is sent all the same.
    """

    answers: Mapping[CommandType, Choice] = field(default_factory=dict)
    terms: Terms = field(default_factory=Terms)


@dataclass(slots=True)
class Heard:
    """What an MTA said on one connection, in its order, the macros with it.

    `fault` is the first rule it broke, with the octet of its stream by which it had;
    `broken_off` tells that it closed in the middle of a packet or of our answer.
    """

    events: list[m.CommandMessage] = field(default_factory=list)
    fault: str = ""
    octets: int = 0
    broken_off: bool = False

    def of(self, kind: CommandType) -> list[m.CommandMessage]:
        """The events of one kind."""
        return [each for each in self.events if isinstance(each, kind)]

    def kinds(self) -> list[str]:
        """The names of all events but the macros."""
        return [type(each).__name__ for each in self.events if not isinstance(each, m.Macros)]

    def macros(self, kind: CommandType, number: int = 0) -> dict[str, bytes]:
        """The macros told just before an event, by names without braces."""
        for at, _ in self._at(kind, number):
            before = self.events[at - 1] if at else None
            if isinstance(before, m.Macros):
                return {name.decode("latin-1").strip("{}"): value for name, value in before.values}
        return {}

    def _at(self, kind: CommandType, number: int) -> Iterator[tuple[int, m.CommandMessage]]:
        found = [(at, each) for at, each in enumerate(self.events) if isinstance(each, kind)]
        yield from found[number : number + 1]


@dataclass(slots=True)
class Visit:
    """One connection, which may be still to come."""

    plan: Plan
    heard: Heard = field(default_factory=Heard)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def has_arrived(self) -> bool:
        """Whether the MTA has connected."""
        return self._arrived.is_set()

    async def arrived(self) -> None:
        """Wait until the MTA connects; the caller sets the limit."""
        await self._arrived.wait()

    async def ended(self) -> None:
        """Wait until the connection is over; the caller sets the limit."""
        await self._ended.wait()


class Milter:
    """A listening milter.  Connections take the expected visits in their order."""

    def __init__(self, address: sockets.SocketAddress, otherwise: Plan) -> None:
        self._address, self._otherwise = address, otherwise
        self._expected: deque[Visit] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    def expect(self, plan: Plan) -> Visit:
        """Give the next connection that is not spoken for this plan."""
        visit = Visit(plan)
        self._expected.append(visit)
        return visit

    def forget(self, visit: Visit) -> None:
        """Expect it no more."""
        with contextlib.suppress(ValueError):
            self._expected.remove(visit)

    async def open(self) -> None:
        """Listen.  Raises sockets.SocketError."""
        listener = sockets.listen(self._address, mode=0o666)
        if self._address.kind == "unix":
            self._server = await asyncio.start_unix_server(self._accept, sock=listener)
        else:
            self._server = await asyncio.start_server(self._accept, sock=listener)

    def shut(self) -> None:
        """Listen no more: the next MTA that comes finds nobody."""
        if self._server is not None:
            self._server.close()
            self._server = None
            if self._address.kind == "unix":
                sockets.remove(self._address.path)

    async def close(self) -> None:
        """The end of all connections."""
        self.shut()
        for each in tuple(self._running):
            each.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visit = self._expected.popleft() if self._expected else Visit(self._otherwise)
        task = asyncio.ensure_future(_Talk(visit, reader, writer).run())
        self._running.add(task)
        task.add_done_callback(self._running.discard)


class _LeftError(Exception):
    """The plan has the milter close the connection."""


class _Talk:
    """One connection on its way through its plan."""

    def __init__(
        self, visit: Visit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._visit, self._reader, self._writer = visit, reader, writer
        self._plan, self._heard = visit.plan, visit.heard
        terms = visit.plan.terms
        self._wire = MilterConnection(
            accept_actions=terms.actions,
            accept_protocol=terms.protocol,
            macros=terms.macros,
            version=terms.version,
        )
        self._came: dict[CommandType, int] = {}

    async def run(self) -> None:
        """To the end, whoever makes it."""
        self._visit._arrived.set()
        try:
            await self._listen()
        except WireError as error:
            self._heard.fault = f"by octet {self._heard.octets}: {error.reason}"
        except ConnectionError:
            self._heard.broken_off = True
        except _LeftError:
            pass  # as planned
        finally:
            self._writer.close()
            self._visit._ended.set()

    async def _listen(self) -> None:
        while data := await self._reader.read(_READ):
            self._heard.octets += len(data)
            events = self._wire.receive(data)
            while events:
                for event in events:
                    # At most the last one wants an answer.
                    await self._take(event, self._wire.reply_due and event is events[-1])
                events = self._wire.receive()
        self._wire.eof()

    async def _take(self, event: m.CommandMessage, due: bool) -> None:
        self._heard.events.append(event)
        if isinstance(event, m.Negotiate):
            agreed = self._wire.negotiate()
            terms = self._plan.terms
            await self._run([agreed] if terms.answer is None else _steps(terms.answer))
            return
        steps = self._answer(event)
        if due and not steps:
            steps = [m.Continue()]
        await self._run(steps)
        if due:
            self._wire.reply(_stands_for(event, steps))

    def _answer(self, event: m.CommandMessage) -> Sequence[Step]:
        kind = type(event)
        number = self._came.get(kind, 0)
        self._came[kind] = number + 1
        chosen = self._plan.answers.get(kind)
        if chosen is None:
            return ()
        return _steps(chosen(event, number) if callable(chosen) else chosen)

    async def _run(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if isinstance(step, Wait):
                await asyncio.sleep(step.seconds)
            elif step is Do.SILENCE:
                while await self._reader.read(_READ):
                    pass
                raise _LeftError
            elif isinstance(step, Do):
                raise _LeftError
            else:
                self._writer.write(step if isinstance(step, bytes) else step.encode())
                await self._writer.drain()


def _steps(answer: Answer) -> Sequence[Step]:
    return answer if isinstance(answer, Sequence) and not isinstance(answer, bytes) else [answer]


def _stands_for(event: m.CommandMessage, steps: Sequence[Step]) -> m.Reply:
    """The legal reply after which the protocol stands where these steps leave it."""
    for step in reversed(steps):
        if isinstance(step, bytes | Wait | Do) or type(step) in EDIT_ACTIONS:
            continue
        if isinstance(step, m.ReplyCode):
            return m.Reject()
        if isinstance(step, m.Skip | m.Progress) or type(step) not in REPLIES[type(event)]:
            break
        return step
    return m.Continue()


@asynccontextmanager
async def serve(address: str, otherwise: Plan | None = None) -> AsyncIterator[Milter]:
    """Listen as a milter at `unix:PATH` or `inet:PORT@HOST`, closed at the end.

    `otherwise` is for connections that nobody expected.  Raises ValueError for an
    address that is none, and sockets.SocketError where nobody can listen.
    """
    milter = Milter(sockets.parse(address), otherwise or Plan())
    await milter.open()
    try:
        yield milter
    finally:
        await milter.close()
