"""A recipient without a row of its own is as one who has one, whatever happens to the mail."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from smtpgw.queue import handover, schema
from smtpgw.queue.clock import QueueClock
from smtpgw.queue.sqlite import SqliteStore
from smtpgw.queue.states import MailState, RecipientEvent, RecipientState
from smtpgw.queue.store import Filter, QueuedRecipient, Result, Settlement
from smtpgw.queue.tools import QueueTool
from tests.queue.support import START, FakeClock, make_first_version, message, new, opened, run
from tests.queue.test_taking import UNTIL, Hand

_LATER = Result(0, RecipientEvent.DEFER, "4.2.0", "later", "mx", "lmtp:there")


async def _leased(store: SqliteStore, *those: bytes, args: tuple[bytes, ...] = ()) -> str:
    """A mail that is leased from its first moment."""
    hand = store.taker = Hand()
    assert store.room(0)
    await store.add(new(store, message(rcpts=those or (b"u@example.net",), rcpt_args=args)))
    store.taker = None
    return hand.given[0][0].mail.queue_id


def _rows(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path / "queue.db")) as db:
        mails = db.execute("SELECT sole FROM mail ORDER BY seq").fetchall()
        return mails + db.execute("SELECT address, state FROM recipient").fetchall()


def _end(queue_id: str, results: Sequence[Result] = (_LATER,)) -> Settlement:
    return Settlement(queue_id, 1, START, tuple(results), START + 60)


def test_only_who_is_an_address_alone_has_none(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            await _leased(store)
            assert _rows(tmp_path / "00") == [(b"u@example.net",)]
            await _leased(store, b"a@x", b"b@x")
            await _leased(store, b"c@x", args=(b"NOTIFY=NEVER",))
            await store.add(new(store, message(rcpts=(b"d@x",))))
            have = [(b"a@x", 0), (b"b@x", 0), (b"c@x", 0), (b"d@x", 0)]
            assert _rows(tmp_path / "00") == [(b"u@example.net",), *[(None,)] * 3, *have]

    run(scenario())


@pytest.mark.parametrize("what", ["settled", "noted", "lapsed", "started anew", "after a crash"])
def test_what_there_is_to_write_gives_it_a_row(tmp_path: Path, what: str) -> None:
    async def scenario() -> None:
        path, clock = tmp_path / "00", FakeClock()
        async with opened(path, clock) as store:
            queue_id = await _leased(store)
            before = (await store.show(queue_id)).recipients
            assert before == (QueuedRecipient(0, b"u@example.net"),)
            if what == "settled":
                assert await store.settle(_end(queue_id)) is MailState.DEFERRED
            elif what == "noted":
                await store.note(queue_id, 1, START, [_LATER])
            elif what == "lapsed":
                (lease,) = await store.lease(UNTIL + 1, 9, 60.0)
                assert lease.mail.recipients == before
            if what in ("settled", "noted", "lapsed"):
                assert _rows(path)[0] == (None,)
        if what == "after a crash":
            handover.mark_crash(tmp_path, os.getpid(), -signal.SIGSEGV)
        async with opened(path, clock) as store:
            assert _rows(path)[0] == (None,)
            (found,) = (await store.show(queue_id)).recipients
            if what in ("settled", "noted"):
                assert found == QueuedRecipient(
                    0, b"u@example.net", (), RecipientState.DEFERRED, "4.2.0", "later", "mx",
                    "lmtp:there", START,
                )  # fmt: skip
            else:
                assert found == before[0]

    run(scenario())


@pytest.mark.parametrize("wanted", [MailState.HOLD, MailState.CORRUPT, None])
def test_what_is_wanted_of_it_in_delivery_is_done(tmp_path: Path, wanted: MailState | None) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            queue_id = await _leased(store)
            if wanted is MailState.HOLD:
                await store.hold(queue_id, "why")
                assert await store.settle(_end(queue_id)) is wanted
            elif wanted is MailState.CORRUPT:
                await store.set_aside(queue_id, "why")
            if wanted is not None:
                shown = await store.show(queue_id)
                assert (shown.state, shown.note) == (wanted, "why")
                assert [each.address for each in shown.recipients] == [b"u@example.net"]
            await store.delete(queue_id)
            assert _rows(tmp_path / "00") == []

    run(scenario())


@pytest.mark.parametrize(
    "chosen",
    [
        Filter(recipients=("U@example.*",)),
        Filter(destinations=("*",)),
        Filter(reasons=("*",)),
        Filter(frozenset({MailState.ACTIVE}), recipients=("u@",)),
    ],
)
def test_a_list_has_it(tmp_path: Path, chosen: Filter) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            queue_id = await _leased(store)
            with_row = await _leased(store, args=(b"NOTIFY=NEVER",))
            found = [each.queue_id for each in await store.list(chosen)]
            assert found == [queue_id, with_row]
            assert await store.list(replace(chosen, recipients=("x@",))) == []
            assert (await store.counts())[MailState.ACTIVE] == 2
            tool = QueueTool(tmp_path)
            assert tool.counts()[MailState.ACTIVE] == 2

    run(scenario())


def test_a_damaged_one_is_found(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            queue_id = await _leased(store)
            with closing(sqlite3.connect(tmp_path / "00" / "queue.db")) as db:
                db.execute("UPDATE mail SET sole=x'41'")
                db.commit()
            assert await store.lease(UNTIL + 1, 9, 60.0) == []
            shown = await store.show(queue_id)
            assert (shown.state, shown.note) == (
                MailState.CORRUPT,
                "envelope is not what was stored",
            )

    run(scenario())


def _make_fifth_version(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(
            "DROP INDEX mail_state; CREATE INDEX mail_state ON mail (state, id);"
            "ALTER TABLE mail DROP COLUMN sole; PRAGMA user_version=5;"
        )


@pytest.mark.parametrize("version", [1, 5])
def test_a_queue_of_an_earlier_version_has_the_same_indexes(tmp_path: Path, version: int) -> None:
    async def scenario() -> None:
        path = tmp_path / "00"
        async with opened(path) as store:
            item = new(store, message(), at=START)
            await store.add(item)
        indexes = _indexes(path)
        make = _make_fifth_version if version == 5 else make_first_version
        make(path / "queue.db")
        store = SqliteStore.open(path, clock=QueueClock(FakeClock()))
        await store.recover(START)
        assert _indexes(path) == indexes
        (lease,) = await store.lease(START + 1, 9, 60.0)
        assert lease.mail.queue_id == item.queue_id
        await store.close()

    run(scenario())


def _indexes(path: Path) -> set[str]:
    with closing(sqlite3.connect(path / "queue.db")) as db:
        return {sql for (sql,) in db.execute("SELECT sql FROM sqlite_master WHERE type='index'")}


@pytest.mark.parametrize("state", [each for each in MailState if each is not MailState.DONE])
def test_a_state_is_looked_for_by_an_index(tmp_path: Path, state: MailState) -> None:
    with closing(schema.connect(tmp_path / "queue.db", busy_timeout=1.0)) as db:
        (plan,) = [
            row[3]
            for row in db.execute(
                f"EXPLAIN QUERY PLAN SELECT count(*) FROM mail WHERE {schema.of_state(state)}"
            )
        ]
    assert ("mail_leased" if state is MailState.ACTIVE else "mail_state (state=?)") in plan
