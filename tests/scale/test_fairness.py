"""A destination that is dead, or a sender who sends no end, delays nobody else's mail.

Compared with an empty queue, in turns, with slack for what else the machine does; what the
choice of a turn costs is counted in steps of SQLite's machine.  GATEPOST_SCALE is how many
mails stand in a large queue; a tenth of that is in the way of the others.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from smtpgw.delivery.outcome import Deferred, Destination, Job, Outcome
from smtpgw.queue import schema, turns
from smtpgw.queue.store import Wish
from tests.delivery.peer import Peer, Road, listening, road
from tests.queue.support import START, FakeClock, message, run
from tests.scale.fill import Plan, fill

FULL = "GATEPOST_SCALE" in os.environ
MAILS = int(os.environ.get("GATEPOST_SCALE", "50000")) // 10
LIVE = 100
SLACK = 1.2 if FULL else 2.5
"""How many times as long it may take as on an empty queue."""
MOMENT = 0.25
"""Seconds that any machine may be busy with something else."""


class Dead:
    """Hosts that cannot be reached: at once, or not before the test is over."""

    def __init__(self, *, silent: bool) -> None:
        self.over = asyncio.Event()
        self.asked = 0
        if not silent:
            self.over.set()

    async def deliver(self, destination: Destination, job: Job) -> Sequence[Outcome]:
        self.asked += 1
        await self.over.wait()
        text = f"connect to {destination}: no answer"
        return [Deferred(each.number, text, "", "4.4.1", unreachable=True) for each in job.targets]

    async def close(self) -> None:
        self.over.set()


@asynccontextmanager
async def crowded(
    directory: Path, plan: Plan | None, *, silent: bool
) -> AsyncIterator[tuple[Road, Peer]]:
    """A courier at work on a queue with a crowd in it, and a peer for all other mail."""
    live, dead, clock = Peer(), Dead(silent=silent), FakeClock()
    if plan is not None:
        fill(directory / "00", plan)
    clock.go(600)  # the crowd is due
    names = [f"d{n}.example" for n in range(plan.destinations if plan else 0)]
    others = {each: Destination("smtp", each) for each in names}
    async with (
        listening(live) as where,
        road(directory, where, others, clock=clock, smtp=dead) as way,
    ):
        if plan is not None:
            async with asyncio.timeout(20):
                while not dead.asked:  # noqa: ASYNC110 - nobody tells
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)  # so that it has leased what it wants
        yield way, live
        dead.over.set()


async def seconds_for_the_living(directory: Path, plan: Plan | None, *, silent: bool) -> float:
    """How long a hundred mails for a host that lives take."""
    async with crowded(directory, plan, silent=silent) as (way, live):
        began = time.monotonic()
        for number in range(LIVE):
            mail = message(b"%d\r\n" % number, sender=b"b@example.com", rcpts=(b"u@live.example",))
            await way.accept(mail)
        async with asyncio.timeout(30):
            while len(live.messages) < LIVE:  # noqa: ASYNC110 - the peer tells nobody
                await asyncio.sleep(0.002)
        return time.monotonic() - began


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("destinations", "senders", "silent"),
    [(1, 1000, False), (1, 1000, True), (60, 1000, True), (1, 1, False)],
    ids=["refusing", "silent", "sixty silent ones", "one sender"],
)
def test_the_dead_delay_nobody(
    tmp_path: Path,
    record_property: Callable[[str, object], None],
    destinations: int,
    senders: int,
    silent: bool,
) -> None:
    plan = Plan(MAILS, START, destinations, senders, new=2)
    alone: list[float] = []
    among: list[float] = []
    for pair in range(5 if FULL else 1):
        for name, before, found in (("alone", None, alone), ("among", plan, among)):
            work = seconds_for_the_living(tmp_path / f"{name}{pair}", before, silent=silent)
            found.append(run(work, 300))
    quiet, loud = statistics.median(alone), statistics.median(among)
    text = f"{MAILS} mails in the way: {loud:.3f} s for {LIVE}, {quiet:.3f} s without"
    record_property("measured", text)
    assert loud < quiet * SLACK + MOMENT, text


def test_a_turn_costs_the_same_in_any_queue(tmp_path: Path) -> None:
    """What is leased is a step down an index for each lane, however much stands in it."""

    def cost(name: str, mails: int) -> int:
        fill(tmp_path / name, Plan(mails, START, 50, 1000))
        db = schema.connect(tmp_path / name / "queue.db", busy_timeout=1.0)
        count = 0

        def told() -> int:
            nonlocal count
            count += 1
            return 0

        db.set_progress_handler(told, 100)
        wish = Wish(each=25, room={"smtp:d1.example": 0})
        assert len(turns.choose(db, START + 600, 200, wish)) == 200
        db.set_progress_handler(None, 0)
        db.close()
        return count

    few, many = cost("few", 4000), cost("many", 16000)
    assert many <= few * 1.5 + 10
