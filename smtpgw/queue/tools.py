"""The queue from outside the daemon: for commands, whether it runs or not.

SQLite's WAL lets a second process read without disturbing the daemon, and write in
short transactions of its own.  The daemon sees such a change by PRAGMA data_version,
which its manager asks once a second.  No lock of the shard is taken.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from heapq import merge
from pathlib import Path
from typing import TypeVar

from smtpgw.queue import rows, schema, turns
from smtpgw.queue.batch import Batch
from smtpgw.queue.content import read_content
from smtpgw.queue.shard import Shard
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Content, Filter, NotFound, QueuedMail, QueueError, Rest, Tried

T = TypeVar("T")
EVERYTHING = Filter()


def shard_directory(root: Path, number: int) -> Path:
    """Where a worker's shard stands."""
    return root / f"{number:02}"


def shard_directories(root: Path) -> list[Path]:
    """Every shard there is, whoever runs it."""
    return sorted(each.parent for each in root.glob("*/queue.db"))


class QueueTool:
    """All shards of a queue directory.  Blocking; raises QueueError, IllegalMove."""

    def __init__(self, root: Path, *, busy_timeout: float = 10.0) -> None:
        self._shards = [
            (Shard(each), schema.connect(each / "queue.db", busy_timeout=busy_timeout))
            for each in shard_directories(root)
        ]

    def close(self) -> None:
        """Let go of the databases."""
        for _, db in self._shards:
            db.close()

    def list(self, chosen: Filter = EVERYTHING) -> list[QueuedMail]:
        """Mails of all shards by id, at most `chosen.limit`; go on with `after` the last id."""
        found = [rows.listing(Batch(db), chosen) for _, db in self._shards]
        return list(merge(*found, key=lambda mail: mail.queue_id))[: chosen.limit]

    def counts(self) -> dict[MailState, int]:
        """Mails by state."""
        total: dict[MailState, int] = {}
        for _, db in self._shards:
            for state, number in rows.counts(Batch(db)).items():
                total[state] = total.get(state, 0) + number
        return total

    def show(self, queue_id: str) -> QueuedMail:
        """One mail.  Raises NotFound."""
        return self._anywhere(queue_id, lambda _, batch: rows.show(batch, queue_id))

    def content(self, queue_id: str) -> Content:
        """Its octets.  Raises NotFound, Damaged."""
        return self._anywhere(queue_id, lambda shard, batch: read_content(batch, shard, queue_id))

    def hold(self, queue_id: str, reason: str) -> None:
        """Put in the hold queue."""
        self._change(queue_id, lambda batch: rows.hold(batch, queue_id, reason))

    def release(self, queue_id: str, now: float) -> None:
        """Out of the hold queue."""
        self._change(queue_id, lambda batch: rows.release(batch, queue_id, now))

    def delete(self, queue_id: str) -> None:
        """Remove it."""
        self._change(queue_id, lambda batch: rows.delete(batch, queue_id))

    def flush(self, now: float, queue_id: str | None = None) -> int:
        """Make one mail, or all that wait, due at `now`; how many it was."""
        if queue_id is not None:
            self._change(queue_id, lambda batch: rows.flush_one(batch, now, queue_id))
            return 1
        return sum(self._flush_shard(shard, db, now) for shard, db in self._shards)

    def _flush_shard(self, shard: Shard, db: sqlite3.Connection, now: float) -> int:
        total, last = 0, 0
        while True:
            step = functools.partial(
                rows.flush_some, now=now, limit=rows.FLUSH_STEP, after_seq=last
            )
            done, following = self._transact(shard, db, step)
            total += done
            if following is None:
                return total
            last = following

    def history(self, queue_id: str) -> Sequence[tuple[int, Tried]]:
        """What was tried for a mail.  Raises NotFound."""
        return self._anywhere(queue_id, lambda _, batch: rows.timeline(batch, queue_id))

    def resting(self, now: float) -> Sequence[Rest]:
        """The sites that are left alone, in any shard."""
        return [each for _, db in self._shards for each in turns.resting(db, now)]

    def _anywhere(self, queue_id: str, ask: Callable[[Shard, Batch], T]) -> T:
        for shard, db in self._shards:
            with contextlib.suppress(NotFound):
                return ask(shard, Batch(db))
        raise NotFound(f"{queue_id}: no such mail")

    def _change(self, queue_id: str, change: Callable[[Batch], object]) -> None:
        def run(shard: Shard, batch: Batch) -> None:
            self._transact(shard, batch.db, change)

        self._anywhere(queue_id, run)

    def _transact(self, shard: Shard, db: sqlite3.Connection, change: Callable[[Batch], T]) -> T:
        with _transaction(db) as batch:
            result = change(batch)
        for each in batch.gone:
            shard.drop_body(each)
        return result


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection) -> Iterator[Batch]:
    try:
        db.execute("BEGIN IMMEDIATE")
        yield Batch(db)
        db.execute("COMMIT")
    except sqlite3.Error as error:
        raise QueueError(f"database: {error}") from error
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
