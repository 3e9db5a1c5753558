"""How much of something a key may have in a time: throttles.

The count is that of a window that slides: what the last one had counts for the share of it that
still lies within.  What is over the limit does not count, so that who keeps trying gets in again
as soon as his time has come.
"""

from __future__ import annotations

import sqlite3
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from smtpgw.stores.shared import Shared, SharedOptions

Key = Literal[
    "client", "client_net", "sender", "sender_domain", "recipient", "recipient_domain", "sasl_user"
]
Unit = Literal["messages", "recipients", "octets"]
Action = Literal["defer", "reject", "hold", "warn"]

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS counts (throttle TEXT, key TEXT, began REAL, used REAL, "
    "before REAL, PRIMARY KEY (throttle, key)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS counts_began ON counts (began)",
)
_TRANSACTIONS = 10_000
"""Mails of which is remembered that they were counted."""


@dataclass(frozen=True, slots=True)
class ThrottleOptions:
    """`limit` of `unit` in `per` seconds for each `key`; `action` and `text` are what is done
    above that."""

    name: str
    key: Key
    limit: float
    per: float = 3600.0
    unit: Unit = "messages"
    action: Action = "defer"
    text: str = ""


@dataclass(frozen=True, slots=True)
class Count:
    """Of one key: when its window began, what was used in it and in the one before."""

    began: float
    used: float
    before: float = 0.0


@dataclass(frozen=True, slots=True)
class Throttled:
    """`over`: above the limit.  `used` is what the key has had, this included if it may."""

    over: bool
    key: str
    used: float


def step(count: Count | None, now: float, per: float) -> Count:
    """The count as it is now, brought into the window that `now` is in."""
    if count is None or now < count.began or now >= count.began + 2 * per:
        return Count(now, 0.0)
    if now >= count.began + per:
        return Count(count.began + per, 0.0, count.used)
    return count


def used(count: Count, now: float, per: float) -> float:
    """What lies within the last `per` seconds, taking what was before as spread evenly."""
    return count.used + count.before * max(1.0 - (now - count.began) / per, 0.0)


class Counters(Protocol):
    """Where counts are kept.  Raises StoreDown."""

    async def take(self, options: ThrottleOptions, key: str, amount: float) -> Throttled:
        """Add to a key's count, if that stays within the limit."""
        ...

    async def close(self) -> None:
        """Let go of what is held."""
        ...


class SharedCounters:
    """In a file that all workers share; `clock` gives seconds since 1970."""

    def __init__(
        self,
        path: str,
        clock: Callable[[], float],
        patience: float = 5.0,
        entries: int = 1_000_000,
    ) -> None:
        self._shared = Shared(SharedOptions(path, SCHEMA, patience))
        self._clock, self._entries = clock, entries
        self._taken = 0

    async def take(self, options: ThrottleOptions, key: str, amount: float) -> Throttled:
        return await self._shared.write(lambda db: self._take(db, options, key, amount))

    def _take(
        self, db: sqlite3.Connection, options: ThrottleOptions, key: str, amount: float
    ) -> Throttled:
        row = db.execute(
            "SELECT began, used, before FROM counts WHERE throttle = ? AND key = ?",
            (options.name, key),
        ).fetchone()
        now = self._clock()
        count = step(None if row is None else Count(*row), now, options.per)
        had = used(count, now, options.per)
        if had + amount > options.limit:
            return Throttled(True, key, had)
        db.execute(
            "REPLACE INTO counts VALUES (?, ?, ?, ?, ?)",
            (options.name, key, count.began, count.used + amount, count.before),
        )
        self._clean(db)
        return Throttled(False, key, had + amount)

    def _clean(self, db: sqlite3.Connection) -> None:
        """Every now and then: the oldest, where there are too many."""
        self._taken += 1
        if self._taken < max(self._entries // 100, 10):
            return
        self._taken = 0
        (count,) = db.execute("SELECT count(*) FROM counts").fetchone()
        if count > self._entries:
            db.execute(
                "DELETE FROM counts WHERE (throttle, key) IN "
                "(SELECT throttle, key FROM counts ORDER BY began LIMIT ?)",
                (count - self._entries,),
            )

    async def close(self) -> None:
        await self._shared.close()


@dataclass(frozen=True, slots=True)
class Asked:
    """What a throttle counts a mail by; `transaction` is another for each mail."""

    keys: dict[str, str]
    transaction: str = ""
    size: int = 0


class Throttles:
    """All of a worker's."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._counted: OrderedDict[tuple[str, str, str], Throttled] = OrderedDict()

    async def check(self, options: ThrottleOptions, asked: Asked) -> Throttled:
        """Count it, a mail once however many recipients ask.  What has no such key is never over.
        Raises StoreDown."""
        key = asked.keys.get(options.key, "")
        if not key:
            return Throttled(False, "", 0.0)
        if options.unit == "recipients":
            return await self._counters.take(options, key, 1.0)
        memory = options.name, key, asked.transaction
        if asked.transaction and memory in self._counted:
            return self._counted[memory]
        amount = float(asked.size) if options.unit == "octets" else 1.0
        found = await self._counters.take(options, key, amount)
        if asked.transaction:
            self._counted[memory] = found
            while len(self._counted) > _TRANSACTIONS:
                self._counted.popitem(last=False)
        return found

    async def close(self) -> None:
        """Let go of the counts."""
        await self._counters.close()
