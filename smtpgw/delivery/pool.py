"""Deliveries over LMTP and SMTP with kept connections.

A connection stays open for a moment after a mail, for the next one that goes the same way
(:class:`~smtpgw.delivery.connect.Way`), up to an age and a number of mails; a kept one that
turns out dead is replaced, and nobody is told.
"""

from __future__ import annotations

import asyncio
import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from smtpgw.delivery.client import Connection
from smtpgw.delivery.connect import Connector, Way
from smtpgw.delivery.dialogue import Stale
from smtpgw.delivery.hop import Hop
from smtpgw.delivery.options import PoolOptions, Reuse
from smtpgw.delivery.outcome import Deferred, Destination, Job, Outcome
from smtpgw.delivery.swift import Done, Swift
from smtpgw.delivery.wire import Lost


@dataclass(slots=True, eq=False)
class _Kept:
    """`until`: while it is idle, when it is let go."""

    connection: Connection
    opened: float
    until: float = 0.0


@dataclass(slots=True, eq=False)
class _Lane:
    """The connections of a way that are idle, the one that was used last at the end; `live` while
    the pool has it: it has another one for this way, or none, before a connection is given back and
    once none is left."""

    way: Way
    limits: Reuse
    idle: list[_Kept] = field(default_factory=list)
    live: bool = False


_INET = re.compile(
    r"(?:\[(?P<literal>[^\[\]\s]+)\]|(?P<name>[^:\[\]\s]+))(?::(?P<port>lmtp|[0-9]{1,5}))?"
)
SOCKETS = Path("/var/spool/postfix")
"""Where a socket is whose path is relative: below Postfix's queue_directory, in which the
settings of Dovecot and others have put it, `private/dovecot-lmtp`, whoever delivers."""
LMTP_PORT = 24
_WAYS = 1000
"""Destinations of which the way is remembered."""


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
        self._lanes: dict[Way, _Lane] = {}
        self._known: dict[tuple[str, str], _Lane] = {}
        self._resting = 0
        self._sweeping: asyncio.TimerHandle | None = None
        self._sweep_at = math.inf
        self._closing: set[asyncio.Task[None]] = set()
        self._reuse = options.limits(lmtp=False), options.limits(lmtp=True)
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

    def begin(self, destination: Destination, job: Job, until: float, done: Done) -> Swift | None:
        """Deliver over a kept connection without a task, if there is one and the mail is small and
        plain; `done` is called later."""
        key = destination.transport, destination.nexthop
        lane = self._known.get(key)
        if lane is None or not lane.live:
            lane = self._find(destination)
            if lane is None:
                return None
        kept = self._take(lane)
        if kept is None:
            return None
        ended = functools.partial(self._ended, lane, kept, done)
        try:
            swift = kept.connection.begin(job, until, ended)
        except BaseException:
            kept.connection.drop()
            raise
        if swift is None:
            lane.idle.append(kept)
            self._resting += 1
        return swift

    def _find(self, destination: Destination) -> _Lane | None:
        """Where the connections to a destination wait; None where it cannot be said."""
        try:
            lane = self._lane(self._connector.way(hop_of(destination)))
        except Lost:
            return None
        if self._connector.constant:
            if len(self._known) >= _WAYS:
                self._known.clear()
            self._known[destination.transport, destination.nexthop] = lane
        return lane

    def _lane(self, way: Way) -> _Lane:
        return self._lanes.get(way) or _Lane(way, self._reuse[way.lmtp])

    def _ended(
        self, lane: _Lane, kept: _Kept, done: Done, result: Sequence[Outcome] | BaseException
    ) -> None:
        if not isinstance(result, BaseException):
            self._give_back(lane, kept)
        done(result)

    async def deliver_to(self, hop: Hop, job: Job) -> Sequence[Outcome]:
        """An outcome for each target from this very host.

        Raises :class:`Lost` if it could not be asked at all: not reached, no TLS where there
        has to be, refused at its greeting.  With `next_host` the next one may be tried.
        """
        lane = self._lane(self._connector.way(hop))
        kept = self._take(lane)
        if kept is not None:
            try:
                return await self._deliver(lane, kept, job)
            except Stale:
                pass  # where one is, others may be: the next is a new one
        return await self._deliver(lane, await self._open(lane.way, job), job)

    async def _deliver(self, lane: _Lane, kept: _Kept, job: Job) -> Sequence[Outcome]:
        try:
            outcomes = await kept.connection.deliver(job)
        except BaseException:
            kept.connection.drop()
            raise
        self._give_back(lane, kept)
        return outcomes

    async def _open(self, way: Way, job: Job) -> _Kept:
        connection = await self._connector.open(way, again=job.attempt > 1)
        self.opened += 1
        return _Kept(connection, asyncio.get_running_loop().time())

    def _take(self, lane: _Lane) -> _Kept | None:
        """The connection that was used last, if one is fit."""
        idle = lane.idle
        while idle:
            kept = idle.pop()
            self._resting -= 1
            if kept.connection.usable:
                return kept
            kept.connection.drop()
        return None

    def _give_back(self, lane: _Lane, kept: _Kept) -> None:
        if not lane.live:
            lane = self._lanes.get(lane.way, lane)
        loop, limits, idle = asyncio.get_running_loop(), lane.limits, lane.idle
        now = loop.time()
        if len(idle) >= self._options.kept or not self._fit(limits, kept, now):
            self._quit(kept)
            return
        if not lane.live:  # with something to keep: who keeps nothing has no lanes to be swept
            self._lanes[lane.way], lane.live = lane, True
        idle.append(kept)
        self._resting += 1
        kept.until = until = now + limits.cache_time
        if until < self._sweep_at:
            self._sweep_then(loop, until)

    def _sweep_then(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
        self._sweep_at = at
        self._sweeping = loop.call_at(at, self._sweep) if at < math.inf else None

    def _sweep(self) -> None:
        """Let go of those that were idle too long, and look again when the next will be."""
        loop = asyncio.get_running_loop()
        now, following = loop.time(), math.inf
        for lane in list(self._lanes.values()):
            over = [each for each in lane.idle if each.until <= now]
            for kept in over:
                lane.idle.remove(kept)
                self._resting -= 1
                self._quit(kept)
            if lane.idle:
                following = min(following, *(each.until for each in lane.idle))
            else:
                lane.live = False
                del self._lanes[lane.way]
        self._sweep_then(loop, following)

    def _fit(self, limits: Reuse, kept: _Kept, now: float) -> bool:
        """Whether it may carry another mail."""
        connection = kept.connection
        return (
            connection.usable
            and limits.cache_time > 0
            and now - kept.opened < limits.reuse_time
            and (not limits.reuse_count or connection.carried < limits.reuse_count)
            and self._resting < self._options.idle
        )

    def _quit(self, kept: _Kept) -> None:
        task = asyncio.ensure_future(kept.connection.quit())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close every idle connection."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for lane in self._lanes.values():
            lane.live = False
            for kept in lane.idle:
                self._quit(kept)
            lane.idle.clear()  # a delivery under way may give its connection back to it
        self._resting = 0
        self._lanes.clear()
        await asyncio.gather(*self._closing)
