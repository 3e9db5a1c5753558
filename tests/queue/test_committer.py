"""Who runs a transaction's statements, and who waits for whom: the loop, the thread, a command."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from smtpgw.queue import committer
from smtpgw.queue.batch import Batch
from smtpgw.queue.committer import Committer, CommitterOptions
from smtpgw.queue.expected import Expected
from smtpgw.queue.sqlite import SqliteOptions
from smtpgw.queue.states import MailState
from smtpgw.queue.store import QueueError, StoreFailed
from tests.queue.support import message, new, opened, run, until

_COUNT = itertools.count()


def _where(found: list[str]) -> Callable[[Batch], None]:
    """An operation that writes down in which thread it runs."""

    def operation(batch: Batch) -> None:
        batch.db.execute("INSERT INTO handed VALUES (?)", (f"{next(_COUNT)}",))
        found.append(threading.current_thread().name)

    return operation


def test_short_operations_run_in_the_loop_and_others_in_the_thread(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            found: list[str] = []
            await until(lambda: not store.committer.busy)  # with what its recovery did
            await store.committer.do(_where(found), short=True)
            await store.committer.do(_where(found), short=True)
            await store.committer.do(_where(found))
            here = threading.current_thread().name
            assert found == [here, here, "committer"]
            found.clear()
            both = store.committer
            await asyncio.gather(both.do(_where(found), short=True), both.do(_where(found)))
            assert found == ["committer", "committer"]

    run(scenario())


class _Slow(sqlite3.Connection):
    """One whose commits wait until they may go on."""

    gate: threading.Event

    def commit(self) -> None:
        assert self.gate.wait(10)
        super().commit()


def _slow(
    path: Path, company: Callable[[], bool] = lambda: False
) -> tuple[Committer, threading.Event]:
    db = sqlite3.connect(path, factory=_Slow, isolation_level=None, check_same_thread=False)
    db.gate = threading.Event()
    db.gate.set()
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("CREATE TABLE handed (name TEXT)")
    return Committer(
        db, stamp=lambda _: None, after=lambda _: None, relief=lambda: False, company=company,
        options=CommitterOptions(batch=5),
    ), db.gate  # fmt: skip


def test_what_comes_during_a_commit_is_in_the_next_transaction(tmp_path: Path) -> None:
    async def scenario() -> None:
        ours, gate = _slow(tmp_path / "db")
        found: list[str] = []
        gate.clear()
        first = asyncio.ensure_future(ours.do(_where(found), short=True))
        await asyncio.sleep(0)  # it is asked for
        await asyncio.sleep(0)  # and begun
        assert len(found) == 1
        rest = [asyncio.ensure_future(ours.do(_where(found), short=True)) for _ in range(7)]
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(found) == 1
        assert not first.done()
        gate.set()
        await asyncio.gather(first, *rest)
        assert found == [threading.current_thread().name] * 8
        assert ours.transactions == 3  # one, then as many as a transaction may have, then two
        await ours.stop()

    run(scenario())


def test_what_waits_for_a_commit_goes_to_the_thread_beside_what_is_not_short(
    tmp_path: Path,
) -> None:
    async def scenario() -> None:
        ours, gate = _slow(tmp_path / "db")
        found: list[str] = []
        gate.clear()
        work = [asyncio.ensure_future(ours.do(_where(found), short=True))]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        work += [
            asyncio.ensure_future(ours.do(_where(found), short=each))
            for each in (True, False, True)
        ]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gate.set()
        await asyncio.gather(*work)
        assert found == [threading.current_thread().name, *["committer"] * 3]
        await ours.stop()

    run(scenario())


def test_a_stop_commits_what_waits_for_a_commit_or_for_company(tmp_path: Path) -> None:
    async def scenario() -> None:
        ours, gate = _slow(tmp_path / "db")
        found: list[str] = []
        gate.clear()
        work = [asyncio.ensure_future(ours.do(_where(found), short=True, later=True))]
        await asyncio.sleep(0)
        work += [asyncio.ensure_future(ours.do(_where(found), short=True))]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert len(found) == 2
        work += [asyncio.ensure_future(ours.do(_where(found), short=True))]
        work += [asyncio.ensure_future(ours.do(_where(found), short=True, later=True))]
        await asyncio.sleep(0)
        gate.set()
        await ours.stop()
        await asyncio.gather(*work)
        assert len(found) == 4

    run(scenario())


def test_what_can_wait_shares_the_next_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            before, found = store.committer.transactions, list[str]()
            monkeypatch.setattr(committer, "PATIENCE", 20.0)
            later = [
                asyncio.ensure_future(store.committer.do(_where(found), short=True, later=True))
                for _ in range(3)
            ]
            await asyncio.sleep(0.05)
            assert not found
            await store.add(new(store, message()))
            await asyncio.gather(*later)
            assert store.committer.transactions == before + 1
            monkeypatch.setattr(committer, "PATIENCE", 0.01)
            await store.committer.do(_where(found), short=True, later=True)  # alone after all
            assert len(found) == 4

    run(scenario())


def _add(ours: Committer, found: list[str]) -> asyncio.Future[None]:
    return asyncio.ensure_future(ours.do(_where(found), short=True, urgent=False))


def test_a_mail_waits_for_those_that_are_on_their_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        coming = 3
        ours, _ = _slow(tmp_path / "db", lambda: coming > 0)
        found: list[str] = []
        monkeypatch.setattr(committer, "MOMENT", 1000.0)
        work = []
        for _ in range(3):
            await asyncio.sleep(0.01)
            assert not found
            coming -= 1
            work.append(_add(ours, found))
        await asyncio.gather(*work)  # with the last of them all go
        assert ours.transactions == 1
        coming = 1
        monkeypatch.setattr(committer, "MOMENT", 0.01)
        await _add(ours, found)  # but nobody waits for ever
        assert ours.transactions == 2
        await ours.stop()

    run(scenario())


def test_only_mails_that_are_not_being_added_yet_are_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            monkeypatch.setattr(committer, "MOMENT", 1000.0)
            store.expected = Expected(lambda: 0.0)  # where nobody is late
            store.committer._company = store.expected.any
            for who in range(2):
                before = store.committer.transactions
                store.expected.add(who)
                first = asyncio.ensure_future(store.add(new(store, message())))
                await asyncio.sleep(0.01)
                assert not first.done()
                store.expected.drop(who)
                await store.add(new(store, message()))
                await first
                assert store.committer.transactions == before + 1
            await store.add(new(store, message()))

    run(scenario())


@pytest.mark.parametrize("urgent", [True, False])
def test_who_is_in_a_hurry_or_has_company_enough_waits_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, urgent: bool
) -> None:
    async def scenario() -> None:
        ours, _ = _slow(tmp_path / "db", lambda: True)
        found: list[str] = []
        monkeypatch.setattr(committer, "MOMENT", 1000.0)
        monkeypatch.setattr(committer, "ENOUGH", 3)
        work = [_add(ours, found), _add(ours, found)]
        await asyncio.sleep(0.01)
        assert not found
        if urgent:
            await ours.do(_where(found), short=True)
        else:
            await _add(ours, found)
        await asyncio.gather(*work)
        assert ours.transactions == 1
        alone = _add(ours, found)
        await asyncio.sleep(0)
        patient = asyncio.ensure_future(ours.do(_where(found), short=True, later=True))
        await asyncio.sleep(0.01)
        assert len(found) == 3  # who can wait hurries nobody
        await ours.stop()  # who stops waits for nobody
        await asyncio.gather(alone, patient)
        assert len(found) == 5

    run(scenario())


def test_a_loop_does_not_wait_for_a_command_that_has_the_database(tmp_path: Path) -> None:
    async def scenario() -> None:
        options = SqliteOptions(queue_minfree=0, busy_timeout=10.0)
        async with opened(tmp_path / "00", options=options) as store:
            other = sqlite3.connect(tmp_path / "00/queue.db", isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            work = asyncio.ensure_future(store.add(new(store, message())))
            began = time.monotonic()
            while time.monotonic() - began < 0.3:
                before = time.monotonic()
                await asyncio.sleep(0.01)
                assert time.monotonic() - before < 5
            assert not work.done()
            other.execute("COMMIT")
            await work
            assert (await store.counts())[MailState.INCOMING] == 1
            other.close()

    run(scenario())


def test_one_that_fails_spoils_nothing_for_those_beside_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            found: list[str] = []

            def wrong(batch: Batch) -> None:
                batch.db.execute("INSERT INTO nowhere VALUES (1)")

            do = store.committer.do
            results = await asyncio.gather(
                do(_where(found), short=True), do(wrong, short=True), do(_where(found), short=True),
                return_exceptions=True,
            )  # fmt: skip
            assert [type(each) for each in results] == [type(None), QueueError, type(None)]
            names = await store.ask(
                lambda batch: batch.db.execute("SELECT 1 FROM handed").fetchall()
            )
            assert len(names) == 2
            await until(lambda: not store.committer.busy)
            await do(_where(found), short=True)
            assert found[-1] == threading.current_thread().name

    run(scenario())


@pytest.mark.parametrize("short", [True, False])
def test_nothing_is_promised_of_a_transaction_that_was_over_before_its_commit(
    tmp_path: Path, short: bool
) -> None:
    """As SQLite does by itself after some errors (lang_transaction.html)."""

    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            await until(lambda: not store.committer.busy)
            with pytest.raises(QueueError, match="over before its commit"):
                await store.committer.do(lambda batch: batch.db.rollback(), short=short)
            await store.add(new(store, message(b"x")))
            assert (await store.counts())[MailState.INCOMING] == 1

    run(scenario())


def test_a_database_that_was_taken_away_ends_what_a_loop_begins(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            await store.add(new(store, message()))
            (tmp_path / "00/queue.db").rename(tmp_path / "elsewhere")
            with pytest.raises(StoreFailed):
                await store.add(new(store, message()))
            assert store.failed is not None

    run(scenario())
