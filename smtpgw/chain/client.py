"""One connection to one milter: asyncio round the sans-I/O connection of milterd.wire.

Every wait has a limit.  Whatever the milter does wrong, be it out of reach, slow,
gone, or speaking out of turn, is a MilterFault; after one the connection is of no
use, and closed, so that no late reply can be taken for that of another event.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Coroutine
from typing import Any, TypeVar, cast

from milterd.base.alarm import Alarm
from milterd.base.sockets import SocketAddress
from milterd.base.waiting import within
from milterd.wire.errors import PeerError
from milterd.wire.messages import (
    CommandMessage,
    EndOfMessage,
    Progress,
    QuarantineReply,
    Quit,
    Reply,
)
from milterd.wire.mta import MtaConnection, Negotiated
from smtpgw.chain.faults import FaultKind, MilterFault
from smtpgw.chain.macros import Values

T = TypeVar("T")

BATCH = 65_536
"""Octets collected before they are written, where no reply is waited for."""
BACKLOG = 64
"""Replies that may wait for us before we stop reading."""
LINGER = 5.0
"""Seconds that a QUIT may take to leave before the connection is cut."""


class MilterClient(asyncio.Protocol):
    """A connection, from `connect` to `close` or `abort`.

    `early_hold` is a quarantine asked for before the end of the message, which
    Postfix takes too; whoever heeds it resets it.
    """

    def __init__(self, connection: MtaConnection) -> None:
        self.connection = connection
        self.fault: MilterFault | None = None
        self.early_hold: QuarantineReply | None = None
        self._transport: asyncio.Transport | None = None
        self._out = bytearray()
        self._replies: deque[Reply | Negotiated] = deque()
        self._reading = True
        self._arrived: asyncio.Future[None] | None = None
        self._alarm: Alarm | None = None
        self._patience = 0.0
        self._writable = asyncio.Event()
        self._writable.set()

    # --- asyncio calls these ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.fault is not None:
            return
        try:
            self._replies.extend(self.connection.receive(data))
        except PeerError as error:
            self._replies.clear()
            self._fail(MilterFault(FaultKind.PROTOCOL, error.reason))
            self.abort()
            return
        if len(self._replies) > BACKLOG and self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()
        if self._replies:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        detail = "the milter closed the connection" if exc is None else str(exc)
        self._fail(MilterFault(FaultKind.CLOSED, detail))
        if self._alarm is not None:
            self._alarm.close()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _fail(self, fault: MilterFault) -> None:
        self.fault = self.fault or fault
        self._writable.set()
        self._wake()

    def _wake(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    # --- the chain calls these ---

    async def event(
        self, command: CommandMessage, macros: Values = (), *, patience: float
    ) -> Reply | None:
        """Send a command after its macros; the reply, or None where none is due.

        What needs no reply is kept back until something does, or there is a
        batch of it.  `patience`, in seconds, bounds each wait.  Raises MilterFault.
        """
        if self.fault is not None:
            raise self.fault
        self._out += self.connection.send(command, macros)
        if self.connection.awaiting:
            await self.flush(patience)
            reply = await self.answer(patience)
            while isinstance(reply, QuarantineReply) and not isinstance(command, EndOfMessage):
                self.early_hold = reply
                reply = await self.answer(patience)
            return reply
        if len(self._out) >= BATCH:
            await self.flush(patience)
            # Let others run, and hear of a milter that hung up.
            await asyncio.sleep(0)
        return None

    async def flush(self, patience: float) -> None:
        """Write what was kept back, and wait while the milter does not take it."""
        if self._out and self._transport is not None and self.fault is None:
            self._transport.write(bytes(self._out))
            self._out.clear()
        if not self._writable.is_set():
            try:
                async with asyncio.timeout(patience):
                    await self._writable.wait()
            except TimeoutError:
                raise self._timed_out("taking what was sent", patience) from None
        if self.fault is not None and not self._replies:
            raise self.fault

    async def negotiate(self, patience: float) -> None:
        """Open the conversation."""
        self._out += self.connection.negotiate()
        await self.flush(patience)
        # The connection lets nothing but a negotiation answer an offer.
        await self._next(patience)

    async def answer(self, patience: float) -> Reply:
        """The next reply that is not PROGRESS, each within `patience` seconds."""
        while True:
            reply = await self._next(patience)
            if not isinstance(reply, Progress | Negotiated):
                return reply

    async def _next(self, patience: float) -> Reply | Negotiated:
        if not self._replies:
            await self._arrival(patience)
        if not self._replies and self.fault is not None:
            raise self.fault
        reply = self._replies.popleft()
        if not self._replies and not self._reading and self._transport and self.fault is None:
            self._reading = True
            self._transport.resume_reading()
        return reply

    async def _arrival(self, patience: float) -> None:
        if self.fault is not None:
            raise self.fault
        loop = asyncio.get_running_loop()
        if self._alarm is None:
            self._alarm = Alarm(loop, self._ring)
        self._arrived, self._patience = loop.create_future(), patience
        self._alarm.set(loop.time() + patience)
        try:
            await self._arrived
        finally:
            self._arrived = None
            self._alarm.clear()

    def _ring(self) -> None:
        self._timed_out("answering", self._patience)

    def _timed_out(self, what: str, patience: float) -> MilterFault:
        fault = MilterFault(FaultKind.TIMEOUT, f"{what} took longer than {patience:g} s")
        self._fail(fault)
        self.abort()
        return fault

    def send_now(self, command: CommandMessage) -> None:
        """Send a command that has no reply (ABORT), without waiting; of no effect after a fault."""
        if self.fault is None and self._transport is not None:
            self._out += self.connection.send(command)
            self._transport.write(bytes(self._out))
            self._out.clear()

    def close(self) -> None:
        """Send QUIT and close; a milter that does not take it is cut off."""
        if self.fault is not None or self._transport is None or self._transport.is_closing():
            self.abort()
            return
        self.send_now(Quit())
        if self._transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(LINGER, self._transport.abort)
        self._transport.close()

    def abort(self) -> None:
        """Cut the connection; anything still to come is dropped."""
        self._out.clear()
        if self._transport is not None:
            self._transport.abort()


async def connect(
    address: SocketAddress, connection: MtaConnection, *, connecting: float, patience: float
) -> MilterClient:
    """Connect within `connecting` seconds and negotiate within `patience` seconds.

    Raises MilterFault.
    """
    try:
        async with asyncio.timeout(connecting):
            client = await _dial(address, connection)
    except TimeoutError:
        detail = f"connecting took longer than {connecting:g} s"
        raise MilterFault(FaultKind.TIMEOUT, detail) from None
    except OSError as error:
        detail = error.strerror or str(error)
        raise MilterFault(FaultKind.UNREACHABLE, detail) from error
    try:
        await client.negotiate(patience)
    except BaseException:
        client.abort()
        raise
    return client


async def _dial(address: SocketAddress, connection: MtaConnection) -> MilterClient:
    loop = asyncio.get_running_loop()
    if address.kind != "unix":
        _, client = await loop.create_connection(
            lambda: MilterClient(connection), address.host, address.port
        )
        return client
    opened = await _connect_unix(address.path)
    try:
        _, client = await loop.create_unix_connection(lambda: MilterClient(connection), sock=opened)
    except BaseException:
        opened.close()
        raise
    return client


async def _connect_unix(path: str) -> socket.socket:
    """A connected socket.  A full backlog is EAGAIN there (unix(7)), so it is tried again."""
    opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    pause = 0.005
    try:
        opened.setblocking(False)
        while (code := opened.connect_ex(path)) != 0:
            if code not in {errno.EAGAIN, errno.EINTR}:
                raise OSError(code, os.strerror(code))  # noqa: TRY301 - the socket closes below
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.2)
    except BaseException:
        opened.close()
        raise
    return opened


async def in_all(seconds: float, step: Coroutine[Any, Any, T]) -> T:
    """Bound a whole event, however often the milter says that it is still at work."""
    try:
        return await within(seconds, step)
    except TimeoutError:
        detail = f"no verdict within {seconds:g} s"
        raise MilterFault(FaultKind.TIMEOUT, detail) from None
