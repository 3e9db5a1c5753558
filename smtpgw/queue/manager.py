"""What is to be delivered next, and when to look again.

The manager sleeps until new mail arrives, a mail is due, or a second has passed in
which another process may have changed the queue; it never spins.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
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
        self._behind = True
        self._full: frozenset[str] = frozenset()
        self.stopping = False
        self.asking = 0
        """Leases that are being asked for, and may be given."""

    def wake(self) -> None:
        """New mail has been queued, or room has come free: look now."""
        self._news.set()

    def caught_up(self, site: str) -> bool:
        """Whether the last look passed by no mail for that site, and left none for want of room:
        what has been queued since is looked for at once, and has not waited."""
        return not (self._behind or self.stopping or site in self._full)

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

    async def next(
        self, active: Callable[[], int], wish: Callable[[float], Wish] = _anything
    ) -> Sequence[Lease]:
        """Mails that are due, `active` saying how many are in delivery; `wish` says what can be
        used at that time.

        Waits for one; empty when there is no room, or after :meth:`stop`.
        """
        while not self.stopping:
            self._news.clear()
            room = self.options.qmgr_message_active_limit - active()
            if room <= 0:
                break
            now = self._clock.now()
            wanted = wish(now)
            self._crowded = any(each <= 0 for each in wanted.room.values())
            self.asking = most = min(room, _STEP)
            try:
                turn = await self._store.turn(now, most, self.options.lease_time, wanted)
            finally:
                self.asking = 0
            self._behind = len(turn.leases) >= most
            self._full = _used_up(wanted, turn.leases)
            self._flushed |= turn.changed
            if turn.leases:
                return turn.leases
            if not turn.changed:  # or else what was passed by may be wanted now
                await self._wait(now, turn.due)
        return []

    async def _wait(self, now: float, due: float | None) -> None:
        if self._news.is_set():
            return
        pause = self.options.poll if due is None else min(self.options.poll, max(due - now, 0.0))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._news.wait()


def _used_up(wish: Wish, leases: Sequence[Lease]) -> frozenset[str]:
    """The sites that got all that was wished for them: more may wait there."""
    got = Counter(each.mail.site for each in leases if each.mail.site)
    return frozenset(site for site in {*wish.room, *got} if got[site] >= wish.most(site))
