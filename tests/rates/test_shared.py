"""Counts that several workers share, and what becomes of them when somebody does not answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from milterd.base import logs
from smtpgw.rates.counts import Counts, Event, Usage
from smtpgw.rates.local import Counters, LocalCounters
from smtpgw.rates.peaks import Peaks
from smtpgw.rates.service import CountService, pair
from smtpgw.rates.shared import SharedCounts

LOG = logs.get("rates")


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def inner() -> None:
        async with asyncio.timeout(30):
            await work()

    asyncio.run(inner())


def counters(store: SharedCounts | None, bound: float = 10.0, pause: float = 0.0) -> Counters:
    local = LocalCounters(Counts(lambda: 0.0, 60))
    clock = asyncio.get_running_loop().time
    peaks = Peaks(lambda: 0.0)
    return Counters(local, store, peaks=peaks, log=LOG, clock=clock, bound=bound, pause=pause)


async def until(what: Callable[[], bool]) -> None:
    while not what():  # noqa: ASYNC110 - nothing tells of what happens in the service
        await asyncio.sleep(0.001)


def test_workers_count_together_and_who_dies_leaves_nothing() -> None:
    async def work() -> None:
        service = CountService(Counts(lambda: 0.0, 60), LOG)
        workers = []
        for name in ("w1", "w2"):
            ours, theirs = pair()
            service.attach(name, ours)
            workers.append(SharedCounts(theirs))
        first, second = map(counters, workers)
        tickets = [await first.connect("a"), await second.connect("a"), await second.connect("a")]
        assert [each.usage for each in tickets] == [Usage(1, 1), Usage(2, 2), Usage(3, 3)]
        await tickets[1].release()
        assert await first.add(Event.MESSAGE, "a") == 1
        assert await second.add(Event.MESSAGE, "a") == 2
        assert await second.rate(Event.MESSAGE, "a") == 2
        assert (await first.connect("a")).usage == Usage(3, 4)
        await workers[0].close()
        await until(lambda: service.counts.usage("a") == Usage(1, 4))

    run(work)


def test_a_service_that_does_not_answer_costs_its_bound_once() -> None:
    async def work() -> None:
        ours, theirs = pair()
        shared = SharedCounts(theirs)
        mine = counters(shared, bound=0.05, pause=1000.0)
        began = asyncio.get_running_loop().time()
        for number in range(1, 101):
            assert (await mine.connect("a")).usage.count == number
        assert asyncio.get_running_loop().time() - began < 5
        # What it was asked meanwhile leaves no connection behind when it reads on.
        service = CountService(Counts(lambda: 0.0, 60), LOG)
        service.attach("w", ours)
        assert (await shared.connect("a")).usage.count == 1

    run(work)


def test_a_service_that_does_not_read_hears_of_every_end_later() -> None:
    async def work() -> None:
        ours, theirs = pair()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        shared = SharedCounts(theirs)
        mine = counters(shared, bound=0.005)
        for _ in range(200):
            await mine.connect("a")
        service = CountService(Counts(lambda: 0.0, 60), LOG)
        service.attach("w", ours)
        mine = counters(shared)
        while True:
            ticket = await shared_connect(shared)
            if ticket is not None:
                break
        assert ticket == 1

    async def shared_connect(shared: SharedCounts) -> int | None:
        from smtpgw.rates.local import CountersDown

        try:
            return (await shared.connect("a")).usage.count
        except CountersDown:
            await asyncio.sleep(0.001)
            return None

    run(work)


def test_a_service_that_is_gone_is_missed_by_nobody() -> None:
    async def work() -> None:
        ours, theirs = pair()
        mine = counters(SharedCounts(theirs))
        waits = asyncio.ensure_future(mine.add(Event.AUTH, "a"))
        await asyncio.sleep(0)
        ours.close()
        assert await waits == 1
        assert await mine.add(Event.AUTH, "a") == 2
        await (await mine.connect("a")).release()

    run(work)


def test_nonsense_harms_no_counts() -> None:
    async def work() -> None:
        service = CountService(Counts(lambda: 0.0, 60), LOG)
        ours, theirs = pair()
        service.attach("w", ours)
        for packet in (b"", b"\xff\xfe", b"1", b"1 nothing a", b"1 ?nothing a", b"x" * 2000):
            if packet:
                theirs.send(packet)
        assert await SharedCounts(theirs).add(Event.AUTH, "a") == 1

    run(work)


def test_the_highest_numbers_are_reported_once() -> None:
    peaks = Peaks(lambda: 7.0)
    for value, ident in ((2, "a"), (5, "b"), (3, "c")):
        peaks.note("connection_count", value, ident)
    assert peaks.report(LOG, 60)["connection_count"].ident == "b"
    assert peaks.report(LOG, 60) == {}
