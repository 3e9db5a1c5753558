"""A proxy between an MTA and a milter that keeps what they say on a tape.

Both ways every octet, half-close and reset goes on as it came; nothing is held but what
the other side does not take yet.  The mail flow comes first: a tape that cannot be written
any more is told of once, and the conversations go on without it.
"""

from __future__ import annotations

import asyncio
import enum
import errno
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from milterd.base.sockets import SocketAddress
from milterd.lab.link import reach
from milterd.lab.tape import Closer, Side, TapeWriter

_PIECE = 65536
_CONNECT = 30.0
"""Seconds until a milter counts as not there, as with Postfix (milter_connect_timeout)."""
_LAST_WORDS = 1.0
"""Seconds that a side which takes nothing more may still have something to say."""
_BREATH = 0.1
"""Seconds to wait where no descriptor is left for a new connection."""
_NO_LINGER = struct.pack("ii", 1, 0)
T = TypeVar("T")
_FOR_NOW = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ECONNABORTED)


@dataclass(frozen=True, slots=True)
class Ends:
    """When to stop by itself: after so many connections, so many seconds; 0 is never.

    `grace`: seconds that connections may still last after a stop.
    """

    connections: int = 0
    duration: float = 0.0
    grace: float = 10.0


@dataclass(slots=True)
class Recorded:
    """What came of it: connections taken, those that found no milter, those that were cut
    at the end, and why the tape is not whole."""

    connections: int = 0
    unreached: int = 0
    cut: int = 0
    failure: OSError | None = None


@dataclass(eq=False, slots=True)
class Recorder:
    """Takes connections for the milter at `target`; `told` hears what an operator must know.

    Set `stop` to take no more, and `hurry` to end those that are there as well.
    """

    target: SocketAddress
    tape: TapeWriter
    told: Callable[[str], None]
    ends: Ends = field(default_factory=Ends)
    done: Recorded = field(default_factory=Recorded)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self, listening: socket.socket) -> Recorded:
        """Until it is time, or told to stop.  The socket is closed then; the tape is not."""
        listening.setblocking(False)
        if self.ends.duration:
            asyncio.get_running_loop().call_later(self.ends.duration, self.stop.set)
        try:
            await self._accept(listening)
            listening.close()
            await self._await_all(self.stop)  # nobody said stop: who is there may finish
        finally:
            listening.close()
            await self._finish()
        return self.done

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while not self.ends.connections or self.done.connections < self.ends.connections:
            try:
                taken = await _unless(self.stop, loop.sock_accept(listening))
            except OSError as error:
                if error.errno not in _FOR_NOW:
                    raise
                self.told(f"cannot take a connection just now: {error.strerror}")
                await asyncio.sleep(_BREATH)
                continue
            if taken is None:
                return
            self.done.connections += 1
            task = asyncio.create_task(self._serve(taken[0]))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _await_all(self, event: asyncio.Event, most: float | None = None) -> None:
        if self._tasks:
            waiting = asyncio.wait(list(self._tasks), timeout=most)
            await _unless(event, waiting)

    async def _finish(self) -> None:
        await self._await_all(self.hurry, self.ends.grace)
        left = list(self._tasks)
        self.done.cut = len(left)
        for each in left:
            each.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _serve(self, mta: socket.socket) -> None:
        keeper = _Keeper(self)
        milter = None
        try:
            _prepare(mta)
            milter = await self._reach(keeper)
            if milter is not None:
                await _Exchange({"mta": mta, "milter": milter}, keeper).run()
        finally:
            keeper.closed("recorder")
            _end(mta, keeper.hard)
            if milter is not None:
                _end(milter, keeper.hard)

    async def _reach(self, keeper: _Keeper) -> socket.socket | None:
        """A connection to the milter; None where there is none, and the MTA is hung up on."""
        try:
            async with asyncio.timeout(_CONNECT):
                return await _connect(self.target)
        except (OSError, TimeoutError) as error:
            why = getattr(error, "strerror", None) or str(error) or f"not within {_CONNECT:g} s"
            text = f"no connection to the milter at {self.target}: {why}"
        self.done.unreached += 1
        keeper.hard = True
        keeper.note(text)
        self.told(text)
        return None

    def keep(self, write: Callable[[TapeWriter], None]) -> None:
        """Write on the tape, as long as it takes anything."""
        if self.done.failure is not None:
            return
        try:
            write(self.tape)
        except OSError as error:
            self.done.failure = error
            self.told(
                f"the tape takes no more: {error.strerror or error}; "
                "the mail goes on, and nothing more is recorded"
            )


class _Keeper:
    """One connection's place on the tape.  `hard`: it shall end with a reset."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder, self._number, self._over, self.hard = recorder, 0, False, False
        recorder.keep(self._open)

    def _open(self, tape: TapeWriter) -> None:
        self._number = tape.opened()

    def heard(self, side: Side, octets: bytes) -> None:
        if not self._over:  # a reset may come while the other side's octets are at hand
            self._recorder.keep(lambda tape: tape.heard(self._number, side, octets))

    def note(self, text: str) -> None:
        self._recorder.keep(lambda tape: tape.note(text, self._number))

    def closed(self, by: Closer, reset: bool = False, last: bool = False) -> None:
        """One side has; nothing more of the connection is kept if that was the `last` word."""
        if not self._over:
            self._over = last or reset or by == "recorder"
            self._recorder.keep(lambda tape: tape.closed(self._number, by, reset))


class _Pumped(enum.Enum):
    ENDED = "it closed its side"
    BROKEN = "it broke the connection"
    REFUSED = "the other side takes nothing more"


_OTHER: dict[Side, Side] = {"mta": "milter", "milter": "mta"}


class _Exchange:
    """Both ways of one connection."""

    def __init__(self, ends: dict[Side, socket.socket], keeper: _Keeper) -> None:
        self._ends, self._keeper = ends, keeper
        self._ended = 0

    async def run(self) -> None:
        """To its end, however that comes."""
        ways = {asyncio.create_task(self._pump(side), name=side) for side in _OTHER}
        waiting, most = ways, None
        try:
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=most, return_when=asyncio.FIRST_COMPLETED
                )
                results = {each.result() for each in done}
                if _Pumped.BROKEN in results or not done:
                    return
                if _Pumped.REFUSED in results:
                    self._keeper.hard, most = True, _LAST_WORDS
        finally:
            for each in ways:
                each.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _pump(self, side: Side) -> _Pumped:
        """Everything of one side to the other."""
        loop = asyncio.get_running_loop()
        source, sink = self._ends[side], self._ends[_OTHER[side]]
        while True:
            try:
                octets = await loop.sock_recv(source, _PIECE)
            except OSError:
                self._keeper.hard = True
                self._keeper.closed(side, reset=True)
                return _Pumped.BROKEN
            try:
                if not octets:
                    self._ended += 1
                    self._keeper.closed(side, last=self._ended == 2)
                    sink.shutdown(socket.SHUT_WR)
                    return _Pumped.ENDED
                # On the tape first: an answer must not stand before what it answers.
                self._keeper.heard(side, octets)
                await loop.sock_sendall(sink, octets)
            except OSError:
                return _Pumped.REFUSED if octets else _Pumped.ENDED


async def _unless(event: asyncio.Event, doing: Awaitable[T]) -> T | None:
    """The result, or None if the event comes first: then it is broken off."""
    task, told = asyncio.ensure_future(doing), asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({task, told}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        told.cancel()
        task.cancel()


async def _connect(target: SocketAddress) -> socket.socket:
    """A socket connected to the milter; OSError if there is none."""
    loop = asyncio.get_running_loop()
    if target.kind == "unix":
        return await _connected(socket.AF_UNIX, lambda end: reach(end, target.path))
    found = await loop.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    return await _connected(found[0][0], lambda end: loop.sock_connect(end, found[0][4]))


async def _connected(
    family: int, connecting: Callable[[socket.socket], Awaitable[None]]
) -> socket.socket:
    end = socket.socket(family, socket.SOCK_STREAM)
    try:
        _prepare(end)
        await connecting(end)
    except BaseException:
        end.close()
        raise
    return end


def _prepare(end: socket.socket) -> None:
    end.setblocking(False)
    if end.family != socket.AF_UNIX:
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _end(end: socket.socket, hard: bool) -> None:
    """Close; with `hard` as a program that dies does."""
    if hard and end.family != socket.AF_UNIX:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    end.close()
