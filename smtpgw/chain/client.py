"""One connection to one milter: asyncio round the sans-I/O connection of milterd.wire.

Every wait has a limit.  Whatever the milter does wrong, be it out of reach, slow,
gone, or speaking out of turn, is a MilterFault; after one the connection is of no
use, and closed, so that no late reply can be taken for that of another event.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence

from milterd.base.alarm import Alarm
from milterd.wire.agreement import Negotiated
from milterd.wire.bulk import Octets
from milterd.wire.errors import PeerError
from milterd.wire.messages import (
    EndOfMessage,
    Progress,
    QuarantineReply,
    Quit,
    Reply,
)
from milterd.wire.mta import MtaConnection
from milterd.wire.states import CommandType
from smtpgw.chain.faults import FaultKind, MilterFault

BATCH = 65_536
"""Octets collected before they are written, where no reply is waited for."""
BACKLOG = 64
"""Replies that may wait for us before we stop reading."""
LINGER = 5.0
"""Seconds that a QUIT may take to leave before the connection is cut."""

_QUIT = Quit().encode()


class MilterClient(asyncio.Protocol):
    """A connection, from :func:`~smtpgw.chain.connecting.connect` to `close` or `abort`.

    `early_hold` is a quarantine asked for before the end of the message, which
    Postfix takes too; whoever heeds it resets it.
    """

    def __init__(self, connection: MtaConnection) -> None:
        self.connection = connection
        self.fault: MilterFault | None = None
        self.early_hold: QuarantineReply | None = None
        self.failed: Callable[[], None] = _nobody_told
        """Called once, with the fault."""
        self._transport: asyncio.Transport | None = None
        self.loop = asyncio.get_running_loop()
        self._out: list[Octets] = []
        self._kept = 0
        self._replies: deque[Reply | Negotiated] = deque()
        self._reading = True
        self._writable = True
        self._dismissed = self._closed = False
        self.listener: Callable[[], None] | None = None
        """Who is called while he waits (:meth:`listen`); None for nobody."""
        self._woken: asyncio.Future[None] | None = None
        self._alarm: Alarm | None = None
        self._patience = 0.0
        self._until, self._total = math.inf, math.inf

    # --- asyncio calls these ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # of a stream there is no other

    def data_received(self, data: bytes) -> None:
        if self.fault is not None:
            return
        try:
            found = self.connection.receive(data)
        except PeerError as error:
            self._replies.clear()
            self._fail(MilterFault(FaultKind.PROTOCOL, error.reason))
            self.abort()
            return
        self._replies += found
        listener = self.listener
        if self._dismissed:
            self._drop_dismissed()
        elif listener is None:
            if found:
                self._wake()
        elif self.connection.asked is not None:
            self._more_is_due(found)
        elif found:
            listener()
        # Whoever was called has taken what there was.
        if self._replies and len(self._replies) > BACKLOG and self._reading:
            self._stop_reading()

    def _stop_reading(self) -> None:
        if self._transport is not None:
            self._reading = False
            self._transport.pause_reading()

    def _more_is_due(self, found: Sequence[object]) -> None:
        """Whoever listens hears of a verdict, not of each edit before it."""
        if found:
            self._wind(self._patience)
        if len(self._replies) > BACKLOG:
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._closed:
            self._silence()
            return
        detail = "the milter closed the connection" if exc is None else str(exc)
        self._fail(MilterFault(FaultKind.CLOSED, detail))
        self._silence()

    def _silence(self) -> None:
        """The connection is over: hold on to nobody who holds on to this."""
        self._transport, self.failed = None, _nobody_told
        if self._alarm is not None:
            self._alarm.close()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self.listener is not None:
            self._wind(self._patience)
        self._wake()

    def _fail(self, fault: MilterFault) -> None:
        self._writable = True
        if self.fault is None:
            self.fault = fault
            self.failed()
        self._wake()

    def _wake(self) -> None:
        if self.listener is not None:
            self.listener()
        elif self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    # --- the chain calls these ---

    def dismiss(self) -> None:
        """The answer that is due does not matter any more: it is dropped when it comes."""
        self._dismissed = True
        self._drop_dismissed()

    def _drop_dismissed(self) -> None:
        self._replies.clear()
        self._read_on()
        self._dismissed = self.connection.awaiting > 0

    @property
    def usable(self) -> bool:
        """Whether events may be sent: nothing failed, and no answer is due."""
        return self.fault is None and not self.connection.awaiting

    def check(self) -> None:
        """Raises MilterFault if the milter failed."""
        if self.fault is not None:
            raise self.fault

    def begin(self, seconds: float) -> None:
        """From now on all waits together end after so many seconds, until the next call."""
        self._until, self._total = self.loop.time() + seconds, seconds

    def show(
        self,
        times: tuple[float, float],
        listener: Callable[[], None] | None,
        kinds: tuple[CommandType, ...],
        head: bytes,
        parts: Sequence[Octets],
    ) -> None:
        """:meth:`begin`, :meth:`keep`, :meth:`write` and :meth:`listen` in one; `times` are the
        patience and the seconds in all.  The frames are `head`, and behind it one piece that is
        small, or several."""
        patience, seconds = times
        now = self.loop.time()
        self._until, self._total = now + seconds, seconds
        self.connection.run(kinds)
        if listener is not None:
            self.listener, self._patience = listener, patience
            if self._alarm is None:
                self._alarm = Alarm(self.loop, self._ring)
            self._alarm.set(now + (patience if patience < seconds else seconds))
        if self._out:
            self._out += head, *parts
            self._kept += len(head) + sum(map(len, parts))
            self.write()
        elif self._transport is not None and self.fault is None:
            if len(parts) == 1:
                self._transport.write(head + parts[0])
            else:
                self._transport.writelines((head, *parts))

    def keep(self, kinds: tuple[CommandType, ...], octets: bytes) -> None:
        """Take many events at once, of which at most the last is answered: their frames but
        those the milter does not want.  They go out with :meth:`flush`."""
        self.connection.run(kinds)
        self._out.append(octets)
        self._kept += len(octets)

    def add(self, kind: CommandType, *parts: Octets) -> None:
        """Take one event, or several of a kind that is not answered; :meth:`heard` is next.
        Raises MilterFault."""
        self.check()
        if self.connection.move(kind):
            self._out += parts
            self._kept += sum(map(len, parts))

    async def heard(self, patience: float) -> Reply | None:
        """The reply to what was added, or None where none is due.

        What needs no reply is kept back until something does, or there is a batch of it.
        `patience`, in seconds, bounds each wait.  Raises MilterFault.
        """
        asked = self.connection.asked
        if asked is not None:
            await self.flush(patience)
            reply = await self.answer(patience)
            while isinstance(reply, QuarantineReply) and asked is not EndOfMessage:
                self.early_hold = reply
                reply = await self.answer(patience)
            return reply
        if self._kept >= BATCH:
            await self.flush(patience)
            # Let others run, and hear of a milter that hung up.
            await asyncio.sleep(0)
        return None

    def write(self) -> None:
        """Write what was kept; of no effect after a fault."""
        out, small = self._out, self._kept < BATCH
        if out and self._transport is not None and self.fault is None:
            self._out, self._kept = [], 0
            if small:
                self._transport.write(b"".join(out))
            else:
                self._transport.writelines(out)

    async def flush(self, patience: float) -> None:
        """Write what was kept, and wait while the milter does not take it."""
        self.write()
        while not self._writable:
            await self.more(patience)
        if self.fault is not None and not self._replies:
            raise self.fault

    def offer(self) -> None:
        """Open the conversation."""
        if self._transport is not None:
            self._transport.write(self.connection.negotiate())

    async def negotiate(self, patience: float) -> None:
        """The same, and wait for the answer."""
        self.offer()
        # The connection lets nothing but a negotiation answer an offer.
        await self._next(patience)

    def negotiated(self) -> bool:
        """Whether the milter has answered the offer; whoever listens does not any more then.
        Raises MilterFault if it failed."""
        if self.fault is None and not (self._replies and self._writable):
            return False
        self.listener = None
        self.poll()
        return True

    async def answer(self, patience: float) -> Reply:
        """The next reply that is not PROGRESS, each within `patience` seconds."""
        while True:
            reply = await self._next(patience)
            if not isinstance(reply, Progress | Negotiated):
                return reply

    async def _next(self, patience: float) -> Reply | Negotiated:
        while (reply := self.poll()) is None:
            await self.more(patience)
        return reply

    def poll(self) -> Reply | Negotiated | None:
        """The next reply that has come; None while there is none, or while the milter still takes
        what was sent.  Raises MilterFault where none will come."""
        if not self._writable:
            return None
        if not self._replies:
            if self.fault is not None:
                raise self.fault
            return None
        reply = self._replies.popleft()
        if not self._replies:
            self._read_on()
        return reply

    def come(self) -> Sequence[Reply | Negotiated]:
        """All replies that have come, at once; as :meth:`poll` otherwise."""
        replies = self._replies
        if not self._writable:
            return ()
        if not replies:
            if self.fault is not None:
                raise self.fault
            return ()
        self._replies = deque()
        if not self._reading:
            self._read_on()
        return replies

    def _read_on(self) -> None:
        if not self._reading and self._transport is not None and self.fault is None:
            self._reading = True
            self._transport.resume_reading()

    async def more(self, patience: float) -> None:
        """Until anything comes from the milter, or there is room to write, or it failed."""
        if self.fault is not None:
            raise self.fault
        self._woken = self.loop.create_future()
        self._wind(patience)
        try:
            await self._woken
        finally:
            self._woken = None

    def listen(self, patience: float, listener: Callable[[], None]) -> None:
        """The same without waiting: `listener` is called when what was asked is answered, when
        many edits have come, or on failure.  `patience` bounds the time to each word of the
        milter.  It is so until :attr:`listener` is None; the alarm may ring all the same."""
        self.listener = listener
        self._wind(patience)

    def _wind(self, patience: float) -> None:
        self._patience = patience
        self._ring_at(self.loop.time() + patience)

    def _ring_at(self, due: float) -> None:
        if self._alarm is None:
            self._alarm = Alarm(self.loop, self._ring)
        self._alarm.set(due if due < self._until else self._until)

    def _ring(self) -> None:
        if self.listener is None and self._woken is None:
            return
        what = "answering" if self._writable else "taking what was sent"
        detail = f"{what} took longer than {self._patience:g} s"
        if self.loop.time() >= self._until:
            detail = f"no verdict within {self._total:g} s"
        self._fail(MilterFault(FaultKind.TIMEOUT, detail))
        self.abort()

    def close(self) -> None:
        """Send QUIT and close; a milter that does not take it is cut off."""
        if self.fault is not None or self._transport is None or self._transport.is_closing():
            self.abort()
            return
        self.connection.move(Quit)
        self._out.append(_QUIT)
        self._closed = True
        self.write()
        if self._transport.get_write_buffer_size():
            self.loop.call_later(LINGER, self._transport.abort)
        self._transport.close()

    def abort(self) -> None:
        """Cut the connection; anything still to come is dropped."""
        self._out, self._kept = [], 0
        if self._transport is not None:
            self._transport.abort()


def _nobody_told() -> None:
    """Of a fault."""
