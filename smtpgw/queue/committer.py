"""Group commit: one thread, one connection, one transaction for all who wait.

While a commit is being synced, new operations gather; the next transaction serves
them all.  An operation's caller gets its answer after the commit that holds it.

A failed write or sync (SQLITE_IOERR and its kind) ends the committer: it is never
retried, every caller then and later gets :class:`StoreFailed`.  A full disk undoes the
transaction; its operations are tried one by one, the small ones may still fit.  Before each
commit the database's files have to be where they were opened: what goes into a file that was
taken away would be lost with the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from smtpgw.queue import salvage, schema
from smtpgw.queue.batch import Batch
from smtpgw.queue.states import IllegalMove
from smtpgw.queue.store import QueueError, StoreFailed, StoreFull

T = TypeVar("T")


@dataclass(slots=True)
class _Waiting:
    run: Callable[[Batch], Any]
    weight: int
    urgent: bool
    future: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop
    result: Any = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class CommitterOptions:
    """At most `batch` operations and about `checkpoint` octets a transaction; a checkpoint
    whenever the write-ahead log has grown over `checkpoint` octets."""

    batch: int = 512
    checkpoint: int = 8 * 1024 * 1024


class Committer:
    """The thread.  `stamp` is called in each transaction that wrote something; `after`
    with the id of a mail that is gone, once it is; `relief` when the disk is too full for
    an urgent operation, to say whether it made some room; `refused` after a write failed, to
    say whether the disk has no room for more; `broken` with the reason, when the database
    turns out not to be what was written."""

    def __init__(
        self,
        db: sqlite3.Connection,
        *,
        stamp: Callable[[sqlite3.Connection], None],
        after: Callable[[str], None],
        relief: Callable[[], bool],
        refused: Callable[[], bool] = lambda: False,
        broken: Callable[[str], None] = lambda _reason: None,
        options: CommitterOptions = CommitterOptions(),
    ) -> None:
        self._db, self._stamp, self._after, self._options = db, stamp, after, options
        self._relief, self._refused, self._broken = relief, refused, broken
        db.execute(f"PRAGMA journal_size_limit={int(options.checkpoint)}")
        self._files = schema.Files(Path(db.execute("PRAGMA database_list").fetchone()[2]))
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._wanted = False
        self.failed: str | None = None
        self.transactions = 0
        self.operations = 0
        self._thread = threading.Thread(target=self._work, name="committer", daemon=True)
        self._thread.start()

    async def do(self, run: Callable[[Batch], T], weight: int = 4096, *, urgent: bool = True) -> T:
        """Run in the next transaction; return when it is committed.

        The operation may run more than once (after a rollback), so it changes nothing
        but the database.  An urgent one may use up what the disk has in reserve.
        """
        self._refuse_if_failed()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._waiting.put(_Waiting(run, weight, urgent, future, loop))
        return await future

    async def stop(self) -> None:
        """Commit what waits, close the connection, end the thread."""
        self._waiting.put(None)
        await asyncio.to_thread(self._thread.join)

    def checkpoint_soon(self) -> None:
        """Have a checkpoint after the next transaction."""
        self._wanted = True

    def fail(self, why: str) -> None:
        """Accept nothing more."""
        self.failed = self.failed or why

    def _refuse_if_failed(self) -> None:
        if self.failed is not None:
            raise StoreFailed(self.failed)

    def _work(self) -> None:
        stopping = False
        while not stopping:
            gathered, stopping = self._gather()
            if gathered:
                self._serve(gathered)
                if self._wanted or self._log_size() > self._options.checkpoint:
                    self._checkpoint()
        self._checkpoint()
        if self.failed is not None:
            schema.leave_open(self._db)
            return
        with contextlib.suppress(sqlite3.Error):  # nothing is promised by a close
            self._db.close()

    def _gather(self) -> tuple[list[_Waiting], bool]:
        first = self._waiting.get()
        if first is None:
            return [], True
        gathered, weight = [first], first.weight
        while len(gathered) < self._options.batch and weight < self._options.checkpoint:
            try:
                each = self._waiting.get_nowait()
            except queue.Empty:
                break
            if each is None:
                return gathered, True
            gathered.append(each)
            weight += each.weight
        return gathered, False

    def _serve(self, gathered: list[_Waiting]) -> None:
        try:
            self._refuse_if_failed()
            self._transact(gathered)
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for it
            if len(gathered) > 1 and self.failed is None:
                for each in gathered:
                    self._serve([each])
                return
            if gathered[0].urgent and isinstance(error, StoreFull) and self._relief():
                self._checkpoint()
                self._serve(gathered)
                return
            for each in gathered:
                each.error = error
        _answer(gathered)

    def _transact(self, gathered: list[_Waiting]) -> None:
        batch = Batch(self._db)
        try:
            self._db.execute("BEGIN IMMEDIATE")
            before = self._db.total_changes
            for each in gathered:
                _run(each, batch)
            wrote = self._db.total_changes != before
            if wrote:
                self._stamp(self._db)
            self._require_files()
            self._db.execute("COMMIT")
        except BaseException as error:
            self._roll_back()
            if isinstance(error, sqlite3.Error):
                raise self._translate(error) from error
            raise
        self.operations += len(gathered)
        if wrote:
            self.transactions += 1
        for queue_id in batch.gone:
            self._after(queue_id)

    def _require_files(self) -> None:
        """Raises StoreFailed if the files are not ours any more, and saves what was in them."""
        if self._files.there():
            return
        self.fail(f"{self._files.database}: taken away while in use")
        self._roll_back()
        try:
            salvage.rescue(self._db, self._files.database)
        except (OSError, sqlite3.Error) as error:
            self.fail(f"{self.failed}; {error}")
        raise StoreFailed(self.failed or "")

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _translate(self, error: sqlite3.Error) -> QueueError:
        reason = f"database: {error}"
        if schema.is_full(error) or (schema.is_failed_write(error) and self._refused()):
            return StoreFull(reason)
        if not schema.is_fatal(error):
            return QueueError(reason)
        reason = f"{reason} ({getattr(error, 'sqlite_errorname', '')})"
        if schema.is_broken(error):
            self._broken(reason)
        self.fail(reason)
        return StoreFailed(self.failed or "")

    def _log_size(self) -> int:
        """Octets of the log's file, which journal_size_limit cuts when it starts anew."""
        try:
            return self._files.log.stat().st_size
        except OSError:
            return 0  # there is none before the first write

    def _checkpoint(self) -> None:
        """Move the log's pages to the database.  A full disk only puts it off.

        Not after a failed sync: this one would succeed, and prove nothing.
        """
        if self.failed is not None:
            return
        try:
            self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            self._wanted = False
        except sqlite3.Error as error:
            self._translate(error)


def _run(each: _Waiting, batch: Batch) -> None:
    each.error = None
    try:
        each.result = each.run(batch)
    except (QueueError, IllegalMove) as error:
        each.error = error  # it wrote nothing: see rows.py


def _answer(gathered: list[_Waiting]) -> None:
    loops: dict[asyncio.AbstractEventLoop, list[_Waiting]] = {}
    for each in gathered:
        loops.setdefault(each.loop, []).append(each)
    for loop, those in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, those)


def _resolve(those: list[_Waiting]) -> None:
    for each in those:
        if each.future.done():
            continue
        if each.error is not None:
            each.future.set_exception(each.error)
        else:
            each.future.set_result(cast(Any, each.result))
