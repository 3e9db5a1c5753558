"""Clients counted in this process, and counts of elsewhere that fail over to them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from structlog.typing import FilteringBoundLogger

from milterd.base import metrics
from smtpgw.rates.counts import Counts, Event, Usage
from smtpgw.rates.limits import Ticket
from smtpgw.rates.peaks import Peaks

Result = TypeVar("Result")

BOUND = 0.5
"""Seconds that a client waits for its being counted elsewhere, at most."""

PAUSE = 5.0
"""Seconds after a failure in which nobody waits for it again."""


class CountersDown(Exception):  # noqa: N818 - the name says what happened
    """Counts of elsewhere cannot be had; why."""


class LocalTicket:
    """A connection counted here."""

    __slots__ = ("_counts", "_ident", "usage")

    def __init__(self, counts: Counts, ident: str) -> None:
        self._counts, self._ident = counts, ident
        self.usage: Usage = counts.connect(ident)

    async def release(self) -> None:
        self._counts.disconnect(self._ident)


class LocalCounters:
    """:class:`~smtpgw.rates.limits.Counters` for one process."""

    def __init__(self, counts: Counts) -> None:
        self.counts = counts

    async def connect(self, ident: str) -> Ticket:
        return LocalTicket(self.counts, ident)

    async def add(self, event: Event, ident: str) -> int:
        return self.counts.add(event, ident)

    async def rate(self, event: Event, ident: str) -> int:
        return self.counts.rate(event, ident)


class Store(Protocol):
    """Counts of elsewhere.  All but `close` raise CountersDown."""

    async def connect(self, ident: str) -> Ticket: ...

    async def add(self, event: Event, ident: str) -> int: ...

    async def rate(self, event: Event, ident: str) -> int: ...

    async def close(self) -> None: ...


class Counters:
    """Counts of elsewhere while they can be had, of this process meanwhile.

    A connection is released where it was counted.  `store` may be exchanged at any time.
    """

    def __init__(
        self,
        local: LocalCounters,
        store: Store | None,
        *,
        peaks: Peaks,
        log: FilteringBoundLogger,
        clock: Callable[[], float],
        bound: float = BOUND,
        pause: float = PAUSE,
    ) -> None:
        self.local, self.store = local, store
        self._peaks, self._log, self._clock = peaks, log, clock
        self._bound, self._pause = bound, pause
        self._again = 0.0
        self._down = False

    async def connect(self, ident: str) -> Ticket:
        store = self._usable()
        found = None if store is None else await self._try(store.connect(ident))
        ticket = found or await self.local.connect(ident)
        self._peaks.note("connection_count", ticket.usage.count, ident)
        self._peaks.note("connection_rate", ticket.usage.rate, ident)
        return ticket

    async def add(self, event: Event, ident: str) -> int:
        store = self._usable()
        found = None if store is None else await self._try(store.add(event, ident))
        rate = found or await self.local.add(event, ident)
        self._peaks.note(f"{event.value}_rate", rate, ident)
        return rate

    async def rate(self, event: Event, ident: str) -> int:
        store = self._usable()
        found = None if store is None else await self._try(store.rate(event, ident))
        return await self.local.rate(event, ident) if found is None else found

    def _usable(self) -> Store | None:
        return None if self._clock() < self._again else self.store

    async def _try(self, work: Awaitable[Result]) -> Result | None:
        """What it comes to within the bound, or None."""
        try:
            async with asyncio.timeout(self._bound):
                found = await work
        except (CountersDown, TimeoutError) as error:
            self._failed(error)
            return None
        if self._down:
            self._down = False
            self._log.info("clients are counted together again")
        return found

    def _failed(self, error: Exception) -> None:
        self._again = self._clock() + self._pause
        metrics.COUNTER_FAILURES.inc()
        if not self._down:
            self._down = True
            reason = str(error) or "no answer in time"
            self._log.warning("clients are counted in each process alone", reason=reason)
