"""Clients counted by several machines, with a real Redis."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from milterd.base import logs
from smtpgw.rates.counts import Counts, Event, Usage
from smtpgw.rates.local import Counters, LocalCounters
from smtpgw.rates.peaks import Peaks
from smtpgw.rates.redis import RedisCounts
from tests.gateway.gateway import PATIENCE, Gateway, until
from tests.peers.process import directory
from tests.peers.redis import Redis, redis

pytestmark = pytest.mark.xdist_group("rates-redis")

LOG = logs.get("rates")


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    with directory("redis") as home, redis(home) as one:
        yield one


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    async def inner() -> None:
        async with asyncio.timeout(PATIENCE):
            await work()

    asyncio.run(inner())


def counters(store: RedisCounts, *, bound: float = 10.0) -> Counters:
    local, clock = LocalCounters(Counts(lambda: 0.0, 60)), asyncio.get_running_loop().time
    peaks = Peaks(lambda: 0.0)
    return Counters(local, store, peaks=peaks, log=LOG, clock=clock, bound=bound, pause=0.1)


def test_machines_count_together(server: Redis) -> None:
    async def work() -> None:
        one, other = (RedisCounts(server.url, name, 60) for name in ("one", "other"))
        tickets = [await each.connect("t:a") for each in (one, other, other)]
        assert [each.usage for each in tickets] == [Usage(1, 1), Usage(2, 2), Usage(3, 3)]
        await tickets[1].release()
        assert (await one.connect("t:a")).usage == Usage(3, 4)
        assert [await each.add(Event.AUTH, "t:a") for each in (one, other)] == [1, 2]
        assert await one.rate(Event.AUTH, "t:a") == 2
        assert await one.rate(Event.AUTH, "t:b") == 0
        await one.close()
        await other.close()

    run(work)


def test_a_window_ends(server: Redis) -> None:
    async def work() -> None:
        one = RedisCounts(server.url, "one", 1)
        began = time.monotonic()
        assert await one.add(Event.MESSAGE, "w:a") == 1
        while await one.rate(Event.MESSAGE, "w:a"):  # noqa: ASYNC110 - the server tells nobody
            await asyncio.sleep(0.02)
        assert 0.5 < time.monotonic() - began < 5
        assert await one.add(Event.MESSAGE, "w:a") == 1
        await one.close()

    run(work)


def test_who_dies_leaves_nothing_and_who_lives_is_believed(server: Redis) -> None:
    async def work() -> None:
        dead, alive = (RedisCounts(server.url, name, 60, lease=5) for name in ("dead", "alive"))
        await dead.connect("l:a")
        await alive.connect("l:a")
        await dead.close()  # without giving anything back
        while (ticket := await alive.connect("l:a")).usage.count > 2:
            await ticket.release()
            await asyncio.sleep(0.1)
        for _ in range(60):
            await asyncio.sleep(0.1)
        assert (await alive.connect("l:a")).usage.count == 3
        await alive.close()

    run(work)


def test_a_server_that_was_emptied_has_them_again(server: Redis) -> None:
    async def work() -> None:
        one = RedisCounts(server.url, "one", 60, lease=1)
        await one.connect("e:a")
        await one._server.flushall()
        while (ticket := await one.connect("e:a")).usage.count < 2:
            await ticket.release()
            await asyncio.sleep(0.05)
        await one.close()

    run(work)


def test_a_server_that_hangs_costs_its_bound_and_no_refusal(server: Redis) -> None:
    async def work() -> None:
        store = RedisCounts(server.url, "one", 60)
        mine = counters(store, bound=0.2)
        assert await mine.add(Event.AUTH, "h:a") == 1
        server.peer.pause()
        try:
            began = time.monotonic()
            assert await mine.add(Event.AUTH, "h:a") == 1  # counted here from now on
            assert time.monotonic() - began < 5
            assert (await mine.connect("h:a")).usage == Usage(1, 1)
        finally:
            server.peer.resume()
        while await mine.rate(Event.AUTH, "h:a") != await store.rate(Event.AUTH, "h:a"):  # noqa: ASYNC110 - nor here
            await asyncio.sleep(0.05)
        await store.close()

    run(work)


def test_no_server_at_all() -> None:
    async def work() -> None:
        store = RedisCounts("redis://127.0.0.1:1/0", "one", 60)
        mine = counters(store)
        assert [await mine.add(Event.AUTH, "n:a") for _ in range(3)] == [1, 2, 3]
        ticket = await mine.connect("n:a")
        assert ticket.usage == Usage(1, 1)
        await ticket.release()
        await store.close()

    run(work)


def greeting(port: int, stack: contextlib.ExitStack) -> bytes:
    client = socket.create_connection(("127.0.0.1", port), PATIENCE)
    stack.enter_context(client)
    return client.recv(100)[:9]


def test_two_gateways_count_a_client_together(server: Redis, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        gateways = []
        for name in ("a", "b"):
            place = tmp_path / name
            place.mkdir()
            one = Gateway(place)
            one.configure(
                f'client_counts = "{server.url}"\nsmtpd_client_connection_count_limit = 3\n'
                'smtpd_client_event_limit_exceptions = ""\nsmtpd_peername_lookup = false\n'
            )
            stack.callback(one.kill)
            gateways.append(one.start())
        first, second = gateways
        heard = [greeting(each.port, stack) for each in (first, second, first, second, first)]
        assert [each[:4] for each in heard] == [b"220 "] * 3 + [b"421 "] * 2
        first.stop()  # and gives back what it has
        until(lambda: greeting(second.port, stack)[:4] == b"220 ", what="room")
        server.peer.pause()
        try:
            assert greeting(second.port, stack)[:4] == b"220 "
        finally:
            server.peer.resume()
        until(lambda: second.count("clients are counted in each process alone"), what="a line")
