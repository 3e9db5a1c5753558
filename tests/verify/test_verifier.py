"""Asking: one probe at a time for an address, a bound on all, answers within the polls."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from milterd.base import logs
from smtpgw.stores.shared import StoreDown
from smtpgw.verify.cache import Cache
from smtpgw.verify.rules import Entry, Status, VerifyOptions
from smtpgw.verify.sender import ProbeSender
from smtpgw.verify.verifier import Polls, Verifier, VerifierOptions
from tests.greylist.test_store import broken
from tests.loop import in_loop

PATIENT = Polls(3, 30.0)
AT_ONCE = Polls(1, 3.0)


class Probes:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self.answer = Entry(Status.OK, enhanced="2.1.5", text="fine")
        self.go = asyncio.Event()
        self.begun = asyncio.Event()
        self.most = self.now = 0

    async def probe(self, address: bytes) -> Entry:
        self.asked.append(address)
        self.now += 1
        self.most = max(self.most, self.now)
        self.begun.set()
        try:
            await self.go.wait()
        finally:
            self.now -= 1
        return self.answer


class World:
    def __init__(self, directory: Path, options: VerifyOptions | None = None) -> None:
        self.now, self.path, self.options = (
            1_000_000.0,
            str(directory / "verify.sqlite"),
            options or VerifyOptions(),
        )
        self.probes = Probes()

    def cache(self) -> Cache:
        return Cache(self.path, self.options, lambda: self.now)

    def verifier(self, probes: int = 100) -> Verifier:
        return Verifier(
            self.cache(), self.probes, log=logs.get("verify"), options=VerifierOptions(probes)
        )


@in_loop
async def test_the_first_answer_comes_as_soon_as_the_probe_has_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.probes.go.set()
    verifier = world.verifier()
    found = await verifier.verify(b"u@Example.NET", PATIENT)
    assert (found.status, found.text) == (Status.OK, "fine")
    assert (await verifier.verify(b"u@example.net", AT_ONCE)).status is Status.OK
    assert world.probes.asked == [b"u@Example.NET"]
    await verifier.close()


@in_loop
async def test_with_one_poll_the_first_is_unknown_and_the_second_known(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.probes.answer = Entry(Status.BOUNCED, enhanced="5.1.1", text="no such user")
    verifier = world.verifier()
    first = await verifier.verify(b"u@example.net", AT_ONCE)
    assert (first.status, first.text) == (Status.UNKNOWN, "Address verification in progress")
    await world.probes.begun.wait()
    world.probes.go.set()
    second = await verifier.verify(b"u@example.net", PATIENT)
    assert (second.status, second.enhanced) == (Status.BOUNCED, "5.1.1")
    await verifier.close()


@in_loop
async def test_many_who_ask_make_one_probe_among_all_workers(tmp_path: Path) -> None:
    world = World(tmp_path)
    one, other = world.verifier(), world.verifier()
    asking = [
        asyncio.ensure_future(each.verify(b"u@example.net", Polls(100, 0.05)))
        for each in (one, other) * 10
    ]
    await world.probes.begun.wait()
    world.probes.go.set()
    found = await asyncio.gather(*asking)
    assert {each.status for each in found} == {Status.OK}
    assert len(world.probes.asked) == 1
    await asyncio.gather(one.close(), other.close())


@in_loop
async def test_probes_are_bounded_and_who_found_no_room_may_ask_again(tmp_path: Path) -> None:
    world = World(tmp_path)
    verifier = world.verifier(probes=3)
    for number in range(10):
        await verifier.verify(b"u%d@example.net" % number, AT_ONCE)
    await world.probes.begun.wait()
    assert world.probes.most == 3
    world.probes.go.set()
    assert (await verifier.verify(b"u0@example.net", PATIENT)).status is Status.OK
    assert (await verifier.verify(b"u9@example.net", PATIENT)).status is Status.OK
    await verifier.close()


@in_loop
async def test_a_stale_answer_serves_while_it_is_refreshed(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.probes.go.set()
    verifier = world.verifier()
    await verifier.verify(b"u@example.net", PATIENT)
    world.now += 8 * 86400.0
    world.probes.go.clear()
    world.probes.begun.clear()
    world.probes.answer = Entry(Status.UNREACHABLE, text="down")
    assert (await verifier.verify(b"u@example.net", AT_ONCE)).status is Status.OK
    await world.probes.begun.wait()
    world.probes.go.set()
    assert (await verifier.verify(b"u@example.net", PATIENT)).status is Status.OK
    assert len(world.probes.asked) == 2
    await verifier.close()


@in_loop
async def test_our_own_fault_is_a_deferral(tmp_path: Path) -> None:
    world = World(tmp_path)

    class Broken:
        async def probe(self, address: bytes) -> Entry:
            raise RuntimeError(address)

    verifier = Verifier(world.cache(), Broken(), log=logs.get("verify"))
    found = await verifier.verify(b"u@example.net", PATIENT)
    assert (found.status, found.text) == (Status.DEFERRED, "internal error")
    await verifier.close()


@in_loop
async def test_a_probe_that_was_broken_off_may_be_made_by_the_next(tmp_path: Path) -> None:
    world = World(tmp_path)
    verifier = world.verifier()
    await verifier.verify(b"u@example.net", AT_ONCE)
    await world.probes.begun.wait()
    await verifier.close()
    world.probes.go.set()
    again = world.verifier()
    assert (await again.verify(b"u@example.net", PATIENT)).status is Status.OK
    await again.close()


@in_loop
async def test_a_broken_cache_probes_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    broken(world.path)
    verifier = world.verifier()
    with pytest.raises(StoreDown):
        await verifier.verify(b"u@example.net", PATIENT)
    assert world.probes.asked == []
    await verifier.close()


@in_loop
async def test_the_cache_is_cleaned(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.probes.go.set()
    verifier = world.verifier()
    await verifier.verify(b"u@example.net", PATIENT)
    world.probes.answer = Entry(Status.BOUNCED)
    await verifier.verify(b"v@example.net", PATIENT)
    world.now += 3 * 86400.0 + 1
    assert await verifier.cache.clean() == 1
    world.now += 30 * 86400.0
    assert await verifier.cache.clean() == 1
    assert await verifier.cache.clean() == 0
    await verifier.close()


def test_a_sender_with_a_time_to_live() -> None:
    sender = ProbeSender(b"double-bounce@example.org", 3600.0)
    now = 1_700_000_000.0
    mine = sender.at(now)
    assert mine != sender.address
    assert mine.endswith(b"@example.org")
    assert sender.knows(mine.upper(), now)
    assert sender.knows(mine, now + 3600)
    assert not sender.knows(mine, now + 3 * 3600)
    assert not sender.knows(sender.address, now)
    assert ProbeSender(b"d@e", 0).knows(b"D@E", now)
    assert ProbeSender(b"", 0).at(now) == b""
    assert not ProbeSender(b"", 0).knows(b"", now)
