"""Connections to the servers of one table: bounded, kept for a while, with fail-over.

A question takes a kept connection, those over UNIX sockets first; else it opens one to a
server at random, UNIX sockets first.  A server that cannot be reached, or that hangs, is
left alone for a time that doubles from one second up to `retry`; meanwhile the others are
asked.  A kept connection that turns out dead is replaced at once.  Everything together
ends within `limit` seconds, and what is in doubt (cut off in mid-answer, cancelled) is
closed, never used again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from smtpgw.tables.context import Context
from smtpgw.tables.table import Unavailable


class Lost(Exception):  # noqa: N818 - the connection is
    """The connection failed: not made, cut off, or not understood.  Another one may do."""


class Refused(Exception):  # noqa: N818 - the question is
    """The server answered that it cannot answer this.  The connection is as good as before."""


class Connection(Protocol):
    """What a driver's connection has to be able to do."""

    def drop(self) -> None:
        """Close it at once, without a word."""

    async def close(self) -> None:
        """Take leave and close it."""


C = TypeVar("C", bound=Connection)
T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Server:
    """One server: `unix` tells the path of a socket from a host."""

    name: str
    host: str
    port: int = 0
    unix: bool = False
    down_until: float = 0.0
    pause: float = 0.0
    answered: float = 0.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: `connect` for a connection, `query` for a question with all its attempts,
    `idle` until an unused connection is closed, `retry` at most between attempts at a server
    that is down.  `size`: connections at most.  `in_order`: servers are not taken at random."""

    connect: float = 5.0
    query: float = 10.0
    idle: float = 60.0
    retry: float = 60.0
    size: int = 4
    in_order: bool = False


@dataclass(eq=False, slots=True)
class _Kept(Generic[C]):
    server: Server
    connection: C
    timer: asyncio.TimerHandle | None = field(default=None)


class Servers(Generic[C]):
    """The servers of the table `name`, and the connections to them."""

    def __init__(
        self,
        name: str,
        servers: Sequence[Server],
        connect: Callable[[Server], Awaitable[C]],
        limits: Limits,
        context: Context,
    ) -> None:
        self._name, self._servers, self._connect = name, tuple(servers), connect
        self._limits, self._clock, self._random = limits, context.clock, context.random
        self._idle: list[_Kept[C]] = []
        self._free = asyncio.Semaphore(limits.size)
        self._closing: set[asyncio.Task[None]] = set()
        self._closed = False

    async def ask(self, question: Callable[[C], Awaitable[T]]) -> T:
        """What the first server that can says.  Raises Unavailable."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.query
        try:
            async with asyncio.timeout_at(deadline), self._free:
                return await self._ask(question, deadline)
        except TimeoutError:
            reason = f"no answer within {self._limits.query:g} s"
            raise Unavailable(self._name, reason) from None

    async def _ask(self, question: Callable[[C], Awaitable[T]], deadline: float) -> T:
        tried: list[Server] = []
        reasons: list[str] = []
        while (kept := self._take(tried)) is not None:
            try:
                return await self._use(kept, question, deadline)
            except Lost as error:  # it had been idle: a new one may do
                reasons.append(f"{kept.server.name}: {error}")
            except Refused as error:
                tried.append(kept.server)
                reasons.append(f"{kept.server.name}: {error}")
        while (server := self._choose(tried)) is not None:
            tried.append(server)
            try:
                kept = await self._open(server, deadline)
                return await self._use(kept, question, deadline)
            except (Lost, Refused) as error:
                reasons.append(f"{server.name}: {error}")
        raise Unavailable(self._name, "; ".join(reasons) or self._resting())

    def _resting(self) -> str:
        names = ", ".join(each.name for each in self._servers)
        return f"{names}: failed a moment ago, asked again later"

    def _choose(self, tried: Sequence[Server]) -> Server | None:
        """A server that has not been tried and is not left alone."""
        now = self._clock()
        fit = [each for each in self._servers if each not in tried and each.down_until <= now]
        if not fit or self._limits.in_order:
            return fit[0] if fit else None
        return self._random.choice([each for each in fit if each.unix] or fit)

    def _down(self, server: Server) -> None:
        """Leave it alone for a while, and its other connections too."""
        server.pause = min(max(1.0, server.pause * 2), self._limits.retry)
        server.down_until = self._clock() + server.pause
        for kept in [each for each in self._idle if each.server is server]:
            self._forget(kept)
            kept.connection.drop()

    def _share(self, deadline: float) -> float:
        """Seconds for one server: some are left for another one, or to say that it failed."""
        left = deadline - asyncio.get_running_loop().time()
        return left * (0.95 if len(self._servers) == 1 else 0.5)

    async def _open(self, server: Server, deadline: float) -> _Kept[C]:
        limit = min(self._limits.connect, self._share(deadline))
        patience = asyncio.timeout(limit)
        try:
            async with patience:
                connection = await self._connect(server)
        except TimeoutError:
            self._down(server)
            raise Lost(f"no connection within {limit:.3g} s") from None
        except Lost:
            self._down(server)
            raise
        except asyncio.CancelledError:
            if patience.expired():  # and so has the time for everything
                self._down(server)
            raise
        return _Kept(server, connection)

    async def _use(
        self, kept: _Kept[C], question: Callable[[C], Awaitable[T]], deadline: float
    ) -> T:
        limit, begun = self._share(deadline), self._clock()
        patience = asyncio.timeout(limit)
        try:
            async with patience:
                answer = await question(kept.connection)
        except Refused:
            self._give_back(kept)
            raise
        except TimeoutError:
            self._silent(kept, begun)
            raise Lost(f"no answer within {limit:.3g} s") from None
        except BaseException:
            if patience.expired():  # and so has the time for everything
                self._silent(kept, begun)
            else:
                kept.connection.drop()
            raise
        self._give_back(kept)
        return answer

    def _silent(self, kept: _Kept[C], begun: float) -> None:
        kept.connection.drop()
        if kept.server.answered <= begun:  # else it is the question that is slow
            self._down(kept.server)

    # Kept connections

    def _take(self, tried: Sequence[Server]) -> _Kept[C] | None:
        """The connection used last, one over a UNIX socket if there is any."""
        fit = [each for each in self._idle if each.server not in tried]
        if not fit:
            return None
        kept = next((each for each in reversed(fit) if each.server.unix), fit[-1])
        self._forget(kept)
        return kept

    def _forget(self, kept: _Kept[C]) -> None:
        self._idle.remove(kept)
        if kept.timer is not None:
            kept.timer.cancel()

    def _give_back(self, kept: _Kept[C]) -> None:
        kept.server.pause = kept.server.down_until = 0.0
        kept.server.answered = self._clock()
        if self._closed:
            self._leave(kept)
            return
        loop = asyncio.get_running_loop()
        kept.timer = loop.call_later(self._limits.idle, self._expire, kept)
        self._idle.append(kept)

    def _expire(self, kept: _Kept[C]) -> None:
        self._forget(kept)
        self._leave(kept)

    def _leave(self, kept: _Kept[C]) -> None:
        task = asyncio.ensure_future(self._take_leave(kept.connection))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _take_leave(self, connection: C) -> None:
        try:
            async with asyncio.timeout(self._limits.connect):
                await connection.close()
        except (Lost, TimeoutError):
            connection.drop()

    async def close(self) -> None:
        """Close every connection that is kept; one in use when it is given back."""
        self._closed = True
        for kept in list(self._idle):
            self._expire(kept)
        await asyncio.gather(*self._closing)
