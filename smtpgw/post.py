"""One shard of the queue at work: its store, its door, its courier.

A worker runs its own shard, through which its mail comes in, and those of others that
it has taken over (:mod:`smtpgw.takeover`); from these mail only goes out.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from milterd.base import logs, metrics
from smtpgw import outbound, peers, releasing, wiring
from smtpgw.addresses import Addresses
from smtpgw.chain.health import Health
from smtpgw.config import Smtpgw
from smtpgw.courier import Courier
from smtpgw.delivery.fixed import Fixed
from smtpgw.delivery.maildir import MaildirDelivery
from smtpgw.delivery.outcome import Deliverer, Destination
from smtpgw.delivery.pool import Pool
from smtpgw.dns.resolver import DnsOptions, DnsResolver
from smtpgw.filters import Filters
from smtpgw.generic import GenericDelivery
from smtpgw.intake import Intake
from smtpgw.quarantine.keeper import Keeper, KeeperOptions
from smtpgw.queue import handover, salvage
from smtpgw.queue.clock import Clock, QueueClock
from smtpgw.queue.manager import QueueManager
from smtpgw.queue.schedule import Schedule
from smtpgw.queue.sqlite import SqliteStore
from smtpgw.queue.states import MailState
from smtpgw.queue.store import StoreBroken, StoreLocked
from smtpgw.queue.tools import shard_directory
from smtpgw.readdress import AddressRules
from smtpgw.reports import Reporter

_LOOK_AGAIN = 0.1
"""Seconds between looks whether another process has let go of the shard."""


class Post:
    """A shard, opened and recovered.  Use :meth:`open`, then :meth:`deliver`."""

    def __init__(self, shard: int, store: SqliteStore, clock: QueueClock) -> None:
        self.shard, self.store, self._clock = shard, store, clock
        self.intake = Intake(store, clock)
        self._log = logs.get("queue").bind(shard=shard)
        self._courier: Courier | None = None
        self._running: asyncio.Task[None] | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._health = Health(time.monotonic)
        self._resolver: tuple[DnsOptions, DnsResolver] | None = None
        self._leaving: dict[asyncio.Task[int], Courier] = {}

    @classmethod
    async def open(cls, shard: int, settings: Smtpgw, clock: Clock, patience: float) -> Post:
        """Take the shard, waiting at most `patience` seconds for a worker that is still
        ending or has taken it over, and put right what the last run left.

        Raises QueueError, OSError.
        """
        queue_clock = QueueClock(clock)  # of its own: each shard has its time
        store = await cls._locked(shard, settings, queue_clock, patience)
        store.on_left(functools.partial(_left, shard))
        try:
            found = await store.recover(queue_clock.now())
        except BaseException:
            await store.close()  # or nobody could have the shard while this process lives
            raise
        log = logs.get("queue")
        if found.unswept:
            log.error("queue.bodies", shard=shard, reason=found.unswept)
        log.info(
            "queue open",
            shard=shard,
            leased=found.leased,
            orphans=found.orphans,
            corrupt=len(found.corrupt),
            strange=len(found.strange),
        )
        for queue_id, why in found.held:
            log.error("queue.hold", queue_id=queue_id, shard=shard, reason=why)
        return cls(shard, store, queue_clock)

    @staticmethod
    async def _locked(
        shard: int, settings: Smtpgw, clock: QueueClock, patience: float
    ) -> SqliteStore:
        directory = shard_directory(settings.queue.directory, shard)
        options = wiring.store(settings, shard)
        end = clock.now() + patience
        waits = repaired = False
        with contextlib.ExitStack() as stack:
            while True:
                try:
                    # In a thread, for a large log may have to be read again.
                    return await asyncio.to_thread(
                        SqliteStore.open, directory, options, clock=clock
                    )
                except StoreBroken as error:
                    if repaired:
                        raise
                    repaired = True
                    await _repair(directory, clock.wall(), str(error))
                    continue
                except StoreLocked as error:
                    if clock.now() >= end:
                        raise
                    if not waits:
                        waits = True
                        stack.enter_context(handover.asking(directory))
                        logs.get("queue").info(
                            "waiting for the queue",
                            shard=shard,
                            reason=str(error),
                            patience=patience,
                        )
                await asyncio.sleep(_LOOK_AGAIN)

    def deliver(
        self,
        settings: Smtpgw,
        addresses: Addresses,
        failed: Callable[[BaseException], None],
        filters: Filters = Filters(),  # noqa: B008 - none, and nobody adds any
    ) -> None:
        """Deliver by these settings from now on; what is under way ends by the old ones.

        `failed` is called if the courier cannot go on.  The tables of `addresses` are in use
        until what goes by them has ended; `filters` are asked about mail that is released.
        """
        if self._courier is not None:
            leaving = asyncio.ensure_future(self._courier.drain(settings.stop_timeout))
            self._leaving[leaving] = self._courier
            leaving.add_done_callback(self._leaving.pop)
        manager = QueueManager(self.store, self._clock, wiring.manager(settings))
        self._courier = self._new_courier(settings, addresses, manager)
        self.store.taker = self._courier.direct
        self.intake.wake = manager.wake
        self.intake.site_of = addresses.routes.site
        self.intake.site_now = addresses.routes.site_now
        self.intake.rules = AddressRules(addresses)
        self.intake.tell_expanded = self._reporter(settings).readdressed

        def ended(task: asyncio.Task[None]) -> None:
            if not task.cancelled() and (error := task.exception()) is not None:
                failed(error)

        self._running = asyncio.ensure_future(self._courier.run())
        self._running.add_done_callback(ended)
        if self._keeping is not None:
            self._keeping.cancel()  # what milters are being asked about begins anew
        self._keeping = asyncio.ensure_future(_keep(self._keeper(settings, filters), self._keeping))
        self._keeping.add_done_callback(ended)

    def _keeper(self, settings: Smtpgw, filters: Filters) -> Keeper:
        log = logs.get("quarantine").bind(shard=self.shard)
        return Keeper(
            self.store,
            self.intake,
            self._clock,
            releasing.again(settings, self._health, log, filters),
            KeeperOptions(settings.quarantine.lifetime),
            log,
            _count_kept,
        )

    def _new_courier(
        self, settings: Smtpgw, addresses: Addresses, manager: QueueManager
    ) -> Courier:
        pool = Pool(peers.pool(settings))
        fixed = Fixed()
        smtp: Deliverer = outbound.delivery(settings, self._ask(wiring.dns(settings)), pool)
        if addresses.generic is not None:
            smtp = GenericDelivery(smtp, addresses.generic, signed=settings.rewrite_signed_headers)
        deliverers: dict[str, Deliverer] = {
            "lmtp": pool,
            "smtp": smtp,
            "relay": smtp,
            "maildir": MaildirDelivery(settings.hostname),
            "error": fixed,
            "retry": fixed,
            "discard": fixed,
            "hold": fixed,
        }
        return Courier(
            store=self.store,
            intake=self.intake,
            manager=manager,
            clock=self._clock,
            schedule=Schedule(wiring.schedule(settings)),
            route=functools.partial(_route, addresses),
            deliverers=deliverers,
            chance=random.random,
            token=_token,
            log=logs.get("courier"),
            options=wiring.courier(settings),
            observe=_observe,
            filter_of=addresses.routes.filtered,
            known=addresses.routes.known,
        )

    def _reporter(self, settings: Smtpgw) -> Reporter:
        return Reporter(
            self.intake,
            clock=self._clock,
            schedule=Schedule(wiring.schedule(settings)),
            token=_token,
            log=logs.get("intake"),
            options=wiring.dsn(settings),
        )

    def _ask(self, options: DnsOptions) -> DnsResolver:
        """Who is asked for names: the same one, with what it knows, until told otherwise."""
        if self._resolver is None or self._resolver[0] != options:
            self._resolver = options, DnsResolver(options, time.monotonic, _observe_dns)
        return self._resolver[1]

    async def counts(self) -> dict[MailState, int]:
        """Mails by state."""
        return await self.store.counts()

    async def drain(self, patience: float) -> None:
        """Begin no more deliveries, and let those under way end within `patience` seconds.

        Mail may still come in; it is delivered after the next start.
        """
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        for each in self._leaving.values():
            each.hurry()
        if self._courier is not None:
            self._courier.hurry()
            broken = await self._courier.drain(patience)
            if broken:
                self._log.warning("deliveries broken off", mails=broken)
        await asyncio.gather(*self._leaving)
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def close(self) -> None:
        """Commit what waits, and let go of the shard."""
        if self._resolver is not None:
            await self._resolver[1].close()
        await self.store.close()


async def _keep(keeper: Keeper, before: asyncio.Task[None] | None) -> None:
    """Take the place of another keeper, which was cancelled, once it has ended."""
    if before is not None:
        await asyncio.wait({before})
        del before  # it knows where it was cancelled, and so its keeper, and all before that
    await keeper.run()


def _token() -> str:
    return secrets.token_hex(8)


async def _route(addresses: Addresses, address: bytes, sender: bytes) -> Destination:
    """Who has this to ask keeps the tables open."""
    return await addresses.routes.route(address, sender)


def _left(shard: int, queue_id: str, reason: str) -> None:
    """The mail is done and its octets are still there, until a start at which they can go."""
    logs.get("queue").error(
        "queue.body", shard=shard, queue_id=queue_id, outcome="left", reason=reason
    )


async def _repair(directory: Path, now: float, reason: str) -> None:
    """Go on with what can be read of a broken queue, and tell the postmaster."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
    saved = await asyncio.to_thread(salvage.repair, directory, stamp)
    logs.get("queue").critical(
        "queue repaired",
        reason=reason,
        mails=saved.mails,
        unreadable=saved.unreadable,
        set_aside=str(saved.aside or ""),
        advice="see docs/queue.md, A broken database",
    )


def _count_kept(outcome: str, mails: int) -> None:
    metrics.QUARANTINE.labels(outcome).inc(mails)


def _observe(transport: str, outcome: str, seconds: float) -> None:
    metrics.deliveries(transport, outcome).inc()
    metrics.stage("delivery").observe(seconds)


def _observe_dns(kind: str, outcome: str) -> None:
    metrics.dns_questions(kind, outcome).inc()
