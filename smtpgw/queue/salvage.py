"""What becomes of a database that is not what was written: what can be read of it is kept.

    damaged         the last run found the database broken; why
    queue.db.part   a new database while it is filled
    queue.db.saved  the same once it is whole, to take the old one's place
    damaged-DATE/   what was set aside: the old database, and body files that no mail names

:func:`repair` may be broken off at any moment and is then begun again, or ended.  Rows are
copied as they are; what does not fit its checksum is found when it is delivered or listed, as
in any queue.  A mail whose row cannot be read is still in what was set aside.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smtpgw.queue import ids, schema
from smtpgw.queue.shard import Shard, sync_directory
from smtpgw.queue.states import MailState
from smtpgw.queue.store import QueueError, StoreBroken, StoreFull

ASIDE = "damaged-*"
"""Directories in a shard with what was set aside."""

_STATES = frozenset(each.value for each in MailState if each is not MailState.DONE)
_PATIENT = 1000
"""Rows that are asked for one by one behind one that cannot be read; then steps grow."""
_END = 2**62


@dataclass(frozen=True, slots=True)
class Saved:
    """How many mails go on, how many stretches of rows could not be read, and where the old
    database is now (None: there was none)."""

    mails: int
    unreadable: int
    aside: Path | None


def mark(database: Path, reason: str) -> None:
    """Have the database looked after at the next start."""
    with contextlib.suppress(OSError):  # then the next start finds it broken again by itself
        (database.parent / "damaged").write_text(reason + "\n")


def require_sound(database: Path) -> None:
    """Raises StoreBroken if the database has to be repaired before it is opened."""
    if _named(database, "saved").exists():
        raise StoreBroken(f"{database}: taken away while in use, and saved")
    marked = database.parent / "damaged"
    if marked.exists():
        raise StoreBroken(f"{database}: {marked.read_text().strip()}")


def rescue(db: sqlite3.Connection, database: Path) -> None:
    """Copy a database out of the connection that has it open, though its files are gone.

    Raises OSError, sqlite3.Error.
    """
    part = _fresh_part(database)
    copy = sqlite3.connect(part)
    try:
        db.backup(copy)
    finally:
        copy.close()
    _finish_part(part, database)


def repair(directory: Path, now: str) -> Saved:
    """Set the shard's database aside and put one in its place with all that can be read.

    `now` becomes part of a name.  Raises QueueError (StoreFull, StoreLocked), OSError.
    """
    shard = Shard(directory)
    shard.lock()
    try:
        unreadable = 0
        if not _named(shard.database, "saved").exists():
            unreadable = _copy(shard)
        return _replace(shard, unreadable, now)
    except sqlite3.Error as error:
        kind = StoreFull if schema.is_full(error) else QueueError
        raise kind(f"{directory}: cannot be saved: {error}") from error
    finally:
        shard.unlock()


def _named(database: Path, end: str) -> Path:
    return database.with_name(f"{database.name}.{end}")


def _fresh_part(database: Path) -> Path:
    part = _named(database, "part")
    for end in ("", "-wal", "-shm", "-journal"):
        Path(f"{part}{end}").unlink(missing_ok=True)
    return part


def _finish_part(part: Path, database: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.chmod(0o600)
    part.rename(_named(database, "saved"))
    sync_directory(database.parent)


# -- reading --------------------------------------------------------------------------------


def _copy(shard: Shard) -> int:
    """Fill a new database with what can be read; how many stretches could not be."""
    with contextlib.suppress(OSError):  # its room may be needed; it is allocated again later
        os.truncate(shard.directory / "reserve", 0)
    part = _fresh_part(shard.database)
    new = schema.connect(part, busy_timeout=0)
    try:
        with contextlib.closing(_open_old(shard.database)) as old:
            new.execute("BEGIN IMMEDIATE")
            unreadable = _Copying(old, new).all()
            new.execute("COMMIT")
    finally:
        new.close()
    _finish_part(part, shard.database)
    return unreadable


def _open_old(database: Path) -> sqlite3.Connection:
    old = sqlite3.connect(database, isolation_level=None)
    old.text_factory = lambda octets: octets.decode("utf-8", "surrogateescape")
    return old


class _Copying:
    """From one database that may break off anywhere to one that is new."""

    def __init__(self, old: sqlite3.Connection, new: sqlite3.Connection) -> None:
        self._old, self._new = old, new
        self._unreadable = 0
        self._floor = 0

    def all(self) -> int:
        """Copy; how many stretches could not be read."""
        columns = self._columns("mail")
        for row in self._walk(columns):
            self._mail(columns, row)
        self._rows("handed", "")
        self._rows("mark", "")
        self._new.execute("UPDATE mark SET floor=max(floor, ?)", (self._floor,))
        return self._unreadable

    def _columns(self, table: str) -> list[str]:
        """Those that both have, for the old one may be of an earlier version."""
        there = [row[1] for row in self._read(f"PRAGMA table_info({table})")]
        ours = [row[1] for row in self._new.execute(f"PRAGMA table_info({table})")]
        return [each for each in ours if each in there and each != "flow"]

    def _read(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows up to the first that cannot be read."""
        rows: list[tuple[Any, ...]] = []
        try:
            for row in self._old.execute(statement, values):
                rows.append(row)
        except sqlite3.DatabaseError:
            self._unreadable += 1
        return rows

    def _walk(self, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        """Every mail's row that can be read, by number, passing by what cannot."""
        if "seq" not in columns:
            return
        query = f"SELECT {', '.join(columns)} FROM mail WHERE seq > ? ORDER BY seq LIMIT 1"  # noqa: S608 - our own column names
        last, bad, step = 0, 0, 1
        while last < _END:
            try:
                row = self._old.execute(query, (last,)).fetchone()
            except sqlite3.DatabaseError:
                self._unreadable += not bad
                bad += 1
                step = step * 2 if bad > _PATIENT else 1
                last += step
                continue
            if row is None:
                return
            last, bad, step = row[columns.index("seq")], 0, 1
            yield row

    def _mail(self, columns: Sequence[str], row: tuple[Any, ...]) -> None:
        values = dict(zip(columns, row, strict=True))
        if values["state"] not in _STATES:
            values |= {"state": MailState.CORRUPT.value, "note": "row is not what was stored"}
        if self._insert("mail", columns, list(values.values())):
            if isinstance(values["id"], str) and ids.valid(values["id"]):
                self._floor = max(self._floor, ids.moment(values["id"]))
            for table in ("recipient", "content", "attempt", "caught"):
                self._rows(table, "WHERE mail=?", values["seq"])

    def _rows(self, table: str, where: str, *values: object) -> None:
        columns = self._columns(table)
        if not columns:
            return
        query = f"SELECT {', '.join(columns)} FROM {table} {where}"  # noqa: S608 - our own names
        for row in self._read(query, values):
            self._insert(table, columns, row)

    def _insert(self, table: str, columns: Sequence[str], row: Sequence[Any]) -> bool:
        marks = ", ".join("?" * len(row))
        statement = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - our own names
        try:
            self._new.execute(statement, row)
        except sqlite3.IntegrityError:  # twice, or empty: no row that we wrote
            self._unreadable += 1
            return False
        return True


# -- putting in place -----------------------------------------------------------------------


def _replace(shard: Shard, unreadable: int, now: str) -> Saved:
    """The old files aside, the saved one in their place."""
    saved = _named(shard.database, "saved")
    aside = shard.directory / f"damaged-{now}"
    (aside / "bodies").mkdir(mode=0o700, parents=True, exist_ok=True)
    aside.chmod(0o700)
    mails, named = _mails_of(saved)
    for name, ours in list(shard.body_files()):
        if ours and name not in named:
            (shard.bodies / name).rename(aside / "bodies" / name)
    for end in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            Path(f"{shard.database}{end}").rename(aside / f"{shard.database.name}{end}")
    sync_directory(aside)
    saved.rename(shard.database)
    (shard.directory / "damaged").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty
        (aside / "bodies").rmdir()
        aside.rmdir()
    sync_directory(shard.directory)
    return Saved(mails, unreadable, aside if aside.exists() else None)


def _mails_of(database: Path) -> tuple[int, set[str]]:
    """How many mails there are, and the ids of those with a body file."""
    with contextlib.closing(
        sqlite3.connect(f"{database.absolute().as_uri()}?immutable=1", uri=True)
    ) as db:
        (count,) = db.execute("SELECT count(*) FROM mail").fetchone()
        # A mail whose content could not be read may have had its body in a file, too.
        named = db.execute(
            "SELECT id FROM mail LEFT JOIN content ON content.mail = mail.seq"
            " WHERE content.body IS NULL"
        )
        return count, {each for (each,) in named}
