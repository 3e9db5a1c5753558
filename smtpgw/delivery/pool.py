"""Deliveries over LMTP and SMTP with kept connections.

A connection stays open for a moment after a mail, for the next one that goes the same way
(:class:`~smtpgw.delivery.connect.Way`), up to an age and a number of mails; a kept one that
turns out dead is replaced, and nobody is told.
"""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from smtpgw.delivery.client import Connection
from smtpgw.delivery.connect import Connector, Way
from smtpgw.delivery.dialogue import Stale
from smtpgw.delivery.hop import Hop
from smtpgw.delivery.options import PoolOptions
from smtpgw.delivery.outcome import Deferred, Destination, Job, Outcome
from smtpgw.delivery.wire import Lost


@dataclass(slots=True, eq=False)
class _Kept:
    connection: Connection
    opened: float
    timer: asyncio.TimerHandle | None = None


_INET = re.compile(
    r"(?:\[(?P<literal>[^\[\]\s]+)\]|(?P<name>[^:\[\]\s]+))(?::(?P<port>lmtp|[0-9]{1,5}))?"
)
SOCKETS = Path("/var/spool/postfix")
"""Where a socket is whose path is relative: below Postfix's queue_directory, in which the
settings of Dovecot and others have put it, `private/dovecot-lmtp`, whoever delivers."""
LMTP_PORT = 24


def parse_nexthop(nexthop: str) -> str | tuple[str, int]:
    """A UNIX socket's path, or host and port, as lmtp(8) reads them: `unix:PATH`, or `HOST`,
    `[HOST]`, with `inet:` before and `:PORT` behind or without.  Raises ValueError with the
    form expected."""
    if nexthop.startswith("unix:"):
        path = str(SOCKETS / nexthop.removeprefix("unix:"))
        if nexthop == "unix:" or len(path.encode("utf-8", "surrogateescape")) > 107:
            raise ValueError(f"{nexthop!r}: a socket path has 1 to 107 octets")
        return path
    match = _INET.fullmatch(nexthop.removeprefix("inet:"))
    port = match["port"] if match else None
    number = int(port) if port and port.isdigit() else LMTP_PORT
    if match is None or not 0 < number < 65536:
        raise ValueError(f"{nexthop!r}: expected unix:PATH, inet:HOST:PORT, HOST or [HOST]:PORT")
    return (match["literal"] or match["name"]).removeprefix("IPv6:"), number


@functools.lru_cache(1000)
def hop_of(destination: Destination) -> Hop:
    """The host that a nexthop of the direct form names."""
    where, lmtp = parse_nexthop(destination.nexthop), destination.transport == "lmtp"
    if isinstance(where, str):
        return Hop(destination.nexthop, "", where, 0, lmtp)
    return Hop(destination.nexthop.removeprefix("inet:"), where[0], *where, lmtp)


class Pool:
    """A :class:`~smtpgw.delivery.outcome.Deliverer` for `lmtp`, and for any hop chosen.

    Raises ValueError for options that cannot be understood.
    """

    def __init__(self, options: PoolOptions) -> None:
        self._options, self._connector = options, Connector(options)
        self._idle: dict[Way, list[_Kept]] = {}
        self._resting = 0
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
        way = self._connector.way(hop)
        while True:
            kept = self._take(way) or await self._open(way, job)
            try:
                outcomes = await kept.connection.deliver(job)
            except Stale:
                kept.connection.drop()
                continue
            except BaseException:
                kept.connection.drop()
                raise
            self._give_back(way, kept)
            return outcomes

    async def _open(self, way: Way, job: Job) -> _Kept:
        connection = await self._connector.open(way, again=job.attempt > 1)
        self.opened += 1
        return _Kept(connection, asyncio.get_running_loop().time())

    def _take(self, way: Way) -> _Kept | None:
        """The connection that was used last, if one is fit."""
        idle = self._idle.get(way, [])
        while idle:
            kept = idle.pop()
            self._woken(kept)
            if kept.connection.usable:
                return kept
            kept.connection.drop()
        return None

    def _woken(self, kept: _Kept) -> None:
        self._resting -= 1
        if kept.timer is not None:
            kept.timer.cancel()

    def _give_back(self, way: Way, kept: _Kept) -> None:
        idle = self._idle.setdefault(way, [])
        if not self._fit(way, kept) or len(idle) >= self._options.kept:
            self._quit(kept)
            return
        idle.append(kept)
        self._resting += 1
        keep = self._options.limits(lmtp=way.lmtp).cache_time
        expire = functools.partial(self._expire, way, kept)
        kept.timer = asyncio.get_running_loop().call_later(keep, expire)

    def _fit(self, way: Way, kept: _Kept) -> bool:
        """Whether it may carry another mail."""
        limits = self._options.limits(lmtp=way.lmtp)
        age = asyncio.get_running_loop().time() - kept.opened
        fresh = age < limits.reuse_time and limits.cache_time > 0
        spare = not limits.reuse_count or kept.connection.carried < limits.reuse_count
        return kept.connection.usable and fresh and spare and self._resting < self._options.idle

    def _expire(self, way: Way, kept: _Kept) -> None:
        idle = self._idle.get(way, [])
        if kept in idle:
            idle.remove(kept)
            self._woken(kept)
            self._quit(kept)
        if not idle:
            self._idle.pop(way, None)

    def _quit(self, kept: _Kept) -> None:
        task = asyncio.ensure_future(kept.connection.quit())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close every idle connection."""
        for idle in self._idle.values():
            for kept in idle:
                self._woken(kept)
                self._quit(kept)
        self._idle.clear()
        await asyncio.gather(*self._closing)
