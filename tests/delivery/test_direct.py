"""From the commit straight to the delivery: who may, and who waits."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from smtpgw.courier import CourierOptions
from smtpgw.delivery.limits import LimitTable, ServiceLimits
from smtpgw.delivery.outcome import Destination
from smtpgw.delivery.windows import WindowOptions
from smtpgw.dsn.report import DsnOptions
from smtpgw.queue import committer
from smtpgw.queue.manager import ManagerOptions
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Filter
from tests.delivery.peer import STALL, Peer, Road, listening, road
from tests.delivery.roads import routes
from tests.queue.support import message, new, run, until


def _options(limit: int = 20) -> CourierOptions:
    limits = LimitTable(ServiceLimits(WindowOptions(1, limit)))
    return CourierOptions(limits=limits, pause=0.01, dsn=DsnOptions("gw.example"))


async def _caught_up(way: Road) -> None:
    assert way.store.room(0)
    await until(lambda: way.courier.direct.take("", 0) is not None)
    way.courier.direct.miss("", 0)


def test_new_mail_is_neither_leased_nor_read_nor_routed_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        peer = Peer()

        async def nowhere(*_: object) -> Any:
            raise AssertionError

        async with listening(peer) as where, road(tmp_path, where, route=nowhere) as way:
            await _caught_up(way)
            way.store.content = nowhere  # type: ignore[method-assign]
            for number in range(30):
                await way.accept(message(rcpts=(b"u%d@example.net" % number, b"v@example.net")))
            await way.wait_empty()
            assert len(peer.messages) == 30
            assert way.seen == [("lmtp", "delivered")] * 60

    run(scenario())


def test_mail_that_is_there_before_it_does_not_wait_for_it(tmp_path: Path) -> None:
    """A destination that takes nothing has its share; all that comes after has its turn."""

    async def scenario() -> None:
        slow = Peer({"DOT": [STALL, b"250 2.0.0 ok\r\n"]})
        limits = ManagerOptions(poll=0.02, lease_time=0.3)
        async with (
            listening(slow) as where,
            road(tmp_path, where, options=_options(1), manager_options=limits) as way,
        ):
            await _caught_up(way)
            for number in range(12):
                await way.accept(message(b"%02d\r\n" % number))
            states = {each.state for each in await way.store.list(Filter())}
            assert states == {MailState.ACTIVE, MailState.INCOMING}
            assert way.courier.direct.take(str(where), 0) is None
            await until(lambda: len(way.seen) >= 12)
            order = [each.split(b"\r\n\r\n")[1][:2] for each in slow.messages]
            assert list(dict.fromkeys(order)) == sorted(set(order))

    run(scenario())


@pytest.mark.parametrize("why", ["older mail", "stopped", "half of all", "octets"])
def test_who_waits(tmp_path: Path, why: str) -> None:
    async def scenario() -> None:
        peer = Peer({"DOT": STALL})
        active = ManagerOptions(poll=0.02, qmgr_message_active_limit=8)
        async with listening(peer) as where, road(tmp_path, where, manager_options=active) as way:
            await _caught_up(way)
            direct = way.courier.direct
            match why:
                case "older mail":  # the look before this one filled what there was room for
                    await way.store.add(*[new(way.store, message()) for _ in range(9)])
                    way.intake.wake()
                    await until(lambda: way.courier.active)
                case "stopped":
                    await way.courier.drain(1)
                case "half of all":
                    for _ in range(4):
                        assert direct.take("", 0) is not None
                case "octets":
                    assert direct.take("", 8 * 1024 * 1024) is not None
            assert direct.take(str(where), 1) is None
            if why == "half of all":
                direct.miss("", 0)
                assert direct.take(str(where), 1) is not None
                direct.miss(str(where), 1)
            for _ in range({"half of all": 3, "octets": 1}.get(why, 0)):
                direct.miss("", 0)
            await way.courier.drain(0)  # the peer never answers

    run(scenario())


def test_what_a_crash_would_deliver_twice_has_a_place_of_those_in_delivery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long what was delivered waits for a commit to share.  A look of the manager's is one,
    and asks for leases meanwhile, so it looks once."""

    async def scenario() -> None:
        monkeypatch.setattr(committer, "PATIENCE", 600.0)
        peer = Peer()
        active = ManagerOptions(poll=600, qmgr_message_active_limit=8)
        async with listening(peer) as where, road(tmp_path, where, manager_options=active) as way:
            await _caught_up(way)
            await asyncio.gather(*(way.accept(message()) for _ in range(3)))
            await until(lambda: len(way.seen) == 3)
            assert way.courier.active == len(await way.store.list(Filter())) == 3
            assert way.courier.direct.take(str(where), 1) is not None
            assert way.courier.direct.take(str(where), 1) is None
            way.courier.direct.miss(str(where), 1)
            monkeypatch.setattr(committer, "PATIENCE", 0.01)
            await way.accept(message())
            await way.wait_empty()
            await until(lambda: not way.courier.active)

    run(scenario())


def test_what_was_delivered_waits_for_no_company_where_its_room_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(committer, "PATIENCE", 20.0)
        peer = Peer()
        active = ManagerOptions(poll=0.02, qmgr_message_active_limit=2)
        async with listening(peer) as where, road(tmp_path, where, manager_options=active) as way:
            await way.store.add(*[new(way.store, message()) for _ in range(9)])
            way.intake.wake()
            await way.wait_empty()
            await until(lambda: not way.courier.active)
            assert len(way.seen) == 9

    run(scenario())


def test_leases_that_are_asked_for_find_room_beside_it(tmp_path: Path) -> None:
    """Not that nothing else may begin meanwhile: they are many, and hardly any is given."""

    async def scenario() -> None:
        active = ManagerOptions(poll=0.02, qmgr_message_active_limit=8)
        async with listening(Peer()) as where, road(tmp_path, where, manager_options=active) as way:
            await _caught_up(way)
            direct = way.courier.direct
            direct._manager.asking = 6
            taken = [direct.take("", 0) is not None for _ in range(3)]
            assert taken == [True, True, False]
            direct._manager.asking = 0
            for _ in range(2):
                direct.miss("", 0)

    run(scenario())


def test_a_pace_is_kept(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = LimitTable(services={"lmtp": ServiceLimits(destination_rate_delay=1.0)})
        options = CourierOptions(limits=limits, dsn=DsnOptions("gw.example"))
        async with listening(Peer()) as where, road(tmp_path, where, options=options) as way:
            await _caught_up(way)
            assert way.courier.direct.take(str(where), 0) is None
            assert way.courier.direct.take("maildir:/somewhere", 0) is not None
            way.courier.direct.miss("maildir:/somewhere", 0)

    run(scenario())


def test_a_stop_keeps_what_was_promised(tmp_path: Path) -> None:
    """Mail that is being committed when the courier is told to stop is delivered all the same."""

    async def scenario() -> None:
        peer = Peer()
        async with listening(peer) as where, road(tmp_path, where) as way:
            await _caught_up(way)
            coming = [asyncio.ensure_future(way.accept(message())) for _ in range(9)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert await way.courier.drain(5) == 0
            await asyncio.gather(*coming)
            assert {each.state for each in await way.store.list(Filter())} <= {MailState.INCOMING}
            assert len(peer.messages) + len(await way.store.list(Filter())) == 9

    run(scenario())


def test_a_reply_to_a_notice_goes_nowhere_all_the_same(tmp_path: Path) -> None:
    async def scenario() -> None:
        peer = Peer()
        async with listening(peer) as where, road(tmp_path, where) as way:
            await _caught_up(way)
            await way.accept(message(rcpts=(b"Double-Bounce@gw.example",)))
            await way.wait_empty()
            assert way.seen == [("discard", "delivered")]
            assert not peer.messages

    run(scenario())


def test_parts_of_a_mail_for_many_stay_as_small_as_they_must(tmp_path: Path) -> None:
    async def scenario() -> None:
        limits = LimitTable(ServiceLimits(recipient_limit=2))
        options = CourierOptions(limits=limits, dsn=DsnOptions("gw.example"))
        peer = Peer()
        async with listening(peer) as where, road(tmp_path, where, options=options) as way:
            await _caught_up(way)
            await way.accept(message(rcpts=tuple(b"%d@example.net" % n for n in range(5))))
            await way.wait_empty()
            assert len(peer.messages) == 3

    run(scenario())


def test_one_name_for_two_destinations_is_looked_up_again() -> None:
    table = routes(Destination("lmtp", "unix:/x"))
    here, there = Destination("lmtp", "a"), Destination("smtp", "a", "lmtp")
    assert str(here) == str(there)
    table._remember("lmtp:a", here)
    assert table.known("lmtp:a") == here
    table._remember("lmtp:a", there)
    assert table.known("lmtp:a") is None
    assert table.known("lmtp:b") is None
