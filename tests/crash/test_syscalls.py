"""Promise 1 at every system call: killed as any of them is entered, no 250 is lost.

A real worker takes mail from clients and from the drop directory, queues it, in the database
and in body files, delivers it by LMTP and into Maildirs, tries again, and writes
notifications.  It is killed at one system call of one of its threads; at each third such point
its next start is killed as well.  The start after that must deliver what was promised, whole,
with at most one more delivery for each kill, and only to recipients whose delivery was not
committed yet.  Starts are points too: on a new queue, and on one of the first version, which
is brought up to date.

Every other point is with the settings that the benchmarks measure, the others with so few mails in
delivery at once that some have to wait.  `make test` has 100 points, `make nightly` over 1,000
(GATEPOST_POINTS).  What the points are comes from a run that is only traced; one that a run did
not come to is drawn anew and counted apart.  GATEPOST_KILL_SEED repeats a run's points, not its
timing.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.crash import load
from tests.crash.forked import Nursery, nursery
from tests.crash.forkserver import SLIPS
from tests.crash.ledger import Key, Ledger, Sink
from tests.crash.town import DELIVERIES, MEASURED
from tests.crash.tracing import Counts, Point, kinds, spread, traced
from tests.crash.worker import Running, Worker, emptied, left, look
from tests.peers.process import directory

POINTS = int(os.environ.get("GATEPOST_POINTS", "100"))
SEED = int(os.environ.get("GATEPOST_KILL_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)
SETTLE = 30.0
"""Seconds a worker may take until it owes nobody a mail."""
STARTS = 0.25
"""Which part of the points are in starts."""
_SENT = sum(map(len, load.CLIENTS)) + len(load.HANDED_IN)


@dataclass
class Book:
    """What became of the points."""

    hit: list[Point] = field(default_factory=list)
    missed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def note(self, point: Point, status: int, *, where: str) -> bool:
        """Whether the program was killed there."""
        assert status in (0, -9), f"the worker ended with {status} at {point}"
        if status == 0:
            self.missed += 1
            return False
        self.hit.append(point)
        self.outcomes[f"killed in {where}"] += 1
        return True


class Town:
    """One queue and one sink, for one point after another.  `fault` is one of the program's, in
    all runs of it but the last of each point."""

    def __init__(self, home: Path, one: Nursery, book: Book, fault: str) -> None:
        self.home, self.book, self.fault = home, book, fault
        self.patience = 2.0 if fault else SETTLE
        self.ledger, self.kills = Ledger(), 0
        self.sink = Sink(self.ledger, home / "sink")
        self.worker = Worker(one, home, home / "queue", home / "sink", DELIVERIES)

    def renew(self) -> None:
        """A new queue, and new books."""
        if self.worker.queue.exists():
            shutil.rmtree(self.worker.queue)
        shutil.rmtree(self.worker.boxes, ignore_errors=True)
        self.worker.log.unlink(missing_ok=True)
        self.ledger, self.kills = Ledger(), 0
        self.sink.ledger, self.sink.refuse = self.ledger, load.Moods()
        self.worker.make_drop()

    async def started(self, fault: str = "") -> Running:
        """A worker that is ready."""
        running = await self.worker.start(fault)
        self.worker.order(running)
        assert await asyncio.wait_for(self.worker.ready(running), SETTLE), self.worker.said()
        return running

    async def traffic(self, running: Running) -> int:
        """All mails come in; how the worker ended, by itself or because it was told to when
        it owed nothing any more."""
        load.hand_in(self.ledger, self.worker.drop)
        sending = asyncio.ensure_future(load.send_all(self.ledger, self.worker.port))
        done = asyncio.ensure_future(
            self.ledger.reaches(
                lambda: len(self.ledger.promised) == _SENT and not self.ledger.owed(), SETTLE
            )
        )
        await asyncio.wait({running.child.gone, done}, return_when=asyncio.FIRST_COMPLETED)
        done.cancel()
        status = await running.stop()
        # Connections that nobody accepted any more would wait for the next worker.
        sending.cancel()
        await asyncio.gather(sending, done, return_exceptions=True)
        return status

    async def settle(self) -> None:
        """A start that nobody kills delivers what is owed, and nothing else is wrong."""
        allowed = self.open_addresses() if self.kills == 1 else None
        again = Counter(key for key, made in self.ledger.delivered.items() for _ in made)
        running = await self.started()
        owes_nothing = await self.ledger.reaches(lambda: not self.ledger.owed(), self.patience)
        assert owes_nothing, f"lost: {self.ledger.owed()}\n{self.worker.said()}"
        # What nobody was promised may be there as well, and goes out.
        await emptied(self.worker, SETTLE)
        assert await running.stop() == 0, self.worker.said()
        assert left(self.worker) == [], self.worker.said()
        assert load.altered(self.ledger, load.SIZES) == []
        promised = [load.MAILS[each] for each in self.ledger.promised]
        lost = load.not_in_boxes(self.worker.boxes, promised)
        assert not lost, f"lost: {lost}\n{self.worker.said()}"
        self.check_duplicates(again, allowed)

    def open_addresses(self) -> set[str] | None:
        """Whom a start may send something, by the queue as the kill left it."""
        mails = look(self.worker.queue, self.home / "copy")
        if mails is None:
            return None
        return {each.address.decode() for mail in mails for each in mail.open}

    def check_duplicates(self, before: Counter[Key], allowed: set[str] | None) -> None:
        for key, made in self.ledger.delivered.items():
            assert len({each.pid for each in made}) == len(made), f"{key} twice without a crash"
            assert len(made) <= 1 + self.kills, f"{key}: {made}"
            self.book.outcomes["delivered again"] += len(made) - 1
            if allowed is not None and before[key] and len(made) > before[key]:
                assert key[1] in allowed, f"{key}: sent again, though its delivery was committed"
        self.book.outcomes["mails promised"] += len(self.ledger.promised)
        self.book.outcomes["mails taken, but not promised"] += len(
            {name for name, _ in self.ledger.delivered} - set(self.ledger.promised)
        )
        self.book.outcomes["recipients served"] += len(self.ledger.delivered)


@contextlib.asynccontextmanager
async def _town(book: Book, fault: str) -> AsyncIterator[Town]:
    with directory("calls") as home:
        await asyncio.to_thread(load.first_version, home / "old")
        async with nursery() as one:
            town = Town(home, one, book, fault)
            await town.sink.start()
            try:
                yield town
            finally:
                await town.sink.stop()
                town.worker.close()


async def _survey_traffic(town: Town) -> Counts:
    town.renew()
    running = await town.started()
    async with traced(running.child.pid, town.home / "trace") as trace:
        assert await town.traffic(running) == 0
    assert left(town.worker) == []
    return trace.by_thread()


async def _survey_start(town: Town, prepare: Callable[[Town], None]) -> Counts:
    town.renew()
    prepare(town)
    running = await town.worker.start()
    async with traced(running.child.pid, town.home / "trace") as trace:
        town.worker.order(running)
        await town.worker.ready(running)
    assert await running.stop() == 0, town.worker.said()
    return trace.by_any()


async def _kill_start(town: Town, point: Point, where: str) -> bool:
    """Whether the point was hit, in a start on what is there."""
    running = await town.worker.start()
    async with traced(running.child.pid, town.home / "trace", point):
        town.worker.order(running)
        await town.worker.ready(running)
        status = await running.stop()
    hit = town.book.note(point, status, where=where)
    town.kills += hit
    return hit


async def _kill_in_traffic(town: Town, point: Point, again: Point | None) -> None:
    town.renew()
    running = await town.started(town.fault)
    async with traced(running.child.pid, town.home / "trace", point):
        status = await town.traffic(running)
    if town.book.note(point, status, where="traffic"):
        town.kills += 1
        if again is not None:
            await _kill_start(town, again, "the start after that")
    await town.settle()


def _endless(counts: Counts, how_many: int, dice: random.Random) -> Iterator[Point]:
    return itertools.chain.from_iterable(spread(counts, how_many, dice) for _ in itertools.count())


def _handed_in(town: Town) -> None:
    load.hand_in(town.ledger, town.worker.drop)


def _first_version(town: Town) -> None:
    load.hand_in(town.ledger, town.worker.drop)
    shutil.copytree(town.home / "old", town.worker.queue / "00")
    town.ledger.promised |= {each.name: each.owed for each in load.OLD}


_BEFORE = {"the first start": _handed_in, "an upgrade": _first_version}


async def _sweep(book: Book, dice: random.Random, how_many: int, fault: str = "") -> None:
    async with _town(book, fault) as town:
        traffic = _endless(await _survey_traffic(town), how_many, dice)
        starts = {}
        for where, prepare in _BEFORE.items():
            counts = await _survey_start(town, prepare)
            starts[where] = _endless(counts, max(how_many // 8, 1), dice)
        for number in itertools.count():
            if len(book.hit) >= how_many or number > 2 * how_many:
                return
            town.worker.configure(MEASURED if number % 2 else DELIVERIES)
            if number % 6 == 0:
                where = list(_BEFORE)[number // 6 % 2]
                town.renew()
                _BEFORE[where](town)
                await _kill_start(town, next(starts[where]), where)
                await town.settle()
            else:
                again = next(starts["the first start"]) if number % 3 == 1 else None
                await _kill_in_traffic(town, next(traffic), again)


@pytest.mark.timeout(120 + 3 * POINTS)
def test_no_promised_mail_is_lost_at_any_system_call(
    record_property: Callable[[str, object], None],
) -> None:
    book = Book()
    try:
        asyncio.run(_sweep(book, random.Random(SEED), POINTS))
    finally:
        record_property(
            "measured",
            f"killed at {len(book.hit)} system calls, seed {SEED}: {kinds(book.hit)};"
            f" {dict(book.outcomes)}; {book.missed} points never reached",
        )
    assert len(book.hit) >= POINTS


@pytest.mark.timeout(120 + 3 * POINTS)
@pytest.mark.parametrize("fault", SLIPS if POINTS > 500 else SLIPS[:1])
def test_a_slip_is_noticed(fault: str) -> None:
    """With something done too early, mail is lost at some point of a sweep."""
    book = Book()
    with pytest.raises(AssertionError, match="lost: "):
        asyncio.run(_sweep(book, random.Random(SEED), max(POINTS, 400), fault))
    print(f"{fault}: lost at point {len(book.hit)}, {book.hit[-1]}")
