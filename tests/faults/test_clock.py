"""Clocks that jump (F21): nothing is bounced for it, nothing tried in a storm, no id given twice.

By the clock that is handed in: a jump while the gateway runs, and one between two runs.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from smtpgw.queue.states import MailState
from smtpgw.queue.store import Filter
from tests.delivery.peer import Peer, Road, listening, road
from tests.queue.support import START, FakeClock, message, run, until

HOUR = 3600.0
JUMPS = {
    "to 1970": -START,
    "a year on": 365 * 24 * HOUR,
    "an hour on": HOUR,
    "an hour back": -HOUR,
    "a leap second": -1.0,
    "a leap second left out": 1.0,
}
MAILS = 12


def _at(jump: str, clock: FakeClock) -> None:
    clock.wall_time += JUMPS[jump]


async def _settled(way: Road) -> None:
    """Until whatever is due has been tried, and the queue has been looked at since."""
    for _ in range(5):
        await until(lambda: not way.courier.active)
        await asyncio.sleep(0.03)


async def _accept(way: Road, count: int) -> list[str]:
    return [await way.accept(message(rcpts=(b"u%d@x" % number,))) for number in range(count)]


@pytest.mark.parametrize("jump", JUMPS)
def test_while_it_runs(tmp_path: Path, jump: str) -> None:
    async def scenario() -> None:
        peer = Peer({"DOT": b"451 4.3.0 later\r\n"})
        async with listening(peer) as where, road(tmp_path, where) as way:
            ids = await _accept(way, MAILS)
            await until(lambda: len(peer.messages) == MAILS)
            _at(jump, way.clock)
            await _settled(way)
            assert len(peer.messages) == MAILS, "tried again for no reason"
            ids += await _accept(way, MAILS)
            await until(lambda: len(peer.messages) == 2 * MAILS)
            assert len(set(ids)) == 2 * MAILS
            assert ids == sorted(ids), "younger mail has higher ids"
            await _settled(way)
            way.clock.go(400)
            await until(lambda: len(peer.messages) == 4 * MAILS)
            await _settled(way)
            assert len(peer.messages) == 4 * MAILS, "more than one attempt was due"
            await _all_deferred(way, 2 * MAILS)

    run(scenario())


@pytest.mark.parametrize("jump", JUMPS)
def test_between_two_runs(tmp_path: Path, jump: str) -> None:
    async def scenario() -> None:
        peer, clock = Peer({"DOT": b"451 4.3.0 later\r\n"}), FakeClock()
        async with listening(peer) as where:
            async with road(tmp_path, where, clock=clock) as way:
                ids = await _accept(way, MAILS)
                await until(lambda: len(peer.messages) == MAILS)
                await _settled(way)
            _at(jump, clock)
            async with road(tmp_path, where, clock=clock) as way:
                await _settled(way)
                assert len(peer.messages) <= 2 * MAILS, "a start is a storm"
                ids += await _accept(way, MAILS)
                assert len(set(ids)) == 2 * MAILS
                assert ids == sorted(ids)
                await _settled(way)
                clock.go(400)
                await until(lambda: len(peer.messages) >= 4 * MAILS - MAILS)
                await _settled(way)
                assert len(peer.messages) <= 4 * MAILS
                await _all_deferred(way, 2 * MAILS)

    run(scenario())


async def _all_deferred(way: Road, count: int) -> None:
    """All are there, and nobody was told anything."""
    mails = await way.store.list(Filter())
    assert len(mails) == count
    assert {each.state for each in mails} == {MailState.DEFERRED}
    assert not any(each.sender == b"" for each in mails)


def test_the_dates_are_what_they_seem() -> None:
    """The jump to 1970 is one."""
    assert datetime.fromtimestamp(START + JUMPS["to 1970"], UTC).year == 1970
