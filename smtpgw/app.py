"""What a worker is made of, and how it changes: the composition root.

Sessions that are under way keep the road and the limits they began with; new
settings are for new sessions and for the next delivery attempts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from milterd.base import logs, metrics
from smtpgw import wiring
from smtpgw.chain.health import Health
from smtpgw.config import Smtpgw
from smtpgw.control import Orders
from smtpgw.edge.listener import Edge
from smtpgw.edge.options import EdgeOptions
from smtpgw.post import Post
from smtpgw.queue.clock import QueueClock, SystemClock
from smtpgw.road import GatewayRoad, Means, Plan

COUNT_EVERY = 5.0
"""Seconds between two counts of the queue for the metrics."""


@dataclass(slots=True)
class _Door:
    """A listener that is being served, on a socket that both ends know by its inode."""

    edge: Edge
    socket: int


class App:
    """A worker's rooms.  Use :meth:`open`, then :meth:`apply`."""

    def __init__(self, posts: Sequence[Post], road: GatewayRoad) -> None:
        self.posts, self._road = tuple(posts), road
        self._doors: dict[str, _Door] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._log = logs.get("worker")

    @classmethod
    async def open(cls, shards: Sequence[int], settings: Smtpgw, patience: float) -> App:
        """Take the shards and recover them.  Raises QueueError, OSError."""
        spool(settings).mkdir(mode=0o700, parents=True, exist_ok=True)
        clock = QueueClock(SystemClock())
        posts: list[Post] = []
        try:
            for each in shards:
                posts.append(await Post.open(each, settings, clock, patience))
        except BaseException:
            for post in posts:
                await post.close(0.0)
            raise
        means = Means(
            intake=posts[0].intake,
            health=Health(time.monotonic),
            log=logs.get("smtpd"),
            wall=time.time,
            clock=time.monotonic,
        )
        return cls(posts, GatewayRoad(means, {}))

    async def apply(self, orders: Orders, failed: Callable[[BaseException], None]) -> None:
        """Work by these orders from now on.

        Raises ConfigError, and has changed nothing then.
        """
        settings = orders.settings.smtpgw
        edges: dict[str, EdgeOptions] = {}
        plans: dict[str, Plan] = {}
        for each in settings.listener:
            edges[each.name] = wiring.edge(settings, each)
            plans[each.name] = wiring.plan(settings, each)
        self._road.plans = {**self._road.plans, **plans}
        for post in self.posts:
            post.deliver(settings, failed)
        before = self._doors
        self._doors = {}
        for name, options in edges.items():
            listening = orders.listeners[name]
            edge = Edge(options, self._road, log=logs.get("smtpd"))
            await edge.start(listening)
            self._doors[name] = _Door(edge, listening.fileno())
        for door in before.values():
            self._retire(door)

    def _retire(self, door: _Door) -> None:
        """Accept nothing more by the old options; sessions go on until they end."""
        door.edge.stop_accepting()
        task = asyncio.ensure_future(door.edge.finished())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def count(self) -> None:
        """Keep the queue's numbers in the metrics, until cancelled."""
        while True:
            total: dict[str, int] = {}
            for post in self.posts:
                for state, number in (await post.counts()).items():
                    total[state.name.lower()] = total.get(state.name.lower(), 0) + number
            for name, number in total.items():
                metrics.QUEUE.labels(name).set(number)
            metrics.LOG_DROPPED.set(logs.dropped())
            await asyncio.sleep(COUNT_EVERY)

    async def close(self, patience: float) -> None:
        """Stop accepting, let what is under way end within `patience` seconds, and
        commit what is known.  Idle clients are told 421 at once."""
        doors = self._doors.values()
        await asyncio.gather(*(each.edge.drain(patience) for each in doors))
        await asyncio.gather(*(each.close(patience) for each in self.posts))


def spool(settings: Smtpgw) -> Path:
    """Where large messages stand while they are received."""
    return settings.queue.directory / "spool"
