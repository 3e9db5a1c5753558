"""Throttles: no key ever has more than its limit in a window, and waits no longer than that."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpgw.greylist.throttle import (
    Asked,
    Count,
    SharedCounters,
    ThrottleOptions,
    Throttles,
    step,
    used,
)
from smtpgw.stores.shared import StoreDown
from tests.greylist.test_store import broken
from tests.loop import in_loop

PER = 100.0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(0, 130), min_size=1, max_size=60), st.integers(1, 9))
def test_a_window_of_its_own_never_holds_more_than_the_limit(
    steps: list[float], limit: int
) -> None:
    now, count, taken = 0.0, None, []
    for each in steps:
        now += each
        count = step(count, now, PER)
        if used(count, now, PER) + 1 <= limit:
            count = Count(count.began, count.used + 1, count.before)
            taken.append(now)
        held = count
        assert held.used <= limit
        assert len([when for when in taken if held.began <= when <= now]) <= limit


def test_who_is_silent_for_two_windows_has_all_of_it_again() -> None:
    assert step(Count(0.0, 9.0, 9.0), 200.0, PER) == Count(200.0, 0.0)


def test_a_clock_that_was_set_back_begins_anew() -> None:
    assert step(Count(1000.0, 9.0), 10.0, PER) == Count(10.0, 0.0)


def test_what_was_before_counts_for_its_share() -> None:
    count = step(Count(0.0, 8.0), 125.0, PER)
    assert count == Count(100.0, 0.0, 8.0)
    assert used(count, 125.0, PER) == 6.0


class World:
    def __init__(self, directory: Path) -> None:
        self.path, self.now = str(directory / "throttle.sqlite"), 1_000_000.0

    def throttles(self, entries: int = 1000) -> Throttles:
        return Throttles(SharedCounters(self.path, lambda: self.now, entries=entries))


def asked(transaction: str = "", size: int = 0, **keys: str) -> Asked:
    return Asked(keys, transaction, size)


@in_loop
async def test_two_workers_count_together(tmp_path: Path) -> None:
    world = World(tmp_path)
    one, other = world.throttles(), world.throttles()
    limit = ThrottleOptions("t", "sender", 3, PER)
    found = [
        (await each.check(limit, asked(str(number), sender="a@x"))).over
        for number, each in enumerate((one, other, one, other))
    ]
    assert found == [False, False, False, True]
    assert not (await one.check(limit, asked("9", sender="b@x"))).over
    world.now += 201
    assert not (await other.check(limit, asked("5", sender="a@x"))).over
    await asyncio.gather(one.close(), other.close())


@in_loop
async def test_a_mail_counts_once_whatever_its_recipients(tmp_path: Path) -> None:
    throttles = World(tmp_path).throttles()
    limit = ThrottleOptions("t", "client", 2, PER)
    for _ in range(10):
        assert not (await throttles.check(limit, asked("m1", client="192.0.2.1"))).over
    assert not (await throttles.check(limit, asked("m2", client="192.0.2.1"))).over
    assert (await throttles.check(limit, asked("m3", client="192.0.2.1"))).over
    assert (await throttles.check(limit, asked("m3", client="192.0.2.1"))).over
    await throttles.close()


@in_loop
async def test_units(tmp_path: Path) -> None:
    throttles = World(tmp_path).throttles()
    each = ThrottleOptions("r", "client", 2, PER, "recipients")
    found = [(await throttles.check(each, asked("m", client="c"))).over for _ in range(3)]
    assert found == [False, False, True]
    octets = ThrottleOptions("o", "client", 1000, PER, "octets")
    assert not (await throttles.check(octets, asked("1", 600, client="c"))).over
    assert (await throttles.check(octets, asked("2", 600, client="c"))).over
    assert not (await throttles.check(octets, asked("3", 400, client="c"))).over
    await throttles.close()


@in_loop
async def test_what_has_no_such_key_is_not_limited(tmp_path: Path) -> None:
    throttles = World(tmp_path).throttles()
    limit = ThrottleOptions("t", "sasl_user", 1, PER)
    for _ in range(5):
        assert not (await throttles.check(limit, asked(client="c"))).over
    await throttles.close()


@in_loop
async def test_a_broken_file(tmp_path: Path) -> None:
    world = World(tmp_path)
    broken(world.path)
    throttles = world.throttles()
    with pytest.raises(StoreDown):
        await throttles.check(ThrottleOptions("t", "client", 1), asked(client="c"))
    await throttles.close()


@in_loop
async def test_counts_are_bounded(tmp_path: Path) -> None:
    world = World(tmp_path)
    counters = SharedCounters(world.path, lambda: world.now, entries=50)
    for each in range(300):
        world.now += 0.001
        await counters.take(ThrottleOptions("t", "client", 9), str(each), 1.0)
    count = await counters._shared.read(
        lambda db: db.execute("SELECT count(*) FROM counts").fetchone()
    )
    assert count[0] <= 60
    await counters.close()
