"""The supervisor, killed at every system call of its start: the next start finds nothing wrong.

It holds no mail.  What it makes before it starts workers (its lock, a place for metrics, the
listening sockets) must not be in the way of the next one, and what stands in the queue stays
as it is.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.crash import load
from tests.crash.forked import Nursery, nursery
from tests.crash.ledger import Ledger
from tests.crash.tracing import Counts, Point, kinds, traced
from tests.crash.worker import Worker
from tests.peers.process import directory

_END = 20.0


class _Town:
    def __init__(self, home: Path, one: Nursery) -> None:
        self._home, self._one = home, one
        self._worker = Worker(one, home, home / "queue", home / "sink", active=20)

    def renew(self) -> dict[Path, bytes]:
        """A queue with some mail in it, of which each octet is given back."""
        if self._worker.queue.exists():
            shutil.rmtree(self._worker.queue)
        self._worker.make_drop()
        shutil.copytree(self._home / "old", self._worker.queue / "00")
        load.hand_in(Ledger(), self._worker.drop)
        return self.mail()

    def mail(self) -> dict[Path, bytes]:
        queue = self._worker.queue
        files = (each for where in ("00", "drop") for each in (queue / where).rglob("*"))
        return {each: each.read_bytes() for each in files if each.is_file()}

    async def start(self, point: Point | None = None) -> tuple[int, Counts]:
        """A start up to its first worker; its status, and what it called."""
        nothing = os.open(os.devnull, os.O_RDONLY)
        words = [str(self._worker.file)]
        child = await self._one.bear("supervisor", nothing, self._worker.log, words)
        os.close(nothing)
        async with traced(child.pid, self._home / "trace", point) as trace:
            child.go()
            status = await child.ended(_END)
        assert status in (0, -9), (point, self._worker.said())
        return status, trace.by_any()

    def close(self) -> None:
        self._worker.close()


def test_a_start_after_any_broken_start(record_property: Callable[[str, object], None]) -> None:
    hit: list[Point] = []

    async def scenario() -> None:
        with directory("start") as home:
            await asyncio.to_thread(load.first_version, home / "old")
            async with nursery() as one:
                town = _Town(home, one)
                town.renew()
                _, counts = await town.start()
                for (_, call), count in counts.items():
                    for number in range(1, count + 1):
                        before = town.renew()
                        point = Point(call, number)
                        hit.extend([point] if (await town.start(point))[0] else [])
                        assert (await town.start())[0] == 0
                        assert town.mail() == before
                town.close()

    asyncio.run(scenario())
    record_property("measured", f"supervisor killed at {len(hit)} system calls: {kinds(hit)}")
    assert len(hit) >= 10
