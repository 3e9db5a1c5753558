"""The queue from outside the daemon: for commands, whether it runs or not.

SQLite's WAL lets a second process read without disturbing the daemon, and write in
short transactions of its own.  The daemon sees such a change by PRAGMA data_version,
which its manager asks once a second.  No lock of the shard is taken.

Every time here, given or told, is of the wall clock (:mod:`smtpgw.queue.dates`).
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import TypeVar

from smtpgw.queue import custody, dates, flushing, quarantine, rows, schema, search, turns
from smtpgw.queue.ages import Ages, ages
from smtpgw.queue.batch import Batch
from smtpgw.queue.content import read_content
from smtpgw.queue.dates import queue_time
from smtpgw.queue.search import Progress, quiet
from smtpgw.queue.shard import Shard
from smtpgw.queue.states import IllegalMove, MailState
from smtpgw.queue.store import (
    Content,
    Filter,
    NotFound,
    QueuedMail,
    QueuedRecipient,
    QueueError,
    Rest,
    Tried,
)

T = TypeVar("T")
EVERYTHING = Filter()
Change = Callable[[Batch, str], object]
"""What is to happen to a mail with this id."""
TOGETHER = 200
"""Mails changed in one transaction: the daemon waits for no longer than that takes."""


def hold(reason: str) -> Change:
    """Put in the hold queue."""
    return lambda batch, queue_id: rows.hold(batch, queue_id, reason)


def release(now: float) -> Change:
    """Out of the hold queue."""
    return lambda batch, queue_id: rows.release(batch, queue_id, queue_time(batch.db, now))


def flush(now: float) -> Change:
    """Due now, whatever it waits for."""
    return lambda batch, queue_id: rows.flush_one(batch, queue_time(batch.db, now), queue_id)


def doom(now: float, reason: str) -> Change:
    """Bounced at the next attempt, which comes now."""
    return lambda batch, queue_id: rows.doom(batch, queue_id, queue_time(batch.db, now), reason)


class Requeue:
    """Routed anew; `sites_of` says what mails wait for, of some at once."""

    def __init__(
        self, now: float, sites_of: Callable[[Sequence[QueuedMail]], Sequence[str]]
    ) -> None:
        self._now, self._sites_of = now, sites_of
        self._known: dict[str, tuple[tuple[QueuedRecipient, ...], str]] = {}

    def prepare(self, batch: Batch, queue_ids: Iterable[str]) -> None:
        """Ask for these before the transaction: tables may take their time to answer, and the
        daemon is not to wait for that."""
        mails = []
        for each in queue_ids:
            with contextlib.suppress(QueueError):  # told when it is its turn
                mails.append(rows.show(batch, each))
        sites = self._sites_of(mails)
        self._known = {
            mail.queue_id: (mail.open, site) for mail, site in zip(mails, sites, strict=True)
        }

    def __call__(self, batch: Batch, queue_id: str) -> None:
        mail = rows.show(batch, queue_id)
        those, site = self._known.get(queue_id, ((), ""))
        if those != mail.open:  # others are left now
            (site,) = self._sites_of([mail])
        rows.requeue(batch, queue_id, queue_time(batch.db, self._now), site)


def let_go(now: float) -> Change:
    """Out of the quarantine, once the milters have been asked again."""
    return lambda batch, queue_id: quarantine.let_go(batch, queue_id, queue_time(batch.db, now))


dispose: Change = quarantine.dispose
"""Deleted from the quarantine; nobody is told."""
delete: Change = rows.delete
"""Removed; nobody is told."""


@dataclass(slots=True)
class Changed:
    """How many mails were changed, and which were not, each with the reason."""

    done: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)


def shard_directory(root: Path, number: int) -> Path:
    """Where a worker's shard stands."""
    return root / f"{number:02}"


def shard_directories(root: Path) -> list[Path]:
    """Every shard there is, whoever runs it."""
    return sorted(each.parent for each in root.glob("*/queue.db"))


def require_access(root: Path) -> None:
    """Raises OSError for a queue that this user may not look into, which else would be empty."""
    with contextlib.suppress(FileNotFoundError), os.scandir(root) as entries:
        for each in entries:
            if each.name.isdecimal():
                (Path(each.path) / "queue.db").exists()


class QueueTool:
    """All shards of a queue directory.  Blocking; raises QueueError, IllegalMove."""

    def __init__(self, root: Path, *, busy_timeout: float = 10.0) -> None:
        found = (
            (each, schema.connect_beside(each / "queue.db", busy_timeout=busy_timeout))
            for each in shard_directories(root)
        )
        self._shards = [(Shard(each, make=False), db) for each, db in found if db is not None]

    def close(self) -> None:
        """Let go of the databases."""
        for _, db in self._shards:
            db.close()

    def list(self, chosen: Filter = EVERYTHING, now: float = 0.0) -> list[QueuedMail]:
        """Mails of all shards by id, at most `chosen.limit`; go on with `after` the last id.

        `now` is for the reasons of sites that rest.
        """
        found = [_listing(db, chosen, now) for _, db in self._shards]
        return [*merge(*found, key=lambda mail: mail.queue_id)][: chosen.limit]

    def search(
        self, chosen: Filter, now: float, progress: Progress = quiet
    ) -> Iterator[QueuedMail]:
        """All such mails of all shards by id, in bounded memory; `chosen.limit` does not count.

        `progress` is told of each some thousand mails that were looked at.
        """
        walks = [
            _walk(db, chosen, state, now, progress)
            for _, db in self._shards
            for state in (chosen.states or (None,))
        ]
        return merge(*walks, key=lambda mail: mail.queue_id)

    def ages(
        self, states: Sequence[MailState], now: float, *, by_sender: bool = False
    ) -> dict[str, Ages]:
        """How old the mails of each destination, or of each sender's domain, are."""
        total: dict[str, Ages] = {}
        for _, db in self._shards:
            then, by = queue_time(db, now), dates.ahead(db)
            for name, found in ages(Batch(db), states, then, by_sender=by_sender).items():
                known = total.setdefault(name, Ages())
                for bucket, count in enumerate(found.counts):
                    known.add(bucket, count, found.oldest + by)
        return total

    def counts(self) -> dict[MailState, int]:
        """Mails by state."""
        total: dict[MailState, int] = {}
        for _, db in self._shards:
            for state, number in search.counts(Batch(db)).items():
                total[state] = total.get(state, 0) + number
        return total

    def show(self, queue_id: str) -> QueuedMail:
        """One mail.  Raises NotFound."""

        def found(_: Shard, batch: Batch) -> QueuedMail:
            return dates.dated(rows.show(batch, queue_id), dates.ahead(batch.db))

        return self._anywhere(queue_id, found)

    def content(self, queue_id: str) -> Content:
        """Its octets.  Raises NotFound, Damaged."""
        return self._anywhere(queue_id, lambda shard, batch: read_content(batch, shard, queue_id))

    def change(self, queue_ids: Iterable[str], change: Change) -> Changed:
        """Change some mails, a few in each transaction.

        What cannot be changed, or is not there, is in the result and stops nothing.
        """
        result, ids = Changed(), iter(queue_ids)
        while some := list(islice(ids, TOGETHER)):
            left = dict.fromkeys(some)
            for shard, db in self._shards:
                there = [each for each in left if _has(db, each)]
                if there:
                    if isinstance(change, Requeue):
                        change.prepare(Batch(db), there)
                    self._transact(shard, db, _each(there, change, result))
                for each in there:
                    del left[each]
            result.refused += [(each, "no such mail") for each in left]
        return result

    def _one(self, queue_id: str, change: Change) -> None:
        self._change(queue_id, lambda batch: change(batch, queue_id))

    def hold(self, queue_id: str, reason: str) -> None:
        """Put in the hold queue."""
        self._one(queue_id, hold(reason))

    def release(self, queue_id: str, now: float) -> None:
        """Out of the hold queue."""
        self._one(queue_id, release(now))

    def delete(self, queue_id: str) -> None:
        """Remove it."""
        self._one(queue_id, delete)

    def flush(self, now: float, queue_id: str | None = None) -> int:
        """Make one mail, or all that wait, due at `now`; how many it was."""
        if queue_id is not None:
            self._one(queue_id, flush(now))
            return 1
        return sum(self._flush_shard(shard, db, now) for shard, db in self._shards)

    def _flush_shard(self, shard: Shard, db: sqlite3.Connection, now: float) -> int:
        total, last, then = 0, 0, queue_time(db, now)
        while True:
            step = functools.partial(
                flushing.flush_some, now=then, limit=flushing.STEP, after_seq=last
            )
            done, following = self._transact(shard, db, step)
            total += done
            if following is None:
                return total
            last = following

    def flush_destination(self, destination: str, now: float) -> int:
        """Make all that waits for a destination due now, and end its rest; how many it was."""
        return sum(
            self._flush_where(shard, db, now, flushing.FOR_SITE, destination)
            for shard, db in self._shards
        )

    def flush_domain(self, domain: str, now: float) -> int:
        """The same for mail to a domain; one with a leading dot means all below it."""
        end = domain.lower() if domain.startswith(".") else f"@{domain.lower()}"
        return sum(
            self._flush_where(shard, db, now, flushing.FOR_DOMAIN, end)
            for shard, db in self._shards
        )

    def _flush_where(
        self, shard: Shard, db: sqlite3.Connection, now: float, condition: str, value: str
    ) -> int:
        """Looks at the mails in windows; only where some are found it writes."""
        if condition == flushing.FOR_SITE:
            self._transact(shard, db, lambda batch: turns.end_rests(batch, value))
        total, then = 0, queue_time(db, now)
        last: int | None = 0
        while last is not None:
            seqs, last = flushing.waiting_for(Batch(db), condition, value, flushing.STEP, last)
            if seqs:
                step = functools.partial(flushing.flush_these, now=then, seqs=seqs)
                total += self._transact(shard, db, step)
        return total

    def history(self, queue_id: str) -> Sequence[tuple[int, Tried]]:
        """What was tried for a mail.  Raises NotFound."""
        return self._anywhere(queue_id, lambda _, batch: rows.timeline(batch, queue_id))

    def resting(self, now: float) -> Sequence[Rest]:
        """The sites that are left alone, in any shard."""
        return [
            dates.dated_rest(each, dates.ahead(db))
            for _, db in self._shards
            for each in turns.resting(db, queue_time(db, now))
        ]

    def expiry(self, queue_id: str) -> float | None:
        """When a mail in quarantine expires.  Raises NotFound."""

        def found(_: Shard, batch: Batch) -> float | None:
            rows.find(batch, queue_id)
            then = quarantine.expiry(batch, queue_id)
            return None if then is None else then + dates.ahead(batch.db)

        return self._anywhere(queue_id, found)

    def level(self) -> tuple[int, int]:
        """How many mails all quarantines hold, and octets in them."""
        found = [custody.level(Batch(db)) for _, db in self._shards]
        return sum(count for count, _ in found), sum(octets for _, octets in found)

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


def _listing(db: sqlite3.Connection, chosen: Filter, now: float) -> list[QueuedMail]:
    by = dates.ahead(db)
    asked = dates.in_queue_time(chosen, by)
    found = search.listing(Batch(db), asked, queue_time(db, now))
    return [dates.dated(each, by) for each in found]


def _walk(
    db: sqlite3.Connection,
    chosen: Filter,
    state: MailState | None,
    now: float,
    progress: Progress,
) -> Iterator[QueuedMail]:
    by = dates.ahead(db)
    asked = dates.in_queue_time(chosen, by)
    for each in search.walk(Batch(db), asked, state, queue_time(db, now), progress):
        yield dates.dated(each, by)


def _has(db: sqlite3.Connection, queue_id: str) -> bool:
    return db.execute("SELECT 1 FROM mail WHERE id=?", (queue_id,)).fetchone() is not None


def _each(queue_ids: Sequence[str], change: Change, result: Changed) -> Callable[[Batch], None]:
    """A change of several; one that is refused has written nothing, the others stand."""

    def run(batch: Batch) -> None:
        for each in queue_ids:
            try:
                change(batch, each)
            except (QueueError, IllegalMove) as error:
                result.refused.append((each, str(error).removeprefix(f"{each}: ")))
            else:
                result.done += 1

    return run


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
