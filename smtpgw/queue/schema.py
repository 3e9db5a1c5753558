"""The database: its tables, its version, and how a connection to it is opened.

WAL with synchronous=FULL: a commit is on the disk when COMMIT returns.  Checkpoints
are the committer's own business (wal_autocheckpoint=0), so that a failed one is never
taken for a failed commit.
"""

from __future__ import annotations

import functools
import os
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from smtpgw.queue.states import MailState
from smtpgw.queue.store import QueueError, StoreBroken, StoreDamaged, StoreFull

VERSION = 6
APPLICATION = 0x47504F51  # "GPOQ", so that file(1) and we know our own

_TABLES = """
CREATE TABLE mail (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    state INTEGER NOT NULL,
    due REAL,                        -- queue time; the lease's end while active
    born REAL NOT NULL,              -- queue time
    arrived REAL NOT NULL,           -- wall time
    size INTEGER NOT NULL,
    sender BLOB NOT NULL,
    facts TEXT NOT NULL,             -- JSON: sender_args, session, reasons
    sum INTEGER NOT NULL,            -- CRC-32 of what never changes, recipients included
    attempts INTEGER NOT NULL DEFAULT 0,
    token INTEGER NOT NULL DEFAULT 0,
    warned INTEGER NOT NULL DEFAULT 0,
    held INTEGER NOT NULL DEFAULT 0, -- wanted when the attempt ends: 1 hold, 2 bounce
    note TEXT NOT NULL DEFAULT '',   -- why it is held or corrupt
    site TEXT NOT NULL DEFAULT '',   -- the destination it waits for; '' is any
    flow INTEGER,                    -- where it waits for its turn: incoming and deferred only
    doomed TEXT NOT NULL DEFAULT '', -- why the next attempt bounces it without trying
    sole BLOB,                       -- the one recipient, who has no row yet: see sole.py
    deaths INTEGER NOT NULL DEFAULT 0  -- crashes of a worker since it last settled, active then
);
CREATE TABLE recipient (
    mail INTEGER NOT NULL,
    number INTEGER NOT NULL,
    address BLOB NOT NULL,
    args TEXT NOT NULL,
    state INTEGER NOT NULL DEFAULT 0,
    enhanced TEXT NOT NULL DEFAULT '',
    text TEXT NOT NULL DEFAULT '',
    remote TEXT NOT NULL DEFAULT '',
    destination TEXT NOT NULL DEFAULT '',
    at REAL NOT NULL DEFAULT 0,
    PRIMARY KEY (mail, number)
) WITHOUT ROWID;
CREATE TABLE content (
    mail INTEGER PRIMARY KEY,
    head BLOB NOT NULL,
    body BLOB,                       -- NULL: in a file
    size INTEGER NOT NULL,           -- of the body
    sum INTEGER NOT NULL             -- CRC-32 of head and body
);
CREATE TABLE mark (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    seen REAL NOT NULL,              -- queue time of the last change
    floor INTEGER NOT NULL,          -- highest time part of an id
    wall REAL                        -- wall time of the last change; NULL: that was the same
);
"""

_STATE = """
CREATE INDEX mail_state ON mail (state, id) WHERE state <> 1;
"""
"""What is active is in one index only, mail_leased: most mails are never anything else."""

_TURNS = """
CREATE INDEX mail_leased ON mail (due) WHERE state = 1;
CREATE INDEX mail_turn ON mail (flow, due) WHERE flow IS NOT NULL;
CREATE INDEX mail_unfiled ON mail (seq) WHERE flow IS NULL AND state IN (0, 2);
CREATE INDEX content_file ON content (mail) WHERE body IS NULL;
CREATE INDEX mail_age ON mail (warned, (sender=x''), born, due, flow) WHERE flow IS NOT NULL;
CREATE TABLE lane (                  -- the mails of one site that wait, new or old ones
    id INTEGER PRIMARY KEY,
    site TEXT NOT NULL,
    old INTEGER NOT NULL,
    ready REAL NOT NULL,             -- when its next turn comes, queue time
    UNIQUE (site, old)
);
CREATE INDEX lane_turn ON lane (old, ready);
CREATE TABLE flow (                  -- the mails of one sender in a lane
    id INTEGER PRIMARY KEY,
    lane INTEGER NOT NULL,
    sender BLOB NOT NULL,
    ready REAL NOT NULL,
    UNIQUE (lane, sender)
);
CREATE INDEX flow_turn ON flow (lane, ready);
CREATE TABLE rest (                  -- sites that do not answer
    site TEXT PRIMARY KEY,
    until REAL NOT NULL,
    note TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE attempt (               -- what was tried for mails that are still here
    mail INTEGER NOT NULL,
    number INTEGER NOT NULL,         -- of the attempt
    part INTEGER NOT NULL,           -- of the attempt
    at REAL NOT NULL,                -- wall time
    facts TEXT NOT NULL,             -- JSON
    PRIMARY KEY (mail, number, part)
) WITHOUT ROWID;
"""

_HANDED = """
CREATE TABLE handed (                -- files that mails were handed in by, until they are gone
    name TEXT PRIMARY KEY
) WITHOUT ROWID;
"""

_CAUGHT = """
CREATE TABLE caught (                -- when the mails in quarantine expire, and what they weigh
    mail INTEGER PRIMARY KEY,
    expires REAL NOT NULL,           -- queue time
    size INTEGER NOT NULL
);
CREATE INDEX caught_end ON caught (expires);
"""

_FROM_1 = """
DROP INDEX mail_due;
ALTER TABLE mail ADD COLUMN site TEXT NOT NULL DEFAULT '';
ALTER TABLE mail ADD COLUMN flow INTEGER;
ALTER TABLE mail ADD COLUMN doomed TEXT NOT NULL DEFAULT '';
"""
"""Recovery files what waits, so the mails of an older version get their turn."""

_FROM_2_OR_3 = """
DROP INDEX mail_age;
CREATE INDEX mail_age ON mail (warned, (sender=x''), born, due, flow) WHERE flow IS NOT NULL;
"""

_FROM_ANY = """
ALTER TABLE mark ADD COLUMN wall REAL;
ALTER TABLE mail ADD COLUMN deaths INTEGER NOT NULL DEFAULT 0;
"""

_SOLE = """
ALTER TABLE mail ADD COLUMN sole BLOB;
"""

_DONE = """
PRAGMA application_id = %d;
PRAGMA user_version = %d;
COMMIT;
"""


_FROM_5 = "DROP INDEX mail_state;" + _STATE + _SOLE
_FROM_4 = _CAUGHT + _FROM_5
_FROM_3 = _FROM_2_OR_3 + _FROM_ANY + _FROM_4
_UPGRADES = {
    1: _FROM_1 + _TURNS + _STATE + _HANDED + _FROM_ANY + _CAUGHT + _SOLE,
    2: _HANDED + _FROM_3,
    3: _FROM_3,
    4: _FROM_4,
    5: _FROM_5,
}

_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})
_FULL_EXTENDED = frozenset({sqlite3.SQLITE_IOERR_SHMSIZE})  # the shared-memory file did not grow
_BROKEN = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def of_state(*states: MailState) -> str:
    """A condition on a mail's state that an index serves."""
    if states == (MailState.ACTIVE,):
        return "state=1"
    return f"state<>1 AND state IN ({', '.join(str(each.value) for each in states)})"


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process had the database."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY


def is_full(error: sqlite3.Error) -> bool:
    """Whether the device had no room, or is read-only."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code in _FULL_EXTENDED or code & 0xFF in _FULL


def is_failed_write(error: sqlite3.Error) -> bool:
    """Whether a write failed, which SQLite does not tell the reason of unless it is ENOSPC."""
    return getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_WRITE


def is_broken(error: sqlite3.Error) -> bool:
    """Whether what is in the file is no database, or not the one that was written."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN


def is_fatal(error: sqlite3.Error) -> bool:
    """Whether nothing more may be written in this process."""
    return is_broken(error) or (
        getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR
    )


@dataclass(slots=True)
class Files:
    """A database that is open, its log, and which files these were at first; `logged` are the
    octets that its log had at the last look."""

    database: Path
    log: Path = field(init=False)
    logged: int = 0
    _first: list[tuple[int, int] | None] = field(init=False)

    def __post_init__(self) -> None:
        self.log = log_of(self.database)
        self._first = self._now()

    def _now(self) -> list[tuple[int, int] | None]:
        database, log = _stat(self.database), _stat(self.log)
        self.logged = log.st_size if log else 0  # there is none before the first write
        return [_identity(database), _identity(log)]

    def there(self) -> bool:
        """Whether both are still the same; a log may come, once."""
        now = self._now()
        if self._first[1] is None:
            self._first[1] = now[1]
        return now == self._first


def log_of(database: Path) -> Path:
    """Where SQLite keeps a database's write-ahead log."""
    return database.with_name(f"{database.name}-wal")


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _identity(found: os.stat_result | None) -> tuple[int, int] | None:
    return None if found is None else (found.st_dev, found.st_ino)


_PAGE = 8192
"""Octets of a page.  Twice SQLite's: a body of 100 kB is half as many writes to the log, and a
worker that takes and delivers such mails needs 0.95 of the processor time; 4 kB are no dearer."""


def connect(path: Path, *, busy_timeout: float) -> sqlite3.Connection:
    """Open the database for who has the shard: make its tables if it is new, bring those of
    an earlier version up to date.

    Raises :class:`StoreFull`, :class:`StoreBroken`, :class:`StoreDamaged`.
    """
    try:
        db = _open(path, busy_timeout)
        db.execute(f"PRAGMA page_size={_PAGE}")  # of a new one: an older one keeps its own
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")  # so that the file can shrink again
        db.execute("PRAGMA journal_mode=WAL")
        _check(db, path)
    except sqlite3.Error as error:
        raise kind_of(error)(f"{path}: {error}") from error
    return db


def kind_of(error: sqlite3.Error) -> type[QueueError]:
    """What it means for a queue that an opened database says this."""
    return StoreBroken if is_broken(error) else StoreFull if is_full(error) else StoreDamaged


def connect_beside(path: Path, *, busy_timeout: float) -> sqlite3.Connection | None:
    """Open the database for who has not the shard: a command, which makes and changes no
    tables.  None for one that is only being made.

    Raises as :func:`connect`; StoreDamaged also for one of an earlier version, for a gateway
    may be at work in it that knows no other.
    """
    try:
        db = _open(path, busy_timeout)
        version, owner = _stamp(db)
    except sqlite3.Error as error:
        raise kind_of(error)(f"{path}: {error}") from error
    if (version, owner) != (VERSION, APPLICATION):
        db.close()
        if (version, owner) == (0, 0):
            return None
        _refuse(path, version, owner)
    return db


def _refuse(path: Path, version: int, owner: int) -> NoReturn:
    if owner != APPLICATION:
        raise StoreDamaged(f"{path}: not a queue of this program")
    older = version < VERSION
    do = "; start the gateway, or restart the old one, to have it brought up to date"
    raise StoreDamaged(
        f"{path}: version {version}, this program knows {VERSION}{do if older else ''}"
    )


def _open(path: Path, busy_timeout: float) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, check_same_thread=False)
    db.text_factory = functools.partial(str, encoding="utf-8", errors="surrogateescape")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("PRAGMA wal_autocheckpoint=0")
    db.execute("PRAGMA temp_store=MEMORY")
    db.execute("PRAGMA cache_size=-32768")
    # Debian's SQLite fills what is deleted with zeros, which costs as much as to write it: the
    # pages of a body that is done stay as they are, like the blocks of a file that is unlinked.
    db.execute("PRAGMA secure_delete=OFF")
    return db


def _stamp(db: sqlite3.Connection) -> tuple[int, int]:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (owner,) = db.execute("PRAGMA application_id").fetchone()
    return version, owner


_left_open: list[sqlite3.Connection] = []


def leave_open(db: sqlite3.Connection) -> None:
    """Never close it: the last one that closes syncs, which after a failed sync would succeed
    and prove nothing.  The process has to end without clearing up (os._exit)."""
    _left_open.append(db)


def _check(db: sqlite3.Connection, path: Path) -> None:
    version, owner = _stamp(db)
    if (version, owner) == (0, 0) and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
        path.chmod(0o600)
        _write(db, _TABLES + _TURNS + _STATE + _HANDED + _CAUGHT)
    elif owner == APPLICATION and version in _UPGRADES:
        _write(db, _UPGRADES[version])
    elif (version, owner) != (VERSION, APPLICATION):
        _refuse(path, version, owner)


def _write(db: sqlite3.Connection, script: str) -> None:
    """Run a script and stamp the version, all or nothing."""
    try:
        db.executescript("BEGIN IMMEDIATE;" + script + _DONE % (APPLICATION, VERSION))
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")
