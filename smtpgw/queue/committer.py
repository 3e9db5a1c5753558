"""Group commit: one thread, one connection, one transaction for all who wait.

While a commit is being synced, new operations gather; the next transaction serves
them all.  An operation's caller gets its answer after the commit that holds it.

The thread commits, and runs what may take long.  Short operations are run by the event loop
itself where the thread has nothing else to do: each statement gives the interpreter's lock away,
and a thread that wants it back from a busy loop waits for it every time.  What comes while their
commit is being synced is run after it, in the next transaction.

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
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from milterd.base.atonce import AtOnce
from smtpgw.queue import salvage, schema
from smtpgw.queue.batch import Batch
from smtpgw.queue.store import QueueError, StoreFailed, StoreFull
from smtpgw.queue.waiting import Waiting, answer, perform

T = TypeVar("T")
PATIENCE = 0.01
"""Seconds that what is for later waits for company: five times as long was no cheaper.
What was delivered counts as in delivery until then, so a longer wait lets a crash deliver no more
mails twice than the limit of those."""
MOMENT = 0.008
"""Seconds that a mail waits at most for others that are on their way: ten mails in a transaction
take little more of the disk than one does, and of the processor half."""
ENOUGH = 20
"""Operations with which nobody waits for more."""
_HERE = 64
_HERE_OCTETS = 1024 * 1024
"""So many short operations, and about so many octets, a loop runs by itself at once."""


@dataclass(frozen=True, slots=True)
class _Begun:
    """A transaction that a loop has begun, for the thread to commit."""

    batch: Batch
    those: list[Waiting]
    wrote: bool


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
    turns out not to be what was written; `company` to say whether more operations are about to
    come, that are worth :data:`MOMENT` to one that is not urgent."""

    def __init__(
        self,
        db: sqlite3.Connection,
        *,
        stamp: Callable[[sqlite3.Connection], None],
        after: Callable[[str], None],
        relief: Callable[[], bool],
        refused: Callable[[], bool] = lambda: False,
        broken: Callable[[str], None] = lambda _reason: None,
        company: Callable[[], bool] = lambda: False,
        options: CommitterOptions = CommitterOptions(),
    ) -> None:
        self._db, self._stamp, self._after, self._options = db, stamp, after, options
        self._relief, self._refused, self._broken = relief, refused, broken
        self._company = company
        db.execute(f"PRAGMA journal_size_limit={int(options.checkpoint)}")
        self._files = schema.Files(Path(db.execute("PRAGMA database_list").fetchone()[2]))
        (self._patience,) = db.execute("PRAGMA busy_timeout").fetchone()
        db.execute("PRAGMA busy_timeout=0")  # a loop never waits for a lock
        self._waiting: queue.SimpleQueue[list[Waiting] | _Begun | None] = queue.SimpleQueue()
        self._line: deque[Waiting] = deque()  # the thread's: taken from there, not yet begun
        self._ready: dict[asyncio.AbstractEventLoop, list[Waiting]] = {}
        self._moments: dict[asyncio.AbstractEventLoop, asyncio.TimerHandle] = {}
        """When what is ready goes, where it waits for company."""
        self._mutex = threading.Lock()
        self._begun = False  # by a loop, and not yet committed: the connection is in use
        self._queued = 0  # operations that the thread has, or is to have
        self._held: set[asyncio.AbstractEventLoop] = set()
        """Loops whose operations wait for the end of what was begun."""
        self._lazy: dict[asyncio.AbstractEventLoop, list[Waiting]] = {}
        self._wanted = self._stopped = False
        self.failed: str | None = None
        self.transactions = 0
        self.operations = 0
        self._thread = threading.Thread(target=self._work, name="committer", daemon=True)
        self._thread.start()

    async def do(
        self,
        run: Callable[[Batch], T],
        weight: int = 4096,
        *,
        urgent: bool = True,
        short: bool = False,
        later: bool = False,
        then: Callable[[Exception | None], None] | None = None,
    ) -> T:
        """Run in the next transaction; return when it is committed.

        The operation may run more than once (after a rollback), so it changes nothing
        but the database.  An urgent one may use up what the disk has in reserve.  A short one
        takes the time of a few statements, and may run in the loop.  One for `later` waits
        :data:`PATIENCE` seconds at most for others to share a transaction with; one that is not
        urgent :data:`MOMENT`, where others are coming.  `then` is called
        in the loop with what went wrong, None for nothing, even if the caller was cancelled.
        """
        refusal = self._refusal()
        if refusal is not None:
            if then is not None:
                then(refusal)
            raise refusal
        loop = asyncio.get_running_loop()
        future: AtOnce[T] = AtOnce(loop=loop)
        one = Waiting(run, weight, urgent, future, loop, short, then)
        ready = self._ready.get(loop)
        if ready is None and later:
            self._wait(one)
        elif ready is None:
            self._ready[loop] = [one]
            self._go_soon(one)
        else:
            ready.append(one)
            if loop in self._moments and not later:
                self._go_soon(one)
        return await future

    def _go_soon(self, last: Waiting) -> None:
        """Let what is ready go, after the `last` of it: a moment later where others come.

        All of one turn of the loop goes together in any case: to wake the thread for each of them
        would have it begin a transaction with the first alone."""
        loop = last.loop
        if last.urgent or len(self._ready[loop]) >= ENOUGH or not self._company():
            self._no_moment(loop)
            loop.call_soon(self._hand_over, loop)
        elif loop not in self._moments:
            self._moments[loop] = loop.call_later(MOMENT, self._hand_over, loop)

    def _no_moment(self, loop: asyncio.AbstractEventLoop) -> None:
        moment = self._moments.pop(loop, None)
        if moment is not None:
            moment.cancel()

    def _wait(self, one: Waiting) -> None:
        """Let it wait for company."""
        lazy = self._lazy.setdefault(one.loop, [])
        if not lazy:
            one.loop.call_later(PATIENCE, self._wait_no_more, one)
        lazy.append(one)

    def _wait_no_more(self, one: Waiting) -> None:
        lazy = self._lazy.get(one.loop, [])
        if lazy and lazy[0] is one:
            self._hand_over(one.loop)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin a transaction with what this loop wants done, or let the thread do that."""
        self._no_moment(loop)
        ready = self._ready.get(loop, []) + self._lazy.pop(loop, [])
        if not ready:
            return
        self._ready[loop] = ready
        with self._mutex:
            here = not self._queued and all(each.short for each in ready)
            if here and self._begun:
                self._held.add(loop)
                return
            those = ready[: self._most(ready)] if here else ready
            self._ready[loop] = ready[len(those) :]
            if not self._ready[loop]:
                del self._ready[loop]
            else:
                self._held.add(loop)
            if here:
                self._begun = True
            else:
                self._queued += len(those)
        self._waiting.put((self._begin_here(those) if here else None) or those)

    def _most(self, ready: list[Waiting]) -> int:
        """How many of them a loop runs at once: one at least."""
        most, octets = min(self._options.batch, _HERE), min(self._options.checkpoint, _HERE_OCTETS)
        weight = 0
        for number, each in enumerate(ready[:most]):
            weight += each.weight
            if number and weight > octets:
                return number
        return min(len(ready), most)

    def _begin_here(self, those: list[Waiting]) -> _Begun | None:
        """All of a transaction but its commit; None if it is better left to the thread, which
        waits for locks, tries one after the other, and tells what went wrong."""
        try:
            self._refuse_if_failed()
            return self._begin(those)
        except Exception:  # noqa: BLE001 - the thread meets it again
            self._roll_back()
            with self._mutex:
                self._queued += len(those)
                self._begun = False
            return None

    @property
    def busy(self) -> bool:
        """Whether the connection is in use, or about to be."""
        return self._begun or self._queued > 0

    async def stop(self) -> None:
        """Commit what waits, close the connection, end the thread.  What comes after it is
        refused."""
        self._stopped = True
        for ready in (*self._ready.values(), *self._lazy.values()):
            self._queued += len(ready)
            self._waiting.put(ready)
        self._ready, self._lazy = {}, {}
        self._waiting.put(None)
        await asyncio.to_thread(self._thread.join)

    def checkpoint_soon(self) -> None:
        """Have a checkpoint after the next transaction."""
        self._wanted = True

    def fail(self, why: str) -> None:
        """Accept nothing more."""
        self.failed = self.failed or why

    def _refusal(self) -> QueueError | None:
        if self.failed is not None:
            return StoreFailed(self.failed)
        return QueueError("the queue is closed") if self._stopped else None

    def _refuse_if_failed(self) -> None:
        if self.failed is not None:
            raise StoreFailed(self.failed)

    def _work(self) -> None:
        stopping = False
        while not stopping:
            gathered, stopping = self._gather()
            if gathered:
                self._serve(gathered)
                self._files.there()  # the log may have grown much
                if self._full():
                    self._checkpoint()
                self._free(len(gathered))
        self._checkpoint()
        if self.failed is not None:
            schema.leave_open(self._db)
            return
        with contextlib.suppress(sqlite3.Error):  # nothing is promised by a close
            self._db.close()

    def _gather(self) -> tuple[list[Waiting], bool]:
        gathered: list[Waiting] = []
        weight, limits = 0, self._options
        while not gathered or (len(gathered) < limits.batch and weight < limits.checkpoint):
            if not self._line:
                try:
                    those = self._waiting.get(block=not gathered)
                except queue.Empty:
                    break
                if those is None:
                    return gathered, True
                if isinstance(those, _Begun):  # what was begun has nothing else beside it
                    self._finish(those)
                    continue
                self._line.extend(those)
                continue
            gathered.append(self._line.popleft())
            weight += gathered[-1].weight
        return gathered, False

    def _finish(self, begun: _Begun) -> None:
        """Commit what a loop has begun."""
        try:
            self._commit(begun.batch, len(begun.those), wrote=begun.wrote)
        except Exception:  # noqa: BLE001 - each is told what it is that went wrong
            self._serve(begun.those)
            self._free(0)
            return
        if not self._full():
            self._free(0)  # first: who is answered may have more to do
            answer(begun.those)
            return
        answer(begun.those)
        self._checkpoint()
        self._free(0)

    def _free(self, served: int) -> None:
        """The connection is free, these have been served: those who wait for that may go on."""
        with self._mutex:
            self._queued -= served
            self._begun = False
            held, self._held = self._held, set()
        for loop in held:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._hand_over, loop)

    def _serve(self, gathered: list[Waiting]) -> None:
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
        answer(gathered)

    def _transact(self, gathered: list[Waiting]) -> None:
        try:
            begun = self._begin(gathered, wait=True)
        except BaseException as error:
            self._roll_back()
            if isinstance(error, sqlite3.Error):
                raise self._translate(error) from error
            raise
        self._commit(begun.batch, len(gathered), wrote=begun.wrote)

    def _begin(self, gathered: list[Waiting], *, wait: bool = False) -> _Begun:
        """All of a transaction but its commit; `wait` for a command that has the database."""
        batch = Batch(self._db)
        try:
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if not (wait and schema.is_busy(error)):
                raise
            self._db.execute(f"PRAGMA busy_timeout={self._patience}")
            try:
                self._db.execute("BEGIN IMMEDIATE")
            finally:
                self._db.execute("PRAGMA busy_timeout=0")
        before = self._db.total_changes
        for each in gathered:
            perform(each, batch)
        wrote = self._db.total_changes != before
        if wrote:
            self._stamp(self._db)
        if wait:
            self._require_files()
        elif not self._files.there():
            raise QueueError("the database was taken away: the thread saves what was in it")
        return _Begun(batch, gathered, wrote)

    def _commit(self, batch: Batch, count: int, *, wrote: bool) -> None:
        try:
            if not self._db.in_transaction:  # rolled back by SQLite: commit() would say nothing
                raise sqlite3.OperationalError("the transaction was over before its commit")
            # Not execute(), which gives the interpreter's lock away three times: a busy loop takes
            # it at once, and each time this thread would wait for it.
            self._db.commit()
        except sqlite3.Error as error:
            self._roll_back()
            raise self._translate(error) from error
        self.operations += count
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

    def _full(self) -> bool:
        """Whether it is time for a checkpoint: the log's file is cut by journal_size_limit when it
        starts anew."""
        return self._wanted or self._files.logged > self._options.checkpoint

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
