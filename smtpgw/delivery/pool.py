"""Deliveries over LMTP and SMTP with kept connections.

A connection stays open for `idle` seconds after a mail and carries at most `reuse`
seconds of them; a kept one that turns out dead is replaced, and nobody is told.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from smtpgw.delivery.client import ClientOptions, Connection, Stale
from smtpgw.delivery.hop import Hop
from smtpgw.delivery.outcome import Deferred, Destination, Job, Outcome
from smtpgw.delivery.wire import Lost, Wire


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """`lmtp_connection_cache_time_limit`: seconds an idle connection is kept.
    `lmtp_connection_reuse_time_limit`: seconds after which it is not used again.
    `kept`: idle connections kept for one destination."""

    lmtp_connection_cache_time_limit: float = 2.0
    lmtp_connection_reuse_time_limit: float = 300.0
    kept: int = 20
    client: ClientOptions = field(default_factory=ClientOptions)


@dataclass(slots=True, eq=False)
class _Kept:
    connection: Connection
    opened: float
    timer: asyncio.TimerHandle | None = None


_INET = re.compile(r"(?:\[(?P<literal>[^\[\]]+)\]|(?P<name>[^:\[\]]+)):(?P<port>\d{1,5})\Z")


def parse_nexthop(nexthop: str) -> str | tuple[str, int]:
    """A UNIX socket's path, or host and port.  Raises ValueError with the form expected."""
    if nexthop.startswith("unix:"):
        path = nexthop.removeprefix("unix:")
        if not path or len(path.encode()) > 107:
            raise ValueError(f"{nexthop!r}: a socket path has 1 to 107 octets")
        return path
    match = _INET.match(nexthop.removeprefix("inet:"))
    if match is None or not 0 < int(match["port"]) < 65536:
        raise ValueError(f"{nexthop!r}: expected unix:PATH, inet:HOST:PORT or [HOST]:PORT")
    return (match["literal"] or match["name"]).removeprefix("IPv6:"), int(match["port"])


def hop_of(destination: Destination) -> Hop:
    """The host that a nexthop of the direct form names."""
    where, lmtp = parse_nexthop(destination.nexthop), destination.transport == "lmtp"
    if isinstance(where, str):
        return Hop(destination.nexthop, "", where, 0, lmtp)
    return Hop(destination.nexthop.removeprefix("inet:"), where[0], *where, lmtp)


class Pool:
    """A :class:`~smtpgw.delivery.outcome.Deliverer` for `lmtp` and `smtp`."""

    def __init__(self, options: PoolOptions) -> None:
        self._options = options
        self._idle: dict[Hop, list[_Kept]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.opened = 0

    async def deliver(self, destination: Destination, job: Job) -> Sequence[Outcome]:
        """To the one host that the nexthop names."""
        try:
            return await self.deliver_to(hop_of(destination), job)
        except Lost as error:
            return [
                Deferred(each.number, error.text, "", error.enhanced, unreachable=True)
                for each in job.targets
            ]

    async def deliver_to(self, hop: Hop, job: Job) -> Sequence[Outcome]:
        """An outcome for each target from this very host.

        Raises :class:`Lost` if it could not be asked at all: not reached, no TLS where there
        has to be, refused at its greeting.  With `next_host` the next one may be tried.
        """
        while True:
            kept = self._take(hop) or await self._open(hop)
            try:
                outcomes = await kept.connection.deliver(job)
            except Stale:
                kept.connection.drop()
                continue
            except BaseException:
                kept.connection.drop()
                raise
            self._give_back(hop, kept)
            return outcomes

    async def _open(self, hop: Hop) -> _Kept:
        try:
            return await self._greeted(hop)
        except Lost as error:
            raise Lost(error.text, error.enhanced, next_host=True) from error

    async def _greeted(self, hop: Hop) -> _Kept:
        options, loop = self._options.client, asyncio.get_running_loop()
        try:
            async with asyncio.timeout(options.lmtp_connect_timeout):
                if hop.local:
                    _, wire = await loop.create_unix_connection(Wire, hop.address)
                else:
                    _, wire = await loop.create_connection(Wire, hop.address, hop.port)
        except TimeoutError:
            raise Lost(f"connect to {hop}: timed out", "4.4.1") from None
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise Lost(f"connect to {hop}: {reason}", "4.4.1") from None
        connection = Connection(wire, options, lmtp=hop.lmtp, remote=hop.host)
        self.opened += 1
        try:
            await connection.greet()
        except BaseException:
            connection.drop()
            raise
        return _Kept(connection, loop.time())

    def _take(self, hop: Hop) -> _Kept | None:
        """The connection that was used last, if one is fit."""
        idle = self._idle.get(hop, [])
        while idle:
            kept = idle.pop()
            if kept.timer is not None:
                kept.timer.cancel()
            if kept.connection.usable:
                return kept
            kept.connection.drop()
        return None

    def _give_back(self, hop: Hop, kept: _Kept) -> None:
        loop, options = asyncio.get_running_loop(), self._options
        idle = self._idle.setdefault(hop, [])
        young = loop.time() - kept.opened < options.lmtp_connection_reuse_time_limit
        if not (kept.connection.usable and young and len(idle) < options.kept):
            self._quit(kept)
            return
        idle.append(kept)
        kept.timer = loop.call_later(
            options.lmtp_connection_cache_time_limit,
            functools.partial(self._expire, hop, kept),
        )

    def _expire(self, hop: Hop, kept: _Kept) -> None:
        idle = self._idle.get(hop, [])
        if kept in idle:
            idle.remove(kept)
            self._quit(kept)
        if not idle:
            self._idle.pop(hop, None)

    def _quit(self, kept: _Kept) -> None:
        task = asyncio.ensure_future(kept.connection.quit())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close every idle connection."""
        for idle in self._idle.values():
            for kept in idle:
                if kept.timer is not None:
                    kept.timer.cancel()
                self._quit(kept)
        self._idle.clear()
        await asyncio.gather(*self._closing)
