"""What is to be delivered next, and when to look again.

The manager sleeps until new mail arrives, a mail is due, or a second has passed in
which another process may have changed the queue; it never spins.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from smtpgw.queue.clock import QueueClock
from smtpgw.queue.store import ANY, Lease, Store, Wish

_STEP = 200


@dataclass(frozen=True, slots=True)
class ManagerOptions:
    """`qmgr_message_active_limit`: mails in delivery at once.  `lease_time`: seconds an
    attempt may take in all; the courier ends it then.  `poll`: seconds between looks for
    changes by other processes."""

    qmgr_message_active_limit: int = 500
    lease_time: float = 3600.0
    poll: float = 1.0


def _anything(_now: float) -> Wish:
    return ANY


class QueueManager:
    """Hands out leases to one courier."""

    def __init__(
        self, store: Store, clock: QueueClock, options: ManagerOptions = ManagerOptions()
    ) -> None:
        self.options = options
        self._store, self._clock = store, clock
        self._news = asyncio.Event()
        self._flushed = False
        self._crowded = False
        self.stopping = False

    def wake(self) -> None:
        """New mail has been queued, or room has come free: look now."""
        self._news.set()

    def freed(self) -> None:
        """A site has room again: look now, if the last look passed a full one by."""
        if self._crowded:
            self._news.set()

    def stop(self) -> None:
        """Hand out nothing more."""
        self.stopping = True
        self._news.set()

    def take_flushed(self) -> bool:
        """Whether another process changed the queue since the last call."""
        flushed, self._flushed = self._flushed, False
        return flushed

    async def next(self, active: int, wish: Callable[[float], Wish] = _anything) -> list[Lease]:
        """Mails that are due, `active` being how many are in delivery now; `wish` says
        what can be used at that time.

        Waits for one; empty when there is no room, or after :meth:`stop`.
        """
        while not self.stopping:
            self._news.clear()
            room = self.options.qmgr_message_active_limit - active
            if room <= 0:
                break
            now = self._clock.now()
            wanted = wish(now)
            self._crowded = any(each <= 0 for each in wanted.room.values())
            leases = await self._store.lease(now, min(room, _STEP), self.options.lease_time, wanted)
            # Asked after the lease: what another process made due before it shows by now.
            changed = await self._store.changed()
            self._flushed |= changed
            if leases:
                return leases
            if not changed:  # or else what was passed by may be wanted now
                await self._wait(now)
        return []

    async def _wait(self, now: float) -> None:
        due = await self._store.next_due(now)
        if self._news.is_set():
            return
        pause = self.options.poll if due is None else min(self.options.poll, max(due - now, 0.0))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._news.wait()
