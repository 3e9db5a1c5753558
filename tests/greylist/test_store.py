"""The store: shared by workers, bounded, cleaned, and StoreDown when it is broken."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from smtpgw.greylist.keys import Triplet
from smtpgw.greylist.rules import GreylistOptions
from smtpgw.greylist.store import GreylistStore
from smtpgw.stores.shared import StoreDown
from tests.loop import in_loop

OPTIONS = GreylistOptions(delay=60, window=1000, lifetime=10_000, allow_after=3)


class World:
    """A file and the time."""

    def __init__(self, directory: Path) -> None:
        self.path, self.now = str(directory / "greylist.sqlite"), 1_000_000.0

    def store(self, options: GreylistOptions = OPTIONS, patience: float = 5.0) -> GreylistStore:
        return GreylistStore(self.path, options, lambda: self.now, patience)


def broken(path: str) -> None:
    """Make a file that is no database."""
    Path(path).write_bytes(b"this is no database, and never was one" * 100)


def remove(path: str) -> None:
    """Take it away."""
    Path(path).unlink()


def of(number: int, network: str = "192.0.2.0/24") -> Triplet:
    return Triplet(network, f"s{number}@example.org", "u@example.net")


@in_loop
async def test_two_workers_know_the_same(tmp_path: Path) -> None:
    world = World(tmp_path)
    one, other = world.store(), world.store()
    assert (await one.check(of(1))).reason == "new"
    assert (await other.check(of(1))).reason == "early"
    world.now += 60
    verdict = await other.check(of(1))
    assert (verdict.reason, verdict.delayed) == ("passed", 60.0)
    assert (await one.check(of(1))).reason == "known"
    await asyncio.gather(one.close(), other.close())
    again = world.store()
    assert (await again.check(of(1))).reason == "known"
    await again.close()


@in_loop
async def test_a_network_whose_mail_came_again_waits_no_more(tmp_path: Path) -> None:
    world = World(tmp_path)
    store = world.store()
    for each in range(3):
        await store.check(of(each))
    world.now += 60
    for each in range(3):
        assert (await store.check(of(each))).reason == "passed"
    assert (await store.check(of(9))).reason == "network"
    assert (await store.check(of(9, "198.51.100.0/24"))).reason == "new"
    await store.close()


@in_loop
async def test_what_has_run_out_is_forgotten_and_the_rest_is_kept(tmp_path: Path) -> None:
    world = World(tmp_path)
    store = world.store()
    await store.check(of(1))
    await store.check(of(2))
    world.now += 60
    await store.check(of(2))
    world.now += 1001
    assert await store.clean() == 1
    assert [each.triplet for each in await store.triplets(10)] == [of(2)]
    world.now += 10_001
    assert await store.clean() == 2
    assert await store.triplets(10) == []
    assert await store.networks(10) == []
    await store.close()


@in_loop
async def test_there_are_never_many_more_than_allowed(tmp_path: Path) -> None:
    world = World(tmp_path)
    store = world.store(GreylistOptions(entries=100))
    for each in range(500):
        world.now += 0.001
        await store.check(of(each))
    assert len(await store.triplets(1000)) <= 110
    assert (await store.check(of(499))).reason == "early"
    await store.close()


@in_loop
async def test_what_a_postmaster_does(tmp_path: Path) -> None:
    world = World(tmp_path)
    store = world.store()
    await store.check(of(1))
    await store.check(of(2))
    await store.allow("198.51.100.0/24")
    world.now += 10**9
    assert (await store.check(of(1, "198.51.100.0/24"))).reason == "network"
    assert await store.remove(network=None, sender="s1@example.org", recipient=None) == 1
    assert await store.remove(network="198.51.100.0/24", sender=None, recipient=None) == 1
    assert (await store.check(of(1, "198.51.100.0/24"))).reason == "new"
    await store.close()


@in_loop
async def test_a_broken_file_is_told_of_and_used_again_once_it_is_away(tmp_path: Path) -> None:
    world = World(tmp_path)
    broken(world.path)
    store = world.store()
    with pytest.raises(StoreDown, match="not a database"):
        await store.check(of(1))
    remove(world.path)
    assert (await store.check(of(1))).reason == "new"
    await store.close()


@in_loop
async def test_a_locked_file_is_waited_for_a_bounded_time(tmp_path: Path) -> None:
    world = World(tmp_path)
    store = world.store(patience=0.2)
    await store.check(of(1))
    other = sqlite3.connect(world.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreDown):
        await store.check(of(1))
    other.execute("ROLLBACK")
    other.close()
    assert (await store.check(of(1))).reason == "early"
    await store.close()


@in_loop
async def test_a_closed_store_is_down(tmp_path: Path) -> None:
    store = World(tmp_path).store()
    await store.close()
    with pytest.raises(StoreDown):
        await store.check(of(1))
