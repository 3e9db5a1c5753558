"""The shards a worker runs beside its own: those of dead workers, and of workers no more.

A shard that nobody runs is taken over to deliver what is in it; no mail comes in through
it.  One that has an owner is free after `takeover_delay` seconds without a lock, by when
its worker should have been started again; when that worker comes back and asks, the shard
is given back: no new deliveries, those under way end or are broken off, and the owner
opens it.  One that has no owner, since `workers` was lowered, is taken at once and kept.
The shard's lock keeps two from running one (smtpgw/queue/shard.py).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from structlog.typing import FilteringBoundLogger

from smtpgw.queue import handover
from smtpgw.queue.store import StoreLocked
from smtpgw.queue.tools import shard_directories, shard_directory

LOOK_EVERY = 1.0
"""Seconds between two looks at the shards."""

AFTER_FAILURE = 60.0
"""Seconds that a shard is left alone which could not be run."""

FAR = 2.0
"""How many times `takeover_delay` those wait who are not first in line for a shard."""


class Taken(Protocol):
    """A shard at work (:class:`smtpgw.post.Post`)."""

    async def drain(self, patience: float) -> None:
        """Begin no more deliveries; those under way end or are broken off."""

    async def close(self) -> None:
        """Let go of it."""


P = TypeVar("P", bound=Taken)


@dataclass(frozen=True, slots=True)
class TakeoverOptions:
    """`delay`: seconds without a lock after which a shard is taken from its owner.
    `workers`: how many own one.  `patience`: seconds for deliveries to end."""

    directory: Path
    workers: int = 1
    delay: float = 5.0
    patience: float = 20.0


@dataclass(slots=True)
class _Seen:
    """Free shards: since when, and from when those are looked at that failed."""

    since: dict[int, float] = field(default_factory=dict)
    not_before: dict[int, float] = field(default_factory=dict)


class Takeover(Generic[P]):
    """Looks after other workers' shards.  `take` opens one and delivers from it, with what
    is to be called when it cannot go on; what it raises leaves that shard alone for a while."""

    def __init__(
        self,
        own: int,
        options: TakeoverOptions,
        take: Callable[[int, Callable[[BaseException], None]], Awaitable[P]],
        *,
        clock: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self.options = options
        self._own, self._take, self._clock, self._log = own, take, clock, log
        self._posts: dict[int, P] = {}
        self._failed: dict[int, BaseException] = {}
        self._seen = _Seen()
        self._closing = asyncio.Event()

    @property
    def posts(self) -> Mapping[int, P]:
        """The shards that are run now."""
        return self._posts

    def failure_of(self, shard: int) -> Callable[[BaseException], None]:
        """What is to be called when a shard that was taken cannot go on: only that one ends."""
        return partial(self._failed.__setitem__, shard)

    async def run(self) -> None:
        """Look again and again, until :meth:`close`."""
        while not self._closing.is_set():
            try:
                await self.look()
            except OSError as error:
                self._log.error("shards not looked at", reason=str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY):
                    await self._closing.wait()

    async def look(self) -> None:
        """Give back what is asked for or failed, and take one that is free for long enough."""
        failed = [shard for shard in self._posts if shard in self._failed]
        for shard in failed:
            self._leave_alone(shard, str(self._failed[shard]))
        # Together, for each of those who ask waits only for so long.
        await asyncio.gather(
            *(self._give_back(each) for each in {*failed, *filter(self._wanted, self._posts)})
        )
        for shard in self._ripe():
            if not self._closing.is_set():
                await self._take_over(shard)

    async def close(self, patience: float) -> None:
        """Take no more, and give back all."""
        self._closing.set()
        await asyncio.gather(*(self._give_back(each, patience) for each in list(self._posts)))

    def _directory(self, shard: int) -> Path:
        return shard_directory(self.options.directory, shard)

    def _wanted(self, shard: int) -> bool:
        return handover.wanted(self._directory(shard))

    def _ripe(self) -> list[int]:
        """The free shards whose time has come."""
        now, since = self._clock(), self._seen.since
        names = [each.name for each in shard_directories(self.options.directory)]
        others = {int(each) for each in names if each.isdecimal()} - {self._own, *self._posts}
        free = [each for each in sorted(others) if handover.free(self._directory(each))]
        self._seen.since = {each: since.get(each, now) for each in free}
        return [
            shard
            for shard, began in self._seen.since.items()
            if now - began >= self._delay(shard) and now >= self._seen.not_before.get(shard, now)
        ]

    def _delay(self, shard: int) -> float:
        """The next worker in line comes first; the others only if it does not come."""
        workers, delay = self.options.workers, self.options.delay
        orphan = shard >= workers
        heir = (shard if orphan else shard + 1) % workers
        if heir != self._own:
            return FAR * delay
        return 0.0 if orphan else delay

    async def _take_over(self, shard: int) -> None:
        self._failed.pop(shard, None)
        try:
            post = await self._take(shard, self.failure_of(shard))
        except StoreLocked:
            return  # another was faster
        except Exception as error:  # noqa: BLE001 - whatever it is, other shards are looked after
            self._leave_alone(shard, str(error) or repr(error))
            return
        self._posts[shard] = post
        self._seen.since.pop(shard, None)
        self._log.warning("shard taken over", shard=shard)
        if self._closing.is_set():
            await self._give_back(shard)

    def _leave_alone(self, shard: int, reason: str) -> None:
        self._seen.not_before[shard] = self._clock() + AFTER_FAILURE
        self._log.error("shard cannot be run", shard=shard, reason=reason, again_in=AFTER_FAILURE)

    async def _give_back(self, shard: int, patience: float | None = None) -> None:
        post = self._posts.pop(shard, None)
        if post is None:
            return
        await post.drain(self.options.patience if patience is None else patience)
        await post.close()
        self._log.info("shard given back", shard=shard)
