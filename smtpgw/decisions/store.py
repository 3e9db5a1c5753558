"""Where decisions are kept: a file for each worker, of which only so many stay.

Nobody waits for it: a thread writes what has gathered, and what it cannot keep up with, or cannot
write, is lost, counted and said in the log.  It never has a part in what a client is told.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from smtpgw.decisions.decision import Kept

_Row = tuple[str, str, str, str]
VERSION = 1
BATCH = 500
"""Decisions in one transaction."""
GATHER = 0.5
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
        self._waiting: deque[Callable[[], Kept]] = deque()
        self._some, self._closing = threading.Event(), threading.Event()
        self._called = False
        self._thread = threading.Thread(target=self._run, name="decisions", daemon=True)
        self._broken = False
        self._thread.start()

    def note(self, make: Callable[[], Kept]) -> None:
        """Keep what `make` makes, which is called in the thread, soon.  Neither waits nor
        raises."""
        if len(self._waiting) >= self._options.waiting:
            self._lost(1)
            return
        self._waiting.append(make)
        if not self._called:  # or else the thread has still to look
            self._called = True
            self._some.set()

    def close(self, patience: float = 5.0) -> None:
        """Write what waits, within so many seconds."""
        self._closing.set()
        self._some.set()
        self._thread.join(patience)

    # -- in the thread -----------------------------------------------------------------

    def _run(self) -> None:
        db: sqlite3.Connection | None = None
        while True:
            waiting = self._gather()
            if not waiting:
                break
            batch = self._made(waiting)
            try:
                db = db or _open(self._options.file)
                _write(db, batch, self.kept)
                self._broken = False
            except (sqlite3.Error, OSError) as error:
                self._failed(len(batch), error)
                _close(db)
                db = None
        _close(db)

    def _made(self, waiting: list[Callable[[], Kept]]) -> list[_Row]:
        """The rows of decisions; one that cannot be made is lost, and no other."""
        rows: list[_Row] = []
        for make in waiting:
            try:
                each = make()
                rows.append((each.reference, each.queue_id, each.session, each.encode()))
            except Exception as error:  # noqa: BLE001 - our fault, for which the others do not pay
                self._lost(1)
                self._log.error("a decision is lost", exc_info=error)
        return rows

    def _gather(self) -> list[Callable[[], Kept]]:
        """The next decisions; none when the store is closed."""
        while not self._waiting:
            if self._closing.is_set():
                return []
            self._some.wait()
            self._closing.wait(GATHER)
            self._some.clear()
            self._called = False  # before the look: who comes after it calls again
        return [self._waiting.popleft() for _ in range(min(len(self._waiting), BATCH))]

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
        for each in ("journal_mode=WAL", "synchronous=OFF", "wal_autocheckpoint=4000"):
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


def _write(db: sqlite3.Connection, rows: list[_Row], kept: int) -> None:
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
