"""Whose mail comes next: nobody's waits for all of another's."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from smtpgw.queue.sqlite import SqliteOptions, SqliteStore
from smtpgw.queue.states import MailState, RecipientEvent
from smtpgw.queue.store import Filter, Lease, Rest, Result, Settlement, Tried, Wish
from smtpgw.queue.tools import QueueTool
from tests.queue.support import (
    START,
    FakeClock,
    make_first_version,
    message,
    new,
    opened,
    run,
)


async def _add(
    store: SqliteStore, site: str, sender: bytes = b"a@example.com", at: float = START
) -> str:
    item = replace(new(store, message(sender=sender), at=at), site=site)
    await store.add(item)
    return item.queue_id


async def _defer(store: SqliteStore, lease: Lease, due: float, site: str | None = None) -> None:
    later = Result(0, RecipientEvent.DEFER, "4.0.0", "later")
    where = lease.mail.site if site is None else site
    end = Settlement(lease.mail.queue_id, lease.token, START, (later,), due, site=where)
    await store.settle(end)


def _sites(leases: list[Lease]) -> list[str]:
    return [each.mail.site for each in leases]


def _consistent(directory: Path) -> None:
    """Every mail that waits stands in a flow, every flow and lane has its mails, every turn
    comes no later than the mail inside is due, if nothing was served and no site rests."""
    db = sqlite3.connect(directory / "queue.db")
    wrong = {
        "waits in no flow": "SELECT id FROM mail WHERE state IN (0,2) AND flow IS NULL",
        "stands in a flow": "SELECT id FROM mail WHERE state NOT IN (0,2) AND flow IS NOT NULL",
        "flow that is none": "SELECT id FROM mail WHERE flow IS NOT NULL"
        " AND flow NOT IN (SELECT id FROM flow)",
        "empty flow": "SELECT id FROM flow WHERE id NOT IN"
        " (SELECT flow FROM mail WHERE flow IS NOT NULL)",
        "empty lane": "SELECT id FROM lane WHERE id NOT IN (SELECT lane FROM flow)",
        "flow in no lane": "SELECT id FROM flow WHERE lane NOT IN (SELECT id FROM lane)",
        "wrong site": "SELECT mail.id FROM mail JOIN flow ON flow.id=mail.flow JOIN lane"
        " ON lane.id=flow.lane WHERE lane.site<>mail.site OR flow.sender<>mail.sender"
        " OR lane.old<>(mail.state=2)",
        "flow before its mail": "SELECT id FROM flow WHERE ready<"
        "(SELECT min(due) FROM mail WHERE flow=flow.id)",
        "lane before its flows": "SELECT id FROM lane WHERE ready<"
        "(SELECT min(ready) FROM flow WHERE lane=lane.id)",
        "attempts of nobody": "SELECT mail FROM attempt WHERE mail NOT IN (SELECT seq FROM mail)",
    }
    for what, query in wrong.items():
        assert not db.execute(query).fetchall(), what
    db.close()


def test_a_site_with_many_mails_does_not_keep_another_waiting(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            await asyncio.gather(*(_add(store, "smtp:dead", at=START - 100) for _ in range(500)))
            mine = await _add(store, "smtp:live")
            first = await store.lease(START, 10, 60.0)
            assert mine in {each.mail.queue_id for each in first}
            assert _sites(first).count("smtp:dead") == 5, "the rest of the half goes to the other"
            _consistent(tmp_path / "00")

    run(scenario())


def test_a_sender_with_many_mails_does_not_keep_another_waiting(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            bulk = [_add(store, "smtp:x", b"bulk@example.com", START - 100) for _ in range(500)]
            await asyncio.gather(*bulk)
            mine = await _add(store, "smtp:x", b"me@example.com")
            first = await store.lease(START, 10, 60.0)
            assert mine in {each.mail.queue_id for each in first}

    run(scenario())


def test_sites_take_turns(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            for site in "abc":
                for _ in range(30):
                    await _add(store, site, at=START - ord(site))
            served = []
            for step in range(9):
                served += _sites(await store.lease(START + step, 1, 600.0))
            assert [sorted(served[at : at + 3]) for at in (0, 3, 6)] == [["a", "b", "c"]] * 3
            _consistent(tmp_path / "00")

    run(scenario())


def test_new_mail_gets_half_beside_a_flushed_backlog(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            for sender in range(40):
                await _add(store, "smtp:x", b"%d@example.com" % sender)
            for each in await store.lease(START, 40, 60.0):
                await _defer(store, each, START + 300)
            await store.flush(START)
            for sender in range(10):
                await _add(store, "smtp:x", b"new%d@example.com" % sender)
            leases = await store.lease(START + 1, 8, 60.0)
            fresh = [each for each in leases if each.mail.sender.startswith(b"new")]
            assert (len(fresh), len(leases)) == (4, 8)

    run(scenario())


def test_room_is_kept_and_no_site_has_no_limit(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            for site in ("full", "some", "fresh", ""):
                for _ in range(20):
                    await _add(store, site)
            wish = Wish(each=3, room={"full": 0, "some": 2})
            leases = await store.lease(START, 100, 60.0, wish)
            found = {site: _sites(leases).count(site) for site in ("full", "some", "fresh", "")}
            assert found == {"full": 0, "some": 2, "fresh": 3, "": 20}
            assert (
                await store.lease(
                    START, 100, 60.0, replace(wish, each=0, room={"some": 0, "full": -1})
                )
                == []
            )
            _consistent(tmp_path / "00")

    run(scenario())


def test_a_site_at_rest_waits_untouched_and_says_why(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            early = [await _add(store, "smtp:dead") for _ in range(3)]
            await store.rest("smtp:dead", START + 300, "connection refused")
            late = await _add(store, "smtp:dead")
            assert await store.lease(START + 299, 9, 60.0) == []
            assert await store.resting() == [Rest("smtp:dead", START + 300, "connection refused")]
            assert await store.next_due(START) == START + 300
            leases = await store.lease(START + 300, 9, 60.0)
            assert {each.mail.queue_id for each in leases} == {*early, late}
            await _defer(store, leases[0], START + 700)
            await store.rest("smtp:dead", START + 900, "still")
            await store.flush(START + 301)
            assert await store.resting() == []
            (again,) = await store.lease(START + 301, 9, 60.0)
            assert again.mail.queue_id == leases[0].mail.queue_id
            _consistent(tmp_path / "00")

    run(scenario())


def test_what_is_overdue_comes_though_its_site_rests(tmp_path: Path) -> None:
    """Or its sender would never be told."""

    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            old = await _add(store, "smtp:dead", at=START - 1000)
            null = await _add(store, "smtp:dead", b"", at=START - 1000)
            await _add(store, "smtp:dead", at=START - 100)
            await store.rest("smtp:dead", START + 300, "refused")
            wish = Wish(expired=START - 999, expired_null=START - 1001)
            assert [x.mail.queue_id for x in await store.lease(START, 9, 60.0, wish)] == [old]
            wish = Wish(expired_null=START - 999)
            (lease,) = await store.lease(START, 9, 60.0, wish)
            assert lease.mail.queue_id == null
            wish = Wish(late=START - 50)
            (lease,) = await store.lease(START, 9, 60.0, wish)
            await store.settle(
                Settlement(
                    lease.mail.queue_id, lease.token, START,
                    (Result(0, RecipientEvent.DEFER, "4.0.0", "x"),),
                    START, warned=True, site="smtp:dead",
                )
            )  # fmt: skip
            assert await store.lease(START + 1, 9, 60.0, wish) == [], "warned once"

    run(scenario())


def test_a_mail_moves_to_the_site_of_who_is_left(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            await _add(store, "")
            (lease,) = await store.lease(START, 9, 60.0)
            await _defer(store, lease, START + 10, "smtp:slow")
            (shown,) = await store.list(Filter())
            assert (shown.site, shown.state) == ("smtp:slow", MailState.DEFERRED)
            assert await store.lease(START + 10, 9, 60.0, Wish(room={"smtp:slow": 0})) == []

    run(scenario())


def test_the_history_of_attempts(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            queue_id = await _add(store, "smtp:x")
            told = Tried(START, "smtp:x", 1, "deferred", "4.2.0", "gr\xfc\xdfe", "mx", 0.25)
            for attempt in range(1, 121):
                (lease,) = await store.lease(START + attempt, 9, 60.0)
                result = Result(0, RecipientEvent.DEFER, "4.2.0", "x")
                end = Settlement(
                    queue_id, lease.token, START, (result,), START + attempt + 1, tried=(told, told)
                )
                await store.settle(end)
            history = await store.history(queue_id)
            assert [number for number, _ in history] == [n for n in range(21, 121) for _ in "12"]
            assert {each for _, each in history} == {told}
            await store.delete(queue_id)
            _consistent(tmp_path / "00")

    run(scenario())


def test_a_queue_of_the_first_version_goes_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            waiting = await _add(store, "smtp:x")
            held = replace(new(store, message(), hold="look"), site="smtp:x")
            await store.add(held)
        make_first_version(tmp_path / "00/queue.db")
        async with opened(tmp_path / "00") as store:
            _consistent(tmp_path / "00")
            (lease,) = await store.lease(START, 9, 60.0)
            assert lease.mail.queue_id == waiting
            await store.release(held.queue_id, START)
            (lease,) = await store.lease(START, 9, 60.0)
            assert lease.mail.queue_id == held.queue_id

    run(scenario())


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_the_turns_stay_consistent(tmp_path: Path, seed: int) -> None:
    """Random events; every mail is leased once at a time, and none is forgotten."""
    dice = random.Random(seed)

    async def scenario() -> None:
        clock = FakeClock()
        ids: set[str] = set()
        async with opened(tmp_path / "00", clock, SqliteOptions(queue_minfree=0)) as store:
            leases: dict[str, Lease] = {}
            for _ in range(150):
                now = clock.wall_time
                match dice.randrange(9):
                    case 0 | 1 | 2:
                        sender = dice.choice([b"", b"a@x", b"b@x"])
                        ids.add(await _add(store, dice.choice(["", "s1", "s2"]), sender, now))
                    case 3 | 4:
                        wish = Wish(each=dice.randrange(4), room={"s1": dice.randrange(-1, 3)})
                        for each in await store.lease(now, dice.randrange(1, 9), 500.0, wish):
                            assert each.mail.queue_id not in leases
                            leases[each.mail.queue_id] = each
                    case 5 if leases:
                        _, lease = leases.popitem()
                        await _defer(
                            store, lease, now + dice.randrange(200), dice.choice(["s1", ""])
                        )
                    case 6:
                        await store.rest(dice.choice(["s1", "s2"]), now + dice.randrange(99), "r")
                    case 7 if ids:
                        chosen = dice.choice(sorted(ids - set(leases)) or [""])
                        if chosen and (await store.show(chosen)).state is not MailState.HOLD:
                            await store.hold(chosen, "h")
                        elif chosen:
                            await store.release(chosen, now)
                    case _:
                        clock.go(dice.randrange(30))
                _consistent(tmp_path / "00")
            await _all_leave(store, clock, ids, leases)
            _consistent(tmp_path / "00")

    run(scenario(), 60.0)


async def _all_leave(
    store: SqliteStore, clock: FakeClock, ids: set[str], leases: dict[str, Lease]
) -> None:
    """Released and flushed, every mail comes out."""
    for each in await store.list(Filter(frozenset({MailState.HOLD}))):
        await store.release(each.queue_id, clock.wall_time)
    clock.go(1)
    await store.flush(clock.wall_time)
    out = set(leases)
    while found := await store.lease(clock.wall_time, 7, 500.0):
        out |= {each.mail.queue_id for each in found}
    assert out == ids


def test_a_tool_shows_rests_and_ends_them(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            await _add(store, "smtp:x")
            await store.rest("smtp:x", START + 300, "refused")
            tool = QueueTool(tmp_path)
            assert list(tool.resting(START)) == [Rest("smtp:x", START + 300, "refused")]
            assert tool.flush(START) == 0
            tool.close()
            assert len(await store.lease(START, 9, 60.0)) == 1

    run(scenario())
