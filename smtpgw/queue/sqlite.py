"""The embedded store: one SQLite database for each shard directory.

See :mod:`smtpgw.queue.store` for what it promises and docs/queue.md for how.  Writers
share transactions (:mod:`smtpgw.queue.committer`); reads have a thread and a connection
of their own and never wait for a sync.
"""

from __future__ import annotations

import asyncio
import functools
import sqlite3
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from milterd.base import chance
from smtpgw.queue import (
    codec,
    flushing,
    handed,
    handover,
    ids,
    opening,
    rows,
    salvage,
    schema,
    search,
    turns,
)
from smtpgw.queue.batch import Batch, data_version, shrink
from smtpgw.queue.clock import Clock, QueueClock, SystemClock
from smtpgw.queue.codec import Prepared
from smtpgw.queue.committer import Committer
from smtpgw.queue.content import read_content
from smtpgw.queue.expected import Expected
from smtpgw.queue.fresh import Fresh
from smtpgw.queue.options import SqliteOptions as SqliteOptions
from smtpgw.queue.recovered import Recovery
from smtpgw.queue.recovery import recover
from smtpgw.queue.reserve import Reserve
from smtpgw.queue.shard import Shard
from smtpgw.queue.states import IllegalMove, MailState
from smtpgw.queue.store import (
    ANY,
    Content,
    Damaged,
    Filter,
    Lease,
    NewMail,
    QueuedMail,
    QueueError,
    Rest,
    Result,
    Settlement,
    StoreFailed,
    StoreFull,
    Tried,
    Turn,
    Unreadable,
    Wish,
)
from smtpgw.queue.taking import Promise, Taker

T = TypeVar("T")
_DEFAULT = SqliteOptions()
_SPARE_INODES = 16
_PLENTY = 64 * 1024 * 1024
"""Octets free beyond what has to be, from which on the disk is not asked for each mail."""
_FEW = 64
"""So many mails that are done take no longer to remove than a loop can spare."""
_ASKED = 1.0
"""Seconds that its answer counts for then."""


class SqliteStore:
    """A :class:`~smtpgw.queue.store.Store`.  Use :meth:`open`."""

    def __init__(
        self,
        shard: Shard,
        options: SqliteOptions,
        clock: QueueClock,
        randbelow: Callable[[int], int],
    ) -> None:
        self._shard, self._options, self._clock = shard, options, clock
        self._reserve = Reserve(shard.directory / "reserve", options.reserve)
        db = opening.connect(shard.database, self._reserve, shard.refused, options.busy_timeout)
        opening.make_room(db, schema.log_of(shard.database), options.log)
        self._reading = schema.connect(shard.database, busy_timeout=options.busy_timeout)
        self._reader = ThreadPoolExecutor(1, "queue-reader")
        mark = opening.mark(db, shard.database)
        if mark:
            clock.resume(mark[0], mark[2])
        self._ids = ids.IdMaker(
            shard=options.shard, floor=mark[1] if mark else 0, clock=clock.wall, randbelow=randbelow
        )
        self._floor, self._newest = mark[1] if mark else 0, ""
        self._version: int | None = None
        self._fresh = Fresh(options.fresh)
        self._roomy = float("-inf"), 0
        self.taker: Taker | None = None
        self.expected = Expected(clock.now)
        self._closed = False
        self.committer = Committer(
            db,
            stamp=self._stamp,
            after=shard.drop_body,
            relief=self._reserve.spend,
            refused=shard.refused,
            broken=functools.partial(salvage.mark, shard.database),
            company=self.expected.any,
            options=options.committer,
        )

    @classmethod
    def open(
        cls,
        directory: Path,
        options: SqliteOptions = _DEFAULT,
        *,
        clock: Clock | QueueClock | None = None,
        randbelow: Callable[[int], int] = chance.below,
    ) -> SqliteStore:
        """Lock the shard and open its database.  A clock of queue time goes on from there
        where the shard stopped, so it is for this shard alone.

        Raises StoreLocked, StoreFull, StoreDamaged, OSError; StoreBroken if the database has
        to be repaired first (:mod:`smtpgw.queue.salvage`).  Call :meth:`recover` next.
        """
        given = clock or SystemClock()
        shard = Shard(directory)
        shard.lock()
        try:
            salvage.require_sound(shard.database)
            queue_clock = given if isinstance(given, QueueClock) else QueueClock(given)
            return cls(shard, options, queue_clock, randbelow)
        except BaseException:
            shard.unlock()
            raise

    def on_left(self, told: Callable[[str, str], None]) -> None:
        """Have `told` called, in any thread, with the id of a mail that is done and whose body
        file could not be removed, and the reason."""
        self._shard.on_left = told

    def _stamp(self, db: sqlite3.Connection) -> None:
        """Remember how far time and ids have come; runs in the committer."""
        if self._newest:
            self._floor, self._newest = max(self._floor, ids.moment(self._newest)), ""
        db.execute(
            "INSERT INTO mark (one, seen, floor, wall) VALUES (1, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET"
            " seen=excluded.seen, floor=max(floor, excluded.floor), wall=excluded.wall",
            (self._clock.now(), self._floor, self._clock.wall()),
        )

    @property
    def failed(self) -> str | None:
        return self.committer.failed

    def new_id(self) -> str:
        return self._ids.new()

    def room(self, size: int) -> bool:
        """Where there was plenty less than a second ago, and what was announced since leaves
        plenty, the disk is not asked again; it still has the last word when it is written to."""
        now = self._clock.now()
        asked, plenty = self._roomy
        if not 0 <= now - asked < _ASKED or size >= plenty:
            try:
                octets, inodes = self._shard.free()
            except OSError:
                return False
            wanted = self._options.queue_minfree + size
            if octets < wanted or inodes <= _SPARE_INODES:
                return False
            plenty = octets - wanted - _PLENTY if inodes > 100 * _SPARE_INODES else 0
            self._roomy = now, plenty
        else:
            self._roomy = asked, plenty - size
        try:
            self._reserve.ensure()
        except StoreFull:
            return False
        return True

    async def add(self, *mails: NewMail) -> bool:
        if self.committer.failed is not None:
            raise StoreFailed(self.committer.failed)
        inline, limit = self._reserve.whole, self._options.inline_limit
        for each in mails:
            if not ids.valid(each.queue_id):
                raise ValueError(f"not a queue id: {each.queue_id!r}")
            inline = inline and each.mail.body.size <= limit
        if inline:
            promise = Promise(self.taker, mails)
            prepared = promise.prepare()
            # Once it is handed over it is committed, whoever waits for it.
            await self._insert(prepared, promise.end)
            return promise.some_wait
        await asyncio.shield(asyncio.ensure_future(self._add_files(mails)))
        return True

    async def _insert(
        self, prepared: Sequence[Prepared], then: Callable[[Exception | None], None] | None = None
    ) -> None:
        weight, short = 0, True
        for each in prepared:
            weight += each.weight
            short = short and each.caught is None
        try:
            await self.committer.do(
                functools.partial(self._add, prepared),
                weight,
                urgent=False,
                short=short,
                then=then,
            )
        except QueueError:
            self._roomy = float("-inf"), 0
            raise
        for new in prepared:
            self._fresh.keep(new)

    async def _add_files(self, mails: Sequence[NewMail]) -> None:
        """Those whose bodies may stand in files, which are there before the rows are."""
        await self._have_reserve()
        prepared: list[Prepared] = []
        try:
            for each in mails:
                prepared.append(await self._prepare(each))
            await self._insert(prepared)
        except QueueError:
            await self._drop_bodies(prepared)
            raise

    async def _have_reserve(self) -> None:
        """Have the reserve back, if need be by giving free pages of the database for it."""
        try:
            self._reserve.ensure()
        except StoreFull:
            self.committer.checkpoint_soon()
            await self.committer.do(shrink)
            self._reserve.ensure()

    def _add(self, prepared: Sequence[Prepared], batch: Batch) -> None:
        rows.add(batch, prepared)
        self._came(prepared)

    def _came(self, prepared: Sequence[Prepared]) -> None:
        """Ids sort by their time: that of the newest is looked at when it is to be stamped."""
        for each in prepared:
            if each.queue_id > self._newest:
                self._newest = each.queue_id

    async def _prepare(self, mail: NewMail) -> Prepared:
        if mail.mail.body.size <= self._options.inline_limit:
            return codec.prepare(mail, None)
        head_sum = zlib.crc32(mail.mail.head())
        try:
            checksum = await asyncio.to_thread(
                self._shard.write_body, mail.queue_id, mail.mail.body, head_sum
            )
        except StoreFailed as error:
            self.committer.fail(str(error))
            raise
        return codec.prepare(mail, checksum)

    async def handed(self, names: Sequence[str]) -> set[str]:
        return await self.ask(lambda batch: handed.known(batch.db, names))

    async def forget(self, names: Sequence[str]) -> None:
        await self.committer.do(lambda batch: handed.forget(batch.db, names))

    async def lease(self, now: float, limit: int, duration: float, wish: Wish = ANY) -> list[Lease]:
        return await self.committer.do(lambda batch: rows.lease(batch, now, limit, duration, wish))

    async def turn(self, now: float, limit: int, duration: float, wish: Wish = ANY) -> Turn:
        def run(batch: Batch) -> tuple[list[Lease], int, float | None]:
            leases = rows.lease(batch, now, limit, duration, wish)
            # The write lock is held: nobody else has changed what these were chosen from since.
            version = data_version(batch)
            return leases, version, None if leases else rows.next_due(batch, now)

        leases, version, due = await self.committer.do(run)
        return Turn(leases, self._seen(version), due)

    async def rest(self, site: str, until: float, note: str) -> None:
        await self.committer.do(lambda batch: turns.rest(batch, site, until, note))

    async def resting(self) -> list[Rest]:
        now = self._clock.now()
        return await self.ask(lambda batch: turns.resting(batch.db, now))

    async def history(self, queue_id: str) -> list[tuple[int, Tried]]:
        return await self.ask(lambda batch: rows.timeline(batch, queue_id))

    async def note(self, queue_id: str, token: int, at: float, results: Sequence[Result]) -> None:
        await self.committer.do(lambda batch: rows.note(batch, queue_id, token, at, results))

    async def settle(self, settlement: Settlement) -> MailState:
        follow = [await self._prepare(each) for each in settlement.follow]

        def run(batch: Batch) -> MailState:
            state = rows.settle(batch, settlement, follow)
            self._came(follow)
            return state

        return await self.committer.do(run, 4096 + sum(each.weight for each in follow))

    async def settle_all(
        self, ends: Sequence[Settlement], *, later: bool = True
    ) -> list[MailState | Exception]:
        return await self.committer.do(
            lambda batch: rows.settle_all(batch, ends), short=len(ends) <= _FEW, later=later
        )

    async def change(self, change: Callable[[Batch, Sequence[Prepared]], T], *follow: NewMail) -> T:
        """A change with mails that it is to insert, in one transaction.  Raises what it raises,
        and QueueError."""
        prepared = [await self._prepare(each) for each in follow]

        def run(batch: Batch) -> T:
            found = change(batch, prepared)
            self._came(prepared)
            return found

        try:
            return await self.committer.do(run, 4096 + sum(each.weight for each in prepared))
        except (QueueError, IllegalMove):
            await self._drop_bodies(prepared)
            raise

    async def _drop_bodies(self, those: Sequence[Prepared]) -> None:
        """Of mails that are not in the queue after all."""
        for each in those:
            if each.content[1] is None and self.failed is None:
                await asyncio.to_thread(self._shard.drop_body, each.queue_id)

    async def content(self, queue_id: str) -> Content:
        fresh = self._fresh.take(queue_id)
        if fresh is not None:
            return fresh
        return await self.ask(lambda batch: read_content(batch, self._shard, queue_id))

    async def ask(self, run: Callable[[Batch], T]) -> T:
        """What the tables say.  Raises QueueError."""
        if self._closed:
            raise QueueError("the queue is closed")

        def guarded() -> T:
            try:
                return run(Batch(self._reading))
            except sqlite3.Error as error:
                kind = Damaged if schema.is_broken(error) else Unreadable
                raise kind(f"database: {error}") from error

        return await asyncio.get_running_loop().run_in_executor(self._reader, guarded)

    async def set_aside(self, queue_id: str, reason: str) -> None:
        await self.committer.do(lambda batch: rows.set_aside(batch, queue_id, reason))

    async def next_due(self, now: float) -> float | None:
        return await self.committer.do(lambda batch: rows.next_due(batch, now))

    async def changed(self) -> bool:
        return self._seen(await self.committer.do(data_version))

    def _seen(self, version: int) -> bool:
        before, self._version = self._version, version
        return before is not None and before != version

    async def hold(self, queue_id: str, reason: str) -> None:
        await self.committer.do(lambda batch: rows.hold(batch, queue_id, reason))

    async def release(self, queue_id: str, now: float) -> None:
        await self.committer.do(lambda batch: rows.release(batch, queue_id, now))

    async def flush(self, now: float, queue_id: str | None = None) -> int:
        if queue_id is not None:
            return await self.committer.do(lambda batch: rows.flush_one(batch, now, queue_id))
        total, last = 0, 0
        while True:
            done, following = await self.committer.do(
                functools.partial(flushing.flush_some, now=now, limit=flushing.STEP, after_seq=last)
            )
            total += done
            if following is None:
                return total
            last = following

    async def requeue(self, queue_id: str, now: float, site: str) -> None:
        await self.committer.do(lambda batch: rows.requeue(batch, queue_id, now, site))

    async def doom(self, queue_id: str, now: float, reason: str) -> None:
        await self.committer.do(lambda batch: rows.doom(batch, queue_id, now, reason))

    async def delete(self, queue_id: str) -> None:
        await self.committer.do(lambda batch: rows.delete(batch, queue_id))
        self._fresh.take(queue_id)

    async def list(self, chosen: Filter) -> list[QueuedMail]:
        now = self._clock.now()
        return await self.ask(lambda batch: search.listing(batch, chosen, now))

    async def show(self, queue_id: str) -> QueuedMail:
        return await self.ask(lambda batch: rows.show(batch, queue_id))

    async def counts(self) -> dict[MailState, int]:
        return await self.ask(search.counts)

    async def recover(self, now: float) -> Recovery:
        crash = handover.crash(self._shard.directory)
        found = await self.committer.do(lambda batch: recover(batch, self._shard, now, crash))
        handover.forget_crash(self._shard.directory)
        await self.changed()  # what was changed until now is known
        return found

    async def close(self) -> None:
        await self.committer.stop()
        self._closed = True
        self._reader.shutdown()
        if self.failed is None:
            self._reading.close()
        else:
            schema.leave_open(self._reading)
        self._shard.unlock()
