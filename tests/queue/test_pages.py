"""How much the store writes for a mail: pages of its write-ahead log, as SQLite counts them."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from smtpgw.queue import schema
from smtpgw.queue.opening import make_room
from smtpgw.queue.shard import Shard
from smtpgw.queue.sqlite import SqliteOptions, SqliteStore
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Filter, Settlement
from tests.queue.support import START, message, new, opened, run
from tests.queue.test_taking import UNTIL, Hand


class _Log:
    """The pages that were written to a store's log, without moving them to the database."""

    def __init__(self, store: SqliteStore, directory: Path) -> None:
        (self._page,) = store.committer._db.execute("PRAGMA page_size").fetchone()
        self._path, self._before = directory / "queue.db-wal", 0

    def octets(self) -> int:
        """Since the last call.  A page of the log has 24 octets more."""
        there = self._path.stat().st_size
        grown, self._before = there - self._before, there
        return grown // (self._page + 24) * self._page


def test_what_is_delivered_is_not_written_once_more(tmp_path: Path) -> None:
    """Debian's SQLite fills it with zeros, if it is not told to leave that."""

    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            log, hand = _Log(store, tmp_path / "00"), Hand()
            store.taker = hand
            assert store.room(0)
            log.octets()
            await store.add(new(store, message(b"x" * 200_000)))
            assert log.octets() > 200_000
            ((lease, _),) = hand.given
            end = Settlement(lease.mail.queue_id, lease.token, START, (), UNTIL, whole=True)
            assert await store.settle_all([end]) == [MailState.DONE]
            assert log.octets() < 120_000

    run(scenario())


def test_a_small_mail_and_the_end_of_another_take_few_pages(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            log, hand = _Log(store, tmp_path / "00"), Hand()
            store.taker = hand
            assert store.room(0)
            for _ in range(10):
                log.octets()
                await store.add(new(store, message(b"x" * 4096)))
                lease, _ = hand.given.pop()
                end = Settlement(lease.mail.queue_id, lease.token, START, (), UNTIL, whole=True)
                assert await store.settle_all([end]) == [MailState.DONE]
            assert log.octets() < 80_000

    run(scenario())


@pytest.mark.parametrize("octets", [600_000, 3_000_000])
def test_a_log_that_has_its_room_is_written_over_and_what_is_in_it_is_found(
    tmp_path: Path, octets: int
) -> None:
    """Twice, for the second run finds what the first left."""
    options = SqliteOptions(queue_minfree=0, log=octets)

    async def scenario(home: Path, ids: list[str]) -> None:
        async with opened(home, options=options) as store:
            assert [each.queue_id for each in await store.list(Filter())] == ids
            size = (home / "queue.db-wal").stat().st_size
            assert size == octets
            for _ in range(5):
                await store.add(mail := new(store, message(b"x" * 4096)))
                ids.append(mail.queue_id)
            assert (home / "queue.db-wal").stat().st_size == size
            # What a crash leaves: the log, and no clean end.
            shutil.copytree(home, home.with_name(f"{home.name}-crashed"))

    ids: list[str] = []
    run(scenario(tmp_path / "00", ids))
    run(scenario(tmp_path / "00-crashed", ids))


def test_a_log_without_room_on_the_disk_grows_as_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrote: list[int] = []

    def full(number: int, octets: bytes, at: int) -> int:
        if wrote:
            raise OSError(errno.ENOSPC, "No space left on device")
        wrote.append(at)
        return os.write(number, octets)

    async def scenario() -> None:
        async with opened(tmp_path / "00", options=SqliteOptions(queue_minfree=0, log=3_000_000)):
            assert (tmp_path / "00" / "queue.db-wal").stat().st_size < 1_000_000

    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(Shard, "lock", lambda _self: None)  # which writes, too
    run(scenario())
    assert wrote


def test_a_log_is_left_alone_while_a_tool_writes_to_it(tmp_path: Path) -> None:
    """What the tool adds to the log would be written over with zeros."""
    database = tmp_path / "queue.db"
    with (
        closing(schema.connect(database, busy_timeout=0.1)) as worker,
        closing(schema.connect(database, busy_timeout=0.1)) as tool,
    ):
        log = schema.log_of(database)
        before = log.stat().st_size
        tool.execute("BEGIN IMMEDIATE")
        make_room(worker, log, 3_000_000)
        assert log.stat().st_size == before
        tool.execute("ROLLBACK")
        make_room(worker, log, 3_000_000)
        assert log.stat().st_size == 3_000_000
        assert not worker.in_transaction
