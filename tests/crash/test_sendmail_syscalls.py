"""Handing in mail, killed at every system call: exit status 0 is a promise.

The sendmail command is killed as it enters each call that it makes, one after another, some
with a mail that is written in one piece and some with a larger one.  What that leaves in the
drop directory is a whole file, or one that the gateway leaves alone.  Then a worker takes what
is there: every promised mail is delivered, none twice, whole, and nothing had to be set aside.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Callable, Iterator

from smtpgw.local.drop import NAME, UNFINISHED, DropReader
from tests.crash import load
from tests.crash.forked import Nursery, nursery
from tests.crash.ledger import Ledger, Sink
from tests.crash.tracing import Counts, Point, kinds, traced
from tests.crash.worker import Worker, emptied, left, working
from tests.peers.process import directory

SIZES = (load.SMALL, 3 * 256 * 1024)
"""Octets: one write, and several."""
_END = 20.0
_SETTLE = 30.0


class _Post:
    """Who hands in, and what was promised."""

    def __init__(self, one: Nursery, worker: Worker, names: Iterator[str]) -> None:
        self.ledger, self.sizes = Ledger(), dict[str, int]()
        self._one, self._worker, self._names = one, worker, names

    async def hand_in(self, size: int, point: Point | None = None) -> tuple[int, Counts]:
        """Run the command; its status, and the calls that were traced."""
        name = next(self._names)
        self.sizes[name] = size
        rcpt = f"r-{name}@example.net"
        words = ["-C", str(self._worker.file), "-f", f"s-{name}@example.net", rcpt]
        paper = os.memfd_create("mail")
        os.pwrite(paper, load.message(name, size).replace(b"\r\n", b"\n") + b"\n", 0)
        try:
            child = await self._one.bear("sendmail", paper, self._worker.log, words)
        finally:
            os.close(paper)
        async with traced(child.pid, self._worker.log.with_name("trace"), point) as trace:
            child.go()
            status = await child.ended(_END)
        if status == 0:
            self.ledger.promised[name] = (rcpt,)
        return status, trace.by_any()

    async def sweep(self, size: int) -> tuple[list[Point], int]:
        """The points that were hit, and how many that a run did not come to."""
        status, counts = await self.hand_in(size)
        assert status == 0, self._worker.said()
        hit, missed = [], 0
        for (_, call), count in counts.items():
            for number in range(1, count + 1):
                point = Point(call, number)
                status, _ = await self.hand_in(size, point)
                assert status in (0, -9), (point, self._worker.said())
                missed += status == 0
                hit += [point] if status else []
                self.check_files()
        return hit, missed

    def check_files(self) -> None:
        """Every file that has its name is whole."""
        for each in (self._worker.drop / "new").iterdir():
            if NAME.match(each.name):
                with each.open("rb") as file:
                    for _ in DropReader(file).pieces():
                        pass
            else:
                assert NAME.match(each.name.removeprefix(UNFINISHED)), each.name


def test_what_was_handed_in_is_there_whatever_call_was_the_last(
    record_property: Callable[[str, object], None],
) -> None:
    hit: list[Point] = []

    async def scenario() -> None:
        missed = 0
        with directory("handed") as home:
            async with nursery() as one:
                worker = Worker(one, home, home / "queue", home / "sink", active=20)
                worker.make_drop()
                post = _Post(one, worker, (f"h{n}" for n in itertools.count()))
                for size in SIZES:
                    found, more = await post.sweep(size)
                    hit.extend(found)
                    missed += more
                ledger = post.ledger
                sink = Sink(ledger, home / "sink")
                await sink.start()
                try:
                    async with working(worker):
                        await ledger.reaches(lambda: not ledger.owed(), _SETTLE)
                        await emptied(worker, _SETTLE)
                finally:
                    await sink.stop()
                    worker.close()
                assert not ledger.owed(), worker.said()
                assert left(worker) == []
                assert ledger.twice() == {}
                assert load.altered(ledger, post.sizes) == []
        extra = len(ledger.octets) - len(ledger.promised)
        record_property(
            "measured",
            f"sendmail killed at {len(hit)} system calls: {kinds(hit)}; {missed} more handed in"
            f" without reaching it, {len(ledger.promised)} promised and delivered, {extra}"
            " delivered though not promised",
        )

    asyncio.run(scenario())
    assert len(hit) >= 30
