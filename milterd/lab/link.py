"""One connection to a milter, from the MTA's side, with a limit on every wait.

The rules are `milterd.wire.mta`'s; here are the socket, the clock and the place:
whatever the milter does wrong is a `MilterError` that says what, at which stage,
and at which octet of what the milter has sent.  For those who test a milter's
manners, `write` and `frame` go round the rules.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal, TypeVar

from milterd.base.sockets import SocketAddress, parse
from milterd.lab import status
from milterd.wire import messages as m
from milterd.wire.agreement import Negotiated
from milterd.wire.constants import NEWEST_VERSION, Actions, Protocol
from milterd.wire.errors import PeerError
from milterd.wire.frames import FrameDecoder
from milterd.wire.limits import Limits
from milterd.wire.mta import MtaConnection

_READ = 65536
_LEAVE = 1.0
"""Seconds that the last octets may take to leave."""
_PROGRESS = 1000
"""Progress replies of one event that are kept."""
_AGAIN = 0.01
"""Seconds between two attempts to reach a listener whose queue is full."""

Side = Literal["mta", "milter"]
Tap = Callable[[Side, bytes], None]
"""Told of all octets as they are sent and received."""
T = TypeVar("T")

STAGES: dict[type[m.CommandMessage], str] = {
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
    m.Unknown: "unknown",
    m.Abort: "abort",
    m.Quit: "quit",
    m.QuitNewConnection: "quit, new connection",
}
"""The event's name where a person reads it."""


class Fault(enum.Enum):
    """What a milter can do wrong; the value is the command's exit status."""

    BROKEN = status.BROKEN
    SILENT = status.SILENT
    GONE = status.GONE


WORDS = {
    Fault.BROKEN: "protocol error",
    Fault.SILENT: "silent",
    Fault.GONE: "connection lost",
}
"""Each fault where a person reads it."""


class MilterError(Exception):
    """The milter could not be reached, did not answer in time, or broke the protocol.

    `stage` is the event it happened at, `octet` how many good octets the milter
    had sent before.
    """

    def __init__(self, fault: Fault, message: str, stage: str = "", octet: int = 0) -> None:
        super().__init__(message)
        self.fault, self.stage, self.octet = fault, stage, octet


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait, in seconds: for one answer, and for all that is done on one
    connection together."""

    answer: float = 30.0
    total: float = 300.0


class Link:
    """A connection; get one with `connect`.

    `patience.answer` may be set anew for the waits to come.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        mta: MtaConnection,
        patience: Patience,
        tap: Tap | None = None,
    ) -> None:
        self.mta = mta
        self.stage = "negotiate"
        self._reader, self._writer, self._tap = reader, writer, tap
        self.patience = patience
        self._ends = asyncio.get_running_loop().time() + patience.total
        self._frames = FrameDecoder(Limits().frame)
        self._raw = self._progress = 0

    @property
    def octet(self) -> int:
        """How many octets of the milter have been good so far."""
        return self.mta.taken + self._raw

    async def negotiate(self) -> Negotiated:
        """Make the offer and take the answer."""
        await self.write(self.mta.negotiate())
        (agreed,) = await self._answers()
        assert isinstance(agreed, Negotiated)  # noqa: S101 - the connection gives nothing else here
        return agreed

    async def say(
        self, command: m.CommandMessage, macros: Sequence[tuple[bytes, bytes]] | None = None
    ) -> list[m.Reply]:
        """Send one event and take its answer: edits and progress first, the reply last.

        Empty where no answer is due.  Raises MilterError, and LocalError for an
        event that may not come now.
        """
        self.stage = STAGES[type(command)]
        octets = self.mta.send(command, macros)
        if octets:
            await self.write(octets)
        return await self.answers()

    async def answers(self) -> list[m.Reply]:
        """What is due for an event sent before: edits and progress first, the reply last.

        Empty where nothing is.  Raises MilterError; after one for silence the answer may
        still be waited for.
        """
        return [each for each in await self._answers() if not isinstance(each, Negotiated)]

    async def write(self, octets: bytes) -> None:
        """Send octets as they are, whatever they are."""
        if self._tap is not None:
            self._tap("mta", octets)
        self._writer.write(octets)
        await self._within(self._writer.drain())

    async def frame(self) -> tuple[int, bytes] | None:
        """The next frame, code and payload, without a look at its sense; None at the end.

        Do not mix with `say`: what one has read is unknown to the other.
        """
        while (found := self._next_frame()) is None:
            data = await self._read()
            if not data:
                if self._frames.buffered:
                    raise self._error(Fault.GONE, "closed in the middle of a packet")
                return None
            self._frames.feed(data)
        self._raw += len(found[1]) + 5
        return found

    async def closed(self) -> bool:
        """Wait for the milter to close; False if it sends something instead."""
        return not await self._read()

    def end_of_file(self) -> None:
        """Close our half of the connection: the milter reads end of file."""
        self._writer.write_eof()

    async def bye(self) -> None:
        """End the session as Postfix does: an ABORT for the mail, one for the rest, and QUIT."""
        last = (m.Abort(), m.Abort(), m.Quit())
        await self.write(b"".join([self.mta.send(each) for each in last]))

    async def close(self) -> None:
        """Close, and wait a moment for the last octets to leave."""
        self._writer.close()
        try:
            async with asyncio.timeout(_LEAVE):
                await self._writer.wait_closed()
        except (OSError, TimeoutError):
            # What there was to know is known by then; how the milter left does not matter.
            self.drop()

    def drop(self) -> None:
        """End the connection at once, unsent octets and all."""
        self._writer.transport.abort()

    async def _answers(self) -> list[m.Reply | Negotiated]:
        found: list[m.Reply | Negotiated] = []
        self._progress = 0
        while self.mta.awaiting:
            data = await self._read()
            try:
                if not data:
                    self.mta.eof()
                found += self._counted(self.mta.receive(data))
            except PeerError as error:
                kind = Fault.BROKEN if data else Fault.GONE
                raise self._error(kind, error.reason) from error
        return found

    def _counted(self, replies: list[m.Reply | Negotiated]) -> Iterator[m.Reply | Negotiated]:
        """The replies but for Progress without end, which must not fill the memory."""
        for each in replies:
            self._progress += isinstance(each, m.Progress)
            if self._progress <= _PROGRESS or not isinstance(each, m.Progress):
                yield each

    async def _read(self) -> bytes:
        data = await self._within(self._reader.read(_READ))
        if data and self._tap is not None:
            self._tap("milter", data)
        return data

    async def _within(self, doing: Awaitable[T]) -> T:
        now = asyncio.get_running_loop().time()
        ends = min(now + self.patience.answer, self._ends)
        try:
            async with asyncio.timeout_at(ends):
                return await doing
        except TimeoutError:
            which = (
                f"{self.patience.answer:g} s"
                if ends < self._ends
                else f"the {self.patience.total:g} s that all may take"
            )
            raise self._error(Fault.SILENT, f"no answer within {which}") from None
        except OSError as error:
            raise self._error(Fault.GONE, error.strerror or str(error)) from error

    def broken(self, error: PeerError, octet: int | None = None) -> MilterError:
        """The error for an answer that must be refused; `octet` is where it began."""
        return self._error(Fault.BROKEN, error.reason, octet)

    def _next_frame(self) -> tuple[int, bytes] | None:
        try:
            return self._frames.next_frame()
        except PeerError as error:
            raise self.broken(error) from error

    def _error(self, fault: Fault, what: str, octet: int | None = None) -> MilterError:
        octet = self.octet if octet is None else octet
        text = f"{WORDS[fault]} at {self.stage}, octet {octet} of the milter's: {what}"
        return MilterError(fault, text, self.stage, octet)


async def open_streams(
    target: SocketAddress,
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to an address; OSError if there is none.

    Waits, without end, while the listener's queue is full: give it a limit.
    """
    if target.kind != "unix":
        return await asyncio.open_connection(target.host, target.port)
    end = socket.socket(socket.AF_UNIX)
    try:
        end.setblocking(False)
        await reach(end, target.path)
        return await asyncio.open_unix_connection(sock=end)
    except BaseException:
        end.close()
        raise


async def reach(end: socket.socket, path: str) -> None:
    """Connect a socket that does not block; OSError if nobody listens.

    Again and again, without end, while the queue is full (EAGAIN): asyncio takes that for
    a connection that is under way.
    """
    while (error := end.connect_ex(path)) == errno.EAGAIN:  # noqa: ASYNC110 - nothing else tells
        await asyncio.sleep(_AGAIN)
    if error:
        raise OSError(error, os.strerror(error))


@asynccontextmanager
async def connect(
    address: str,
    *,
    patience: Patience | None = None,
    version: int = NEWEST_VERSION,
    actions: Actions = Actions.ALL,
    protocol: Protocol = Protocol.ALL,
    tap: Tap | None = None,
    offer: m.Negotiate | None = None,
    macros_always: bool = False,
) -> AsyncIterator[Link]:
    """A connection to the milter at `address` (`unix:PATH`, `inet:PORT@HOST`), not yet
    negotiated; closed at the end.

    `version`, `actions` and `protocol` are what to offer, `offer` one made as it is
    instead; `macros_always` sends macro packets as MTAs do (MtaConnection).  Raises
    MilterError if there is no connection, ValueError for an address that is none.
    """
    patience, target = patience or Patience(), parse(address)
    try:
        async with asyncio.timeout(patience.answer):
            streams = await open_streams(target)
    except TimeoutError:
        message = f"no connection to {address} within {patience.answer:g} s"
        raise MilterError(Fault.SILENT, message, "connection") from None
    except OSError as error:
        message = f"no connection to {address}: {error.strerror or error}"
        raise MilterError(Fault.GONE, message, "connection") from error
    mta = MtaConnection(
        version=version,
        actions=actions,
        protocol=protocol,
        offer=offer,
        macros_always=macros_always,
    )
    link = Link(*streams, mta, patience, tap)
    try:
        yield link
    finally:
        await link.close()
