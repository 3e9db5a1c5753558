"""A destination that is dead, or a sender who sends no end, delays nobody else's mail.

Compared with an empty queue, in turns; what the choice of a turn costs is counted in steps of
SQLite's machine.  GATEPOST_SCALE is how many mails stand in a large queue; a tenth of that is
in the way of the others.  By night the seconds are compared, else the work, for other tests
run beside this one.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from smtpgw.delivery.outcome import Deferred, Destination, Job, Outcome
from smtpgw.queue import schema, turns
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Wish
from tests.delivery.peer import STALL, Peer, Road, listening, road
from tests.queue.support import START, FakeClock, message, run, until
from tests.scale.fill import Plan, fill

FULL = "GATEPOST_SCALE" in os.environ
MAILS = int(os.environ.get("GATEPOST_SCALE", "50000")) // 10
LIVE = 100
PAIRS = 11 if FULL else 1
ACTIVE = 500
"""qmgr_message_active_limit as it is by default."""


class Silent:
    """Hosts that answer nobody before the test is over, and that need no socket each."""

    def __init__(self) -> None:
        self.over = asyncio.Event()

    async def deliver(self, destination: Destination, job: Job) -> Sequence[Outcome]:
        await self.over.wait()
        text = f"connect to {destination}: no answer"
        return [Deferred(each.number, text, "", "4.4.1", unreachable=True) for each in job.targets]

    async def close(self) -> None:
        self.over.set()


@dataclass(frozen=True, slots=True)
class Crowd:
    """A queue that was filled, and whom its mails wait for; so many are in delivery in the end.
    `hang_up` ends those."""

    directory: Path
    where: Destination
    destinations: int
    active: int
    hang_up: Callable[[], None]

    @property
    def exceptions(self) -> dict[str, Destination]:
        if self.where.transport == "lmtp":
            return {"d0.example": self.where}
        names = [f"d{number}.example" for number in range(self.destinations)]
        return {each: Destination("smtp", each) for each in names}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of the mails for a host that lives: seconds, CPU seconds of all, and how often
    somebody else's mail was tried meanwhile."""

    seconds: float
    cpu: float
    others: int


@asynccontextmanager
async def at_work(directory: Path, crowd: Crowd | None) -> AsyncIterator[tuple[Road, Peer]]:
    """A courier at work on a queue, with a crowd in it or none, and a peer for all other mail."""
    live, clock, silent = Peer(), FakeClock(), Silent()
    if crowd is not None:
        shutil.copytree(crowd.directory, directory / "00")
        os.sync()  # or else what was copied is written while the others are measured
    clock.go(600)  # the crowd is due
    others = crowd.exceptions if crowd else {}
    async with (
        listening(live) as where,
        road(directory, where, others, clock=clock, smtp=silent) as way,
    ):
        if crowd is not None:
            await settled(way, crowd.active)
        yield way, live
        silent.over.set()
        if crowd is not None:
            crowd.hang_up()


async def settled(way: Road, active: int) -> None:
    """Until the crowd has what it gets: so many mails active, and that stays so."""

    async def is_so() -> bool:
        return (await way.store.counts())[MailState.ACTIVE] == way.courier.active >= active

    async with asyncio.timeout(60):
        await until(lambda: way.seen or way.courier.active, 60)
        last = -1
        while last != len(way.seen) or not await is_so():
            last = len(way.seen)
            assert last <= LIVE, "of what waits for a dead host a few are tried, then it rests"
            await asyncio.sleep(0.2)


async def cost_of_the_living(directory: Path, crowd: Crowd | None) -> Cost:
    """What a hundred mails for a host that lives take."""
    async with at_work(directory, crowd) as (way, live):
        before = len(way.seen)
        cpu, began = time.process_time(), time.monotonic()
        for number in range(LIVE):
            mail = message(b"%d\r\n" % number, sender=b"b@example.com", rcpts=(b"u@live.example",))
            await way.accept(mail)
        await until(lambda: len(live.messages) >= LIVE, 60)
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        await until(lambda: way.seen.count(("lmtp", "delivered")) >= LIVE)
        return Cost(seconds, cpu, len(way.seen) - before - LIVE)


@asynccontextmanager
async def crowded(directory: Path, kind: str) -> AsyncIterator[Crowd]:
    """A crowd for one host that refuses, or for one or sixty that never say a word."""
    async with AsyncExitStack() as stack:
        where, destinations, active = Destination("smtp"), 60, ACTIVE // 2
        peer = Peer({"CONNECT": STALL})
        if kind != "sixty silent":
            where = await stack.enter_async_context(listening(peer))
            destinations, active = 1, 1
        if kind in ("refusing", "one sender"):
            where, active = replace(where, nexthop=f"unix:{directory}/nobody"), 0
        site = str(where) if where.transport == "lmtp" else "smtp:{}"
        senders = 1 if kind == "one sender" else 1000
        plan = Plan(MAILS, START, destinations, senders, new=2, site=site)
        await asyncio.to_thread(fill, directory, plan)
        yield Crowd(directory, where, destinations, active, peer.hang_up)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["refusing", "silent", "sixty silent", "one sender"])
def test_the_dead_delay_nobody(
    tmp_path: Path, record_property: Callable[[str, object], None], kind: str
) -> None:
    alone: list[Cost] = []
    among: list[Cost] = []

    async def scenario() -> None:
        async with crowded(tmp_path / "crowd", kind) as crowd:
            for pair in range(PAIRS):
                for name, before, found in (("alone", None, alone), ("among", crowd, among)):
                    directory = tmp_path / f"{name}{pair}"
                    found.append(await cost_of_the_living(directory, before))
                    shutil.rmtree(directory)

    run(scenario(), 600)
    (quiet, loud), (idle, busy) = (
        [statistics.median(getattr(each, what) for each in those) for those in (alone, among)]
        for what in ("seconds", "cpu")
    )
    text = (
        f"{MAILS} mails in the way ({kind}): {loud:.3f} s for {LIVE}, {quiet:.3f} s without;"
        f" CPU {busy:.3f} s, {idle:.3f} s without"
    )
    record_property("measured", text)
    assert max(each.others for each in among) == 0, "the crowd has its turn, and no more"
    if FULL:
        assert loud < quiet * 1.2 + 0.02, text
    assert busy < idle * (1.2 if FULL else 2.0) + 0.2, text


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("new", "share"), [(1, 2), (2, 4)], ids=["new mail", "new and old mail"])
def test_who_sends_no_end_to_one_host_leaves_others_their_share_of_it(
    tmp_path: Path, new: int, share: int
) -> None:
    """A sender has half of what is new, and new mail is half of all; and what is on its way
    before: the host's window, some times over."""
    window = 20 * 5

    async def scenario() -> None:
        live, clock = Peer(), FakeClock()
        async with listening(live) as where:
            plan = Plan(MAILS, START, 1, 1, new=new, site=str(where))
            await asyncio.to_thread(fill, tmp_path / "00", plan)
            clock.go(600)
            async with road(tmp_path, where, clock=clock) as way:
                await until(lambda: len(live.messages) > window, 30)
                theirs = [
                    message(b"mine\r\n", sender=b"b@example.com", rcpts=(b"u@live.example",))
                    for _ in range(LIVE)
                ]
                await asyncio.gather(*(way.accept(each) for each in theirs))
                before = len(live.messages)
                await until(lambda: sum(b"mine" in each for each in live.messages) == LIVE, 60)
                between = len(live.messages) - before
                assert between <= LIVE * share * 1.2 + 2 * window, between
                await way.courier.drain(5)

    run(scenario(), 200)


@pytest.mark.parametrize(
    "wish",
    [
        Wish(each=25, room={"smtp:d1.example": 0}),
        Wish(each=25, expired_null=START),
        Wish(each=25, late=START),
    ],
    ids=["a turn", "none of the null sender is overdue", "all are late"],
)
def test_a_turn_costs_the_same_in_any_queue(tmp_path: Path, wish: Wish) -> None:
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
        assert len(turns.choose(db, START + 600, 200, wish)) == 200
        db.set_progress_handler(None, 0)
        db.close()
        return count

    few, many = cost("few", 4000), cost("many", 16000)
    assert many <= few * 1.5 + 10
