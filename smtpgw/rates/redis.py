"""Counts of several machines in one Redis or Valkey server.

Rates are the fixed windows of the library `limits`, one for each client and event.  A connection
is a member of its client's sorted set, whose score is when it is no longer believed; who has it
renews that from time to time, so that a machine that is gone leaves nothing behind, and a server
that was emptied has all of them again.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from limits.aio.storage import RedisStorage
from redis.asyncio import BlockingConnectionPool
from redis.exceptions import RedisError

from milterd.base import metrics
from smtpgw.rates.counts import Event, Usage
from smtpgw.rates.limits import Ticket
from smtpgw.rates.local import BOUND, CountersDown

Result = TypeVar("Result")

LEASE = 60
"""Seconds that a connection is believed without being renewed."""

_CONNECTIONS = 8
_AT_ONCE = 500
"""Connections of clients that are renewed in one question."""

_PREFIX = "gatepost"

_CONNECT = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[2])
return redis.call('ZCARD', KEYS[1])
"""


class RedisTicket:
    """A connection that is counted there."""

    __slots__ = ("_ident", "_member", "_store", "usage")

    def __init__(self, store: RedisCounts, ident: str, member: str, usage: Usage) -> None:
        self._store, self._ident, self._member, self.usage = store, ident, member, usage

    async def release(self) -> None:
        await self._store.disconnect(self._ident, self._member)


class RedisCounts:
    """:class:`~smtpgw.rates.local.Store` in the server at `url`, in the running loop.

    `name` is this process's own among all that count there; `unit` the seconds of a window.
    """

    def __init__(self, url: str, name: str, unit: float, *, lease: int = LEASE) -> None:
        url = url.replace("valkey", "redis", 1)
        pool = BlockingConnectionPool.from_url(
            url.replace("redis+unix", "unix", 1),
            max_connections=_CONNECTIONS,
            timeout=BOUND,
            socket_timeout=BOUND,
            socket_connect_timeout=BOUND,
        )
        options: dict[str, Any] = {"connection_pool": pool}
        self._rates = RedisStorage(
            f"async+{url}", implementation="redispy", key_prefix=_PREFIX, **options
        )
        self._server: Any = self._rates.bridge.storage  # type: ignore[attr-defined] # redispy's
        self._connect = self._server.register_script(_CONNECT)
        self._name, self._unit, self._lease = name, math.ceil(unit), lease
        self._numbers = itertools.count()
        self._here: dict[str, str] = {}
        self._renewing = asyncio.ensure_future(self._renew())

    async def connect(self, ident: str) -> Ticket:
        member = f"{self._name}:{next(self._numbers)}"
        count = await self._ask(
            lambda: self._connect(keys=[_key(ident)], args=[member, self._lease])
        )
        rate = await self.add(Event.CONNECTION, ident)
        self._here[member] = ident
        return RedisTicket(self, ident, member, Usage(int(count), rate))

    async def add(self, event: Event, ident: str) -> int:
        key = f"{event.value}:{ident}"
        return await self._ask(lambda: self._rates.incr(key, self._unit))

    async def rate(self, event: Event, ident: str) -> int:
        return await self._ask(lambda: self._rates.get(f"{event.value}:{ident}"))

    async def disconnect(self, ident: str, member: str) -> None:
        """It is over; where that cannot be told, its time runs out."""
        self._here.pop(member, None)
        try:
            async with asyncio.timeout(BOUND):
                await self._ask(lambda: self._server.zrem(_key(ident), member))
        except (CountersDown, TimeoutError):
            metrics.COUNTER_FAILURES.inc()

    async def close(self) -> None:
        self._renewing.cancel()
        await asyncio.wait({self._renewing})
        with contextlib.suppress(RedisError, OSError):  # it is being left in any case
            await self._server.aclose()
            await self._server.connection_pool.disconnect()

    async def _ask(self, question: Callable[[], Awaitable[Result]]) -> Result:
        try:
            return await question()
        except (RedisError, OSError) as error:
            raise CountersDown(f"{type(error).__name__}: {error}") from error

    async def _renew(self) -> None:
        """Keep what is here believed, until cancelled."""
        while True:
            await asyncio.sleep(self._lease / 3)
            here = list(self._here.items())
            try:
                for at in range(0, len(here), _AT_ONCE):
                    await self._ask(lambda part=here[at : at + _AT_ONCE]: self._believe(part))  # type: ignore[misc] # mypy has no type for the default
            except CountersDown:
                metrics.COUNTER_FAILURES.inc()

    async def _believe(self, part: Sequence[tuple[str, str]]) -> None:
        now, _ = await self._server.time()
        async with self._server.pipeline(transaction=False) as pipe:
            for member, ident in part:
                if member in self._here:
                    pipe.zadd(_key(ident), {member: now + self._lease})
                    pipe.expire(_key(ident), self._lease)
            await pipe.execute()
        for member, ident in part:
            if member not in self._here:  # it went while it was renewed
                await self._server.zrem(_key(ident), member)


def _key(ident: str) -> str:
    return f"{_PREFIX}:connected:{ident}"
