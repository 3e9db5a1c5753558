"""Pauses between deliveries, and what is leased meanwhile; by a clock that is moved by hand."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from smtpgw.courier import CourierOptions
from smtpgw.delivery.limits import LimitTable, ServiceLimits
from smtpgw.delivery.outcome import Destination
from smtpgw.delivery.paces import WAITING, NoTurn, Paces
from smtpgw.delivery.windows import WindowOptions, Windows
from smtpgw.dsn.report import DsnOptions
from smtpgw.queue import schema, turns
from smtpgw.queue.schedule import ScheduleOptions
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Wish
from smtpgw.shares import AHEAD, Shares
from tests.delivery.peer import Peer, Road, listening, road
from tests.queue.support import START, FakeClock, message, run, until
from tests.scale.fill import Plan, fill

ONE = WindowOptions(initial_destination_concurrency=1, limit=1)
SLOW = Destination("lmtp", "unix:/x", "slow")


def paces(clock: FakeClock, *, destination: float = 0.0, transport: float = 0.0) -> Paces:
    def of(delay: float, name: str) -> float:
        return delay if name == "slow" else 0.0

    return Paces(
        lambda name: of(destination, name),
        lambda name: of(transport, name),
        clock=clock.wall,
        poll=0.001,
        freed=lambda: None,
    )


async def takes_a_turn(found: Paces, where: Destination, done: list[str]) -> None:
    async with found.turn(where):
        done.append(str(where))


@pytest.mark.parametrize("whole", [False, True], ids=["destination", "transport"])
def test_the_next_one_begins_when_the_pause_after_the_last_is_over(whole: bool) -> None:
    async def scenario() -> None:
        clock, done = FakeClock(), list[str]()
        found = paces(clock, **{"transport" if whole else "destination": 10.0})
        other = Destination("lmtp", "unix:/y", "slow")
        await takes_a_turn(found, SLOW, done)
        second = asyncio.ensure_future(takes_a_turn(found, SLOW, done))
        third = asyncio.ensure_future(takes_a_turn(found, other, done))
        await takes_a_turn(found, Destination("lmtp", "unix:/x"), done)
        if not whole:
            await third
        before = len(done)
        clock.go(9.9)
        await asyncio.sleep(0.02)
        assert len(done) == before, "before its time"
        assert found.paused(clock.wall()) != []
        clock.go(0.2)
        await second
        assert third.done() is not whole
        clock.go(10.1)
        await third
        clock.go(10.1)
        assert (found.paused(clock.wall()), len(found)) == ([], 0)

    run(scenario())


def test_only_some_wait_for_a_turn() -> None:
    async def scenario() -> None:
        found, done = paces(FakeClock(), destination=10.0), list[str]()
        await takes_a_turn(found, SLOW, done)
        # One of them has the turn and waits for its time.
        waiting = [
            asyncio.ensure_future(takes_a_turn(found, SLOW, done)) for _ in range(WAITING + 1)
        ]
        await asyncio.sleep(0)
        with pytest.raises(NoTurn, match="pauses of 10 s"):
            await takes_a_turn(found, SLOW, done)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert len(done) == 1

    run(scenario())


def test_no_more_is_wished_for_than_has_its_turn() -> None:
    async def scenario() -> None:
        clock = FakeClock()
        now = clock.wall()
        for whole in (False, True):
            found = paces(clock, **{"transport" if whole else "destination": 10.0})
            shares = Shares(Windows(), ScheduleOptions(), 500, found, {"slow", "smtp"})
            wish = shares.wish(now, 0)
            assert wish.each_of["smtp"] == wish.each == Windows().start() * AHEAD
            assert (wish.together if whole else wish.each_of)["slow"] == 1
            shares.begin("slow:a")
            wish = shares.wish(now, 0)
            assert (wish.together["slow"] if whole else wish.room["slow:a"]) == 0
            shares.end("slow:a")
            await takes_a_turn(found, Destination("lmtp", "a", "slow"), [])
            wish = shares.wish(now, 0)
            assert (wish.together["slow"] if whole else wish.room["slow:a"]) == 0
            wish = shares.wish(now + 11, 0)
            assert (wish.together["slow"] if whole else wish.each_of["slow"]) == 1

    run(scenario())


def test_destinations_of_a_transport_that_pauses_stand_in_nobodys_way(tmp_path: Path) -> None:
    """However many of them have waited for longer."""
    fill(tmp_path, Plan(400, START - 1000, 400, 400, held=1000, site="slow:{}"))
    fill(tmp_path, Plan(20, START, 1, 1, held=1000, site="smtp:{}"))
    db = schema.connect(tmp_path / "queue.db", busy_timeout=1.0)
    for together, most in ((0, 0), (1, 1), (3, 3)):
        wish = Wish(each=20, together={"slow": together})
        sites = [str(row) for row in turns.choose(db, START + 400, 50, wish)]
        assert sum("slow:" in each for each in sites) == most, sites
        assert together or sum("smtp:" in each for each in sites) == 5, "all that are new"
    db.close()


def _options(limits: ServiceLimits) -> CourierOptions:
    table = LimitTable(services={"lmtp": limits})
    return CourierOptions(table, pause=0.01, dsn=DsnOptions("gw.example"))


async def _has(way: Road, peer: Peer, count: int) -> None:
    await until(lambda: len(peer.messages) == count and not way.courier.active)


@pytest.mark.parametrize("whole", [False, True], ids=["destination", "transport"])
def test_what_has_to_wait_is_not_leased_and_hurts_nobody_else(tmp_path: Path, whole: bool) -> None:
    """A hundred mails for a slow destination, one for another: that one goes at once."""

    async def scenario() -> None:
        slow, delay = Peer(), 60.0
        limits = ServiceLimits(
            windows=ONE,
            destination_rate_delay=0.0 if whole else delay,
            transport_rate_delay=delay if whole else 0.0,
        )
        async with listening(slow) as where:
            others = {"fast.example": Destination("maildir", str(tmp_path / "mail"))}
            async with road(tmp_path, where, others, options=_options(limits)) as way:
                for number in range(100):
                    await way.accept(message(b"%d\r\n" % number))
                await _has(way, slow, 1)
                await way.accept(message(rcpts=(b"u@fast.example",)))
                await until(lambda: ("maildir", "delivered") in way.seen)
                counts = await way.store.counts()
                assert (len(slow.messages), counts[MailState.INCOMING]) == (1, 99)
                for number in range(2, 5):
                    way.clock.go(delay - 1)
                    await asyncio.sleep(0.1)
                    assert len(slow.messages) == number - 1
                    way.clock.go(1.1)
                    await _has(way, slow, number)

    run(scenario())


def test_of_mails_for_several_only_some_wait_for_a_turn(tmp_path: Path) -> None:
    """The others are put off, and what is left of them waits in the queue for its turn."""

    async def scenario() -> None:
        slow = Peer()
        limits = ServiceLimits(windows=ONE, destination_rate_delay=60.0)
        async with listening(slow) as where:
            others = {"fast.example": Destination("maildir", str(tmp_path / "mail"))}
            async with road(tmp_path, where, others, options=_options(limits)) as way:
                both = (b"u@example.net", b"u@fast.example")
                for _ in range(30):
                    await way.accept(message(rcpts=both))
                await until(lambda: way.seen.count(("maildir", "delivered")) == 30)
                await until(lambda: way.courier.active <= WAITING + 1)
                assert len(slow.messages) == 1
                assert way.seen.count(("lmtp", "deferred")) == 30 - WAITING - 2
                waiting = (await way.store.counts())[MailState.DEFERRED]
                assert waiting == 30 - WAITING - 2
                assert await way.courier.drain(0) == WAITING + 1

    run(scenario())


def test_a_transports_own_limits_hold(tmp_path: Path) -> None:
    async def scenario() -> None:
        peer = Peer()
        limits = ServiceLimits(windows=WindowOptions(5, 2), recipient_limit=3)
        async with listening(peer) as where, road(tmp_path, where, options=_options(limits)) as way:
            rcpts = tuple(b"u%d@example.net" % each for each in range(8))
            await way.accept(message(rcpts=rcpts))
            await way.wait_empty()
            verbs = [each for each in peer.verbs() if each in ("RCPT", "DATA")]
            assert verbs.count("RCPT") == 8
            assert (len(peer.messages), peer.connections <= 2) == (3, True)

    run(scenario())
