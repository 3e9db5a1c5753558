"""From a mail's commit straight to its delivery, while there is room and nobody older waits.

See :mod:`smtpgw.queue.taking`.  A destination gets no more than :mod:`smtpgw.shares` would lease
for it, and all together half of what may be active and `octets` of bodies, so that what the queue
has waiting finds room too.  Whatever is over that, or behind other mail, is leased in its turn.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from smtpgw.queue.clock import QueueClock
from smtpgw.queue.manager import QueueManager
from smtpgw.queue.store import Content, Lease
from smtpgw.queue.taking import Made
from smtpgw.shares import Shares

AT_ONCE = 4
"""Attempts that begin in one turn of the loop, so that answers to clients need not wait for all."""
OCTETS = 8 * 1024 * 1024
"""Octets of bodies that are held in memory for this."""


class Direct:
    """A :class:`~smtpgw.queue.taking.Taker` for one courier.  `active` says how many mails are in
    delivery, those promised here among them; `begin` starts an attempt."""

    def __init__(
        self,
        manager: QueueManager,
        shares: Shares,
        clock: QueueClock,
        *,
        active: Callable[[], int],
        begin: Callable[[Lease, Content], None],
        octets: int = OCTETS,
    ) -> None:
        self._manager, self._shares, self._clock = manager, shares, clock
        self._active, self._begin = active, begin
        self._limit = manager.options.qmgr_message_active_limit
        self._given: deque[Made] = deque()
        self.promised = 0
        """Mails that are being queued with a lease for here, or have one and have not begun."""
        self._octets, self._used = octets, 0
        self._none = asyncio.Event()
        self._none.set()

    def take(self, site: str, size: int) -> float | None:
        active = self._active()
        if active >= self._limit // 2 or self._manager.asking + active >= self._limit:
            return None
        if not self._manager.caught_up(site):
            return None
        now = self._clock.now()
        if self._used + size > self._octets or not self._shares.admits(site, now):
            return None
        self._shares.begin(site)
        self.promised += 1
        self._used += size
        self._none.clear()
        return now + self._manager.options.lease_time

    def miss(self, site: str, size: int) -> None:
        self._shares.end(site)
        self.forget(size)
        self._kept()

    def forget(self, size: int) -> None:
        """So many octets are not in memory any more."""
        self._used -= size

    def give(self, made: Made) -> None:
        if not self._given:
            # In the next turn: the answers to the clients are on the wire then.
            asyncio.get_running_loop().call_soon(self._start)
        self._given.append(made)

    def _start(self) -> None:
        """Begin some, and the rest in the next turns."""
        for _ in range(min(AT_ONCE, len(self._given))):
            made = self._given.popleft()
            self._begin(*made())  # from here on it counts as active
            self._kept()
        if self._given:
            asyncio.get_running_loop().call_soon(self._start)

    def _kept(self) -> None:
        self.promised -= 1
        if not self.promised:
            self._none.set()

    async def at_rest(self) -> None:
        """Wait until every promise is kept; the manager makes no new ones once it is stopped."""
        await self._none.wait()
