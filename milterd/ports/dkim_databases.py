"""Databases that tables of keys and signers may be in: LMDB and SQLite, read where they lie."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    import sqlite3

    import lmdb

LIMIT = 5.0
"""Seconds for a lookup."""
_PAUSE = 0.01
_STEPS = 1000
_CF_LIMIT = 65_536
_LOCK = struct.Struct("hhqqi4x")  # struct flock, 64-bit


class TableDownError(Exception):
    """A table that cannot answer now."""


class LmdbTable:
    """A file that postmap(1) writes, read in a transaction for each lookup.

    Postfix does without LMDB's locks and takes fcntl(2) locks on the whole file instead
    (lmdb_table(5)): ours belong to an open file (F_OFD_SETLK).  A lookup waits while postmap
    writes.  A file that another took the place of is opened anew.
    """

    def __init__(self, name: str, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises OSError, ValueError."""
        self.name, self._path, self._clock = name, path, clock
        self._guard = threading.Lock()
        self._identity = (0, 0)
        self._file = -1
        self._environment: lmdb.Environment | None = None
        with self._guard:
            self._current()

    def get(self, key: str) -> str | None:
        """See :meth:`milterd.ports.dkim_tables.Table.get`."""
        import lmdb

        wanted = key.lower().encode("utf-8", "surrogateescape")
        try:
            with self._guard:
                environment = self._current()
                with self._locked(), environment.begin() as transaction:
                    # Postfix on one system ends keys and values with a NUL, on another not.
                    for each in (wanted + b"\0", wanted):
                        if 1 < len(each) <= environment.max_key_size():
                            value: bytes | None = transaction.get(each)
                            if value is not None:
                                return value.partition(b"\0")[0].decode("utf-8")
        except (OSError, ValueError, lmdb.Error) as error:
            raise TableDownError(f"{self.name}: {error}") from error
        return None

    def _current(self) -> lmdb.Environment:
        """The open file that now bears the name."""
        import lmdb

        found = os.stat(self._path)  # noqa: PTH116  # device and inode, no Path needed
        if self._environment is not None and self._identity == (found.st_dev, found.st_ino):
            return self._environment
        if self._environment is not None:
            self._environment.close()
            os.close(self._file)
            self._environment = None
        self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with self._locked():
                self._environment = lmdb.open(
                    str(self._path), subdir=False, readonly=True, lock=False, create=False
                )
        except lmdb.Error as error:
            os.close(self._file)
            raise ValueError(str(error)) from error
        self._identity = (found.st_dev, found.st_ino)
        return self._environment

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """A shared lock on the file; waits for one that writes, up to LIMIT."""
        deadline = self._clock() + LIMIT
        while True:
            try:
                self._lock(fcntl.F_RDLCK)
                break
            except BlockingIOError:
                if self._clock() >= deadline:
                    raise OSError("locked by another for too long") from None
                time.sleep(_PAUSE)
        try:
            yield
        finally:
            self._lock(fcntl.F_UNLCK)

    def _lock(self, kind: int) -> None:
        fcntl.fcntl(self._file, fcntl.F_OFD_SETLK, _LOCK.pack(kind, os.SEEK_SET, 0, 0, 0))


class SqliteTable:
    """A query in a SQLite file, opened for reading only, with a time limit.

    The .cf file is Postfix's (sqlite_table(5)), with `dbpath` and `query`, in which `%s` is
    the key: a value that is bound, never text of the query.  Of the first row, all columns
    count, joined by colons.
    """

    def __init__(self, name: str, cf: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises OSError, ValueError."""
        settings = _cf(cf)
        for wanted in ("dbpath", "query"):
            if not settings.get(wanted):
                raise ValueError(f"{cf} has no {wanted}")
        self.name, self._clock = name, clock
        self._path = settings["dbpath"]
        self._query, self._count = _bound(settings["query"])
        self._local = threading.local()

    def get(self, key: str) -> str | None:
        """See :meth:`milterd.ports.dkim_tables.Table.get`."""
        import sqlite3

        deadline = self._clock() + LIMIT
        try:
            database = self._open()
            database.set_progress_handler(lambda: self._clock() >= deadline, _STEPS)
            found = database.execute(self._query, (key.lower(),) * self._count)
            row = found.fetchone()
            found.close()
        except (sqlite3.Error, sqlite3.Warning, OSError) as error:
            raise TableDownError(f"{self.name}: {error}") from error
        if row is None or any(each is None for each in row):
            return None
        return ":".join(map(str, row))

    def _open(self) -> sqlite3.Connection:
        """This thread's connection to the file that now bears the name."""
        import sqlite3

        found = os.stat(self._path)  # noqa: PTH116  # device and inode, no Path needed
        identity = (found.st_dev, found.st_ino)
        if getattr(self._local, "identity", None) != identity:
            address = f"file:{quote(self._path)}?mode=ro"
            self._local.database = sqlite3.connect(
                address, uri=True, timeout=LIMIT, isolation_level=None
            )
            self._local.identity = identity
        database: sqlite3.Connection = self._local.database
        return database


def _cf(path: Path) -> dict[str, str]:
    """`name = value` lines; one that begins with white space goes on with the last."""
    with path.open("rb") as file:
        text = file.read(_CF_LIMIT).decode("utf-8")
    found: dict[str, str] = {}
    name = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        if line[0].isspace() and name:
            found[name] += " " + line.strip()
            continue
        name, equals, value = (each.strip() for each in line.partition("="))
        if not equals:
            raise ValueError(f"{path}, line {number}: expected name = value")
        found[name] = value
    return found


def _bound(query: str) -> tuple[str, int]:
    """The query with a parameter where `%s` or `'%s'` stands, and how many there are."""
    if "?" in query:
        raise ValueError("the query has a ?, which here is SQLite's own")
    text = query.replace("%%", "\0").replace("'%s'", "?").replace("%s", "?")
    if "%" in text:
        raise ValueError("the query has a % of another kind than %s and %%")
    return text.replace("\0", "%"), text.count("?")
