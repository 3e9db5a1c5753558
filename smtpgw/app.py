"""What a worker is made of, and how it changes: the composition root.

Sessions that are under way keep the road and the limits they began with; new
settings are for new sessions and for the next delivery attempts.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from milterd.base import logs, metrics
from smtpgw import decision_store, screening, wiring
from smtpgw.addresses import Addresses, open_addresses
from smtpgw.chain.health import Health
from smtpgw.client_name import ClientNames
from smtpgw.config import Smtpgw
from smtpgw.control import Orders
from smtpgw.counting import Counting
from smtpgw.dns.changing import ChangingResolver
from smtpgw.dns.hosts_file import HostsFile
from smtpgw.edge.listener import Listener
from smtpgw.edge.options import EdgeOptions
from smtpgw.fastflush import FastFlush
from smtpgw.filters import Filters
from smtpgw.local_mail import LocalMeans
from smtpgw.logins import LoginRoom
from smtpgw.pickup import Pickup, PickupOptions
from smtpgw.plan import Means, Plan
from smtpgw.policy_doors import PolicyDoors
from smtpgw.policy_world import PolicyWorld
from smtpgw.post import Post
from smtpgw.queue.clock import Clock, SystemClock
from smtpgw.queue.store import QueueError
from smtpgw.retiring import Retiring
from smtpgw.road import GatewayRoad
from smtpgw.screen.cache import PassCache
from smtpgw.takeover import Takeover
from smtpgw.wiring import screen as wiring_screen

COUNT_EVERY = 2.0
"""Seconds between two counts of the queue for the metrics, at least."""

COUNT_SHARE = 0.01
"""How much of the time may go into counting: a million mails are counted less often."""


@dataclass(frozen=True, slots=True)
class _Door:
    """A listener at work, and the inode of its socket, by which it is known again."""

    listener: Listener
    inode: int


class App:
    """A worker's rooms.  Use :meth:`open`, then :meth:`apply`."""

    def __init__(
        self,
        post: Post,
        road: GatewayRoad,
        clock: Clock,
        settings: Smtpgw,
        resolver: ChangingResolver,
        counting: Counting,
    ) -> None:
        self.posts, self._road, self._resolver = (post,), road, resolver
        self._counting = counting
        self._reporting: asyncio.Task[None] | None = None
        self._clock, self._settings = clock, settings
        self._addresses: Addresses | None = None
        self._filters = Filters()
        self._retiring = Retiring()
        self._logins = LoginRoom(logs.get("sasl"))
        self._takeover = Takeover(
            post.shard,
            wiring.takeover(settings),
            self._take_over,
            clock=time.monotonic,
            log=logs.get("queue"),
        )
        self._looking: asyncio.Task[None] | None = None
        self._screening = screening.Screening(
            wiring_screen.Shared(
                ChangingResolver(wiring_screen.dns(settings), time.monotonic, _observe_dns),
                PassCache(
                    settings.queue.directory / wiring_screen.CACHE, time.time, logs.get("screen")
                ),
                road.means.recorder.edge,
                logs.get("screen"),
            ),
            cleans=post.shard == 0,
        )
        self._world = PolicyWorld(settings, resolver)
        self._policy_doors = PolicyDoors()
        self._doors: dict[str, _Door] = {}
        self._leaving: list[Listener] = []
        self._pickup: Pickup | None = None
        self._pickup_options: PickupOptions | None = None
        self._log = logs.get("worker")

    @classmethod
    async def open(cls, shard: int, settings: Smtpgw, patience: float) -> App:
        """Take the worker's own shard and recover it.  Raises QueueError, OSError."""
        spool(settings).mkdir(mode=0o700, parents=True, exist_ok=True)
        clock = SystemClock()
        post = await Post.open(shard, settings, clock, patience)
        resolver = ChangingResolver(wiring.dns(settings), time.monotonic, _observe_dns)
        counting = Counting.open()
        means = Means(
            intake=post.intake,
            health=Health(time.monotonic),
            log=logs.get("smtpd"),
            wall=time.time,
            clock=time.monotonic,
            flush=FastFlush(settings.queue.directory),
            names=ClientNames(resolver, HostsFile(), settings.dns.mail_timeout, time.monotonic),
            recorder=decision_store.recorder(shard, settings),
            counters=counting.counters,
        )
        return cls(post, GatewayRoad(means, {}), clock, settings, resolver, counting)

    async def _take_over(self, shard: int, failed: Callable[[BaseException], None]) -> Post:
        post = await Post.open(shard, self._settings, self._clock, 0.0)
        assert self._addresses is not None  # noqa: S101 - it looks for others' queues after apply()
        try:
            post.deliver(self._settings, self._addresses, failed, self._filters)
        except BaseException:
            await post.close()
            raise
        metrics.TAKEOVERS.inc()
        return post

    async def apply(self, orders: Orders, failed: Callable[[BaseException], None]) -> None:
        """Work by these orders from now on.

        Raises ConfigError, and has changed nothing then.
        """
        settings = orders.settings.smtpgw
        # In a thread, for keys and large tables take their time.
        filters = await asyncio.to_thread(Filters.open, orders.settings)
        addresses = await self._opened(settings)
        edges: dict[str, tuple[EdgeOptions, EdgeOptions]] = {}
        plans: dict[str, Plan] = {}
        stressed: dict[str, Plan] = {}
        for each in settings.listener:
            pair = wiring.edges(settings, each, addresses.doors[each.name])
            edges[each.name] = self._logins.equip(pair, settings, each, addresses.mynetworks)
            usual = wiring.plan(settings, each, addresses)
            plans[each.name] = filters.equip_plan(usual)
            strict = wiring.plan(settings, each, addresses, stress=True)
            stressed[each.name] = filters.equip_plan(strict)
        self._logins.settle()
        await self._screening.open(settings, addresses.mynetworks, edges)
        self._world.apply(settings, addresses)
        plans = self._world.equip(settings, plans)
        stressed = self._world.equip(settings, stressed, stress=True)
        self._settings, self._takeover.options = settings, wiring.takeover(settings)
        self._resolver.configure(wiring.dns(settings))
        self._road.means.recorder.configure(
            kept=settings.decisions.kept, in_replies=settings.decisions.in_replies
        )
        if self._addresses is not None:
            self._retiring.replaced(self._addresses)
        self._addresses, self._filters = addresses, filters
        for shard, taken in self._takeover.posts.items():
            taken.deliver(settings, addresses, self._takeover.failure_of(shard), filters)
        self._road.plans = {**self._road.plans, **plans}
        self._road.stressed = {**self._road.stressed, **stressed}
        for post in self.posts:
            post.deliver(settings, addresses, failed, filters)
        await self._pick_up(settings, addresses, failed)
        await self._counting.apply(settings)
        await self._open_doors(edges, orders.listeners)
        ports = self._world.ports(settings, settings)
        await self._policy_doors.open(settings, addresses, ports, orders.listeners)
        if self._reporting is None:
            self._reporting = asyncio.ensure_future(self._counting.report())
        if self._looking is None:
            self._looking = asyncio.ensure_future(self._takeover.run())

    async def _opened(self, settings: Smtpgw) -> Addresses:
        """The tables of these settings, opened anew: what a file that they name says (a .cf file,
        a list of domains) may have changed though the settings have not.

        What is replaced is closed when nobody uses it any more: sessions and deliveries that
        began with it end with it.
        """
        # In a thread, for a large file takes seconds to read.
        found = await asyncio.to_thread(open_addresses, settings, logs.get("tables"))
        self._retiring.watch(found)
        return found

    async def _pick_up(
        self, settings: Smtpgw, addresses: Addresses, failed: Callable[[BaseException], None]
    ) -> None:
        """Take local mail by these settings, if the queue's first part is ours."""
        options = wiring.pickup(settings, addresses.standard.origin.decode())
        local = replace(options.local, milters=self._filters.equip(options.local.milters))
        options = replace(options, local=local)
        post = next((each for each in self.posts if each.shard == 0), None)
        if post is None or options == self._pickup_options:
            return
        former = {settings.queue.directory / "drop"}
        if self._pickup is not None:
            await self._pickup.stop()
        if self._pickup_options is not None:
            former.add(self._pickup_options.directory)
        room = logs.get("pickup")
        means = LocalMeans(post.intake, Health(time.monotonic), room, time.time, time.monotonic)
        self._pickup, self._pickup_options = Pickup(post.store, means, options, room), options
        try:
            former.discard(options.directory)
            await self._pickup.start(settings.queue.directory, failed, former)
        except OSError as error:
            # Mail from elsewhere is to go on; what is handed in waits for the next reload.
            self._pickup = self._pickup_options = None
            self._log.error("local mail is not taken", reason=str(error))

    async def _open_doors(
        self,
        edges: Mapping[str, tuple[EdgeOptions, EdgeOptions]],
        listening: Mapping[str, socket.socket],
    ) -> None:
        """Serve these listeners.  One that was served before on the same socket goes on
        with its new options; one that is no more accepts nobody, and its sessions go on."""
        before, self._doors = self._doors, {}
        for name, (options, stressed) in edges.items():
            inode = os.fstat(listening[name].fileno()).st_ino
            door = before.get(name)
            if door is not None and door.inode == inode:
                door.listener.reconfigure(options, stressed)
                listening[name].close()
                self._doors[name] = before.pop(name)
            else:
                listener = Listener(
                    options,
                    self._road,
                    stressed=stressed,
                    log=logs.get("edge"),
                    note=self._road.means.recorder.edge,
                )
                await listener.start(listening[name])
                self._doors[name] = _Door(listener, inode)
            self._doors[name].listener.screen = self._screening.gate(name)
        for door in before.values():
            door.listener.stop_accepting()
            self._leaving.append(door.listener)
        self._leaving = [each for each in self._leaving if not each.idle]

    async def count(self) -> None:
        """Keep the numbers of queue and log in the metrics, until cancelled.  What a count takes
        says when the queue is counted again, not when the log is."""
        due = time.monotonic()
        while True:
            metrics.LOG_DROPPED.set(logs.dropped())
            began = time.monotonic()
            if began >= due:
                await self._count_queue()
                due = time.monotonic() + (time.monotonic() - began) / COUNT_SHARE
            await asyncio.sleep(COUNT_EVERY)

    async def _count_queue(self) -> None:
        total: dict[str, int] = {}
        for post in (*self.posts, *self._takeover.posts.values()):
            with contextlib.suppress(QueueError):  # given back meanwhile, or damaged
                for state, number in (await post.counts()).items():
                    total[state.name.lower()] = total.get(state.name.lower(), 0) + number
        for name, number in total.items():
            metrics.QUEUE.labels(name).set(number)

    async def close(self, patience: float) -> None:
        """Stop accepting, let what is under way end within `patience` seconds, and
        commit what is known.  Idle clients are told 421 at once."""
        if self._pickup is not None:
            await self._pickup.stop()
        listeners = [*(each.listener for each in self._doors.values()), *self._leaving]
        await asyncio.gather(
            *(each.drain(patience) for each in listeners),
            self._policy_doors.close(patience),
            self._takeover.close(patience),
            *(each.drain(patience) for each in self.posts),
        )
        if self._looking is not None:
            await self._looking
        if self._reporting is not None:
            self._reporting.cancel()
        await asyncio.gather(self._counting.close(), self._world.close())
        await self._retiring.close()
        await self._logins.close()
        await asyncio.gather(
            self._resolver.close(), self._screening.close(), *(each.close() for each in self.posts)
        )
        await asyncio.to_thread(self._road.means.recorder.close)


def _observe_dns(kind: str, outcome: str) -> None:
    metrics.dns_questions(kind, outcome).inc()


def spool(settings: Smtpgw) -> Path:
    """Where large messages stand while they are received."""
    return settings.queue.directory / "spool"
