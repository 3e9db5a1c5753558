"""Where decisions are kept: a file for each worker, of which only so many stay.

Nobody waits for it: a thread writes what has gathered, and what it cannot keep up with, or cannot
write, is lost, counted and said in the log.  It never has a part in what a client is told.
"""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from smtpgw.decisions.decision import Decision

VERSION = 1
BATCH = 500
"""Decisions in one transaction."""
GATHER = 0.2
"""Seconds that the first of a batch waits for others."""
_TABLES = """
CREATE TABLE IF NOT EXISTS decision (
    seq INTEGER PRIMARY KEY,
    reference TEXT NOT NULL,
    queue_id TEXT NOT NULL,
    session TEXT NOT NULL,
    text TEXT NOT NULL               -- JSON: smtpgw.decisions.decision
);
CREATE INDEX IF NOT EXISTS by_reference ON decision (reference);
CREATE INDEX IF NOT EXISTS by_queue_id ON decision (queue_id) WHERE queue_id <> '';
CREATE INDEX IF NOT EXISTS by_session ON decision (session) WHERE session <> '';
"""


@dataclass(frozen=True, slots=True)
class StoreOptions:
    """`kept` decisions stay, the newest; `waiting` may be there to be written."""

    file: Path
    kept: int = 50_000
    waiting: int = 5_000


class DecisionStore:
    """A worker's.  `lost` is told how many decisions nobody will find; `kept` may be changed."""

    def __init__(
        self, options: StoreOptions, *, log: FilteringBoundLogger, lost: Callable[[int], None]
    ) -> None:
        self._options, self._log, self._lost = options, log, lost
        self.kept = options.kept
        self._waiting: queue.Queue[Decision | None] = queue.Queue(options.waiting)
        self._thread = threading.Thread(target=self._run, name="decisions", daemon=True)
        self._broken = False
        self._thread.start()

    def note(self, decision: Decision) -> None:
        """Keep it, soon.  Neither waits nor raises."""
        try:
            self._waiting.put_nowait(decision)
        except queue.Full:
            self._lost(1)

    def close(self, patience: float = 5.0) -> None:
        """Write what waits, within so many seconds."""
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=patience)
        self._thread.join(patience)

    # -- in the thread -----------------------------------------------------------------

    def _run(self) -> None:
        db: sqlite3.Connection | None = None
        going = True
        while going:
            batch, going = self._gather()
            try:
                db = db or _open(self._options.file)
                _write(db, batch, self.kept)
                self._broken = False
            except (sqlite3.Error, OSError) as error:
                self._failed(len(batch), error)
                _close(db)
                db = None
        _close(db)

    def _gather(self) -> tuple[list[Decision], bool]:
        """The next decisions, and whether there may be more."""
        batch: list[Decision] = []
        each = self._waiting.get()
        while each is not None:
            batch.append(each)
            if len(batch) >= BATCH:
                return batch, True
            try:
                each = self._waiting.get(timeout=GATHER)
            except queue.Empty:
                return batch, True
        return batch, False

    def _failed(self, count: int, error: Exception) -> None:
        self._lost(count)
        if not self._broken:  # once, not for every batch of a disk that is full
            self._log.error("decisions are lost", reason=str(error), file=str(self._options.file))
        self._broken = True


def _open(file: Path) -> sqlite3.Connection:
    """The database; one that is damaged or of another version is begun anew."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        return _connect(file)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):
            raise
    for suffix in ("", "-wal", "-shm"):
        Path(f"{file}{suffix}").unlink(missing_ok=True)
    return _connect(file)


def _connect(file: Path) -> sqlite3.Connection:
    db = sqlite3.connect(file, isolation_level=None, timeout=5)
    try:
        # Nothing of it is worth a wait for the disk: the last second may be lost.
        for each in ("journal_mode=WAL", "synchronous=OFF", "wal_autocheckpoint=500"):
            db.execute(f"PRAGMA {each}")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        _check(version)
        db.executescript(_TABLES)
        db.execute(f"PRAGMA user_version={VERSION}")
    except BaseException:
        db.close()
        raise
    return db


def _check(version: int) -> None:
    if version not in (0, VERSION):
        raise sqlite3.DatabaseError(f"version {version}")


def _write(db: sqlite3.Connection, batch: list[Decision], kept: int) -> None:
    rows = [(each.reference, each.queue_id, each.session, each.encode()) for each in batch]
    db.execute("BEGIN")
    try:
        db.executemany(
            "INSERT INTO decision (reference, queue_id, session, text) VALUES (?,?,?,?)", rows
        )
        db.execute("DELETE FROM decision WHERE seq <= (SELECT max(seq) FROM decision) - ?", (kept,))
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def _close(db: sqlite3.Connection | None) -> None:
    if db is not None:
        with contextlib.suppress(sqlite3.Error):
            db.close()
