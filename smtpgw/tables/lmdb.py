"""lmdb: - the database that postmap(1) writes: `lmdb:/etc/postfix/virtual` is
/etc/postfix/virtual.lmdb.

It is read where it lies, each lookup in a transaction of its own, so that every change
counts at once.  Postfix does without LMDB's locks and takes fcntl(2) locks on the whole
file instead (lmdb_table(5)): ours are of the kind that belongs to an open file (F_OFD_SETLK),
since others end when anybody in the process closes the file.  While postmap writes, a lookup waits.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lmdb

from smtpgw.tables.context import Context
from smtpgw.tables.table import Found, TableError, Unavailable

PAUSE = 0.01
"""Seconds between two tries to lock."""
_LOCK = struct.Struct("hhqqi4x")  # struct flock, 64-bit


class Busy(Exception):  # noqa: N818 - no error: the file is being written
    """Another holds the lock."""


class Database:
    """One open database file."""

    def __init__(self, file: Path) -> None:
        """Raises OSError, lmdb.Error, Busy."""
        self.file = file
        self._locked = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        try:
            status = os.fstat(self._locked)
            self.identity = status.st_ino, status.st_dev
            with self.lock():
                self._environment = lmdb.open(
                    str(file),
                    subdir=False,
                    readonly=True,
                    lock=False,
                    create=False,
                    max_spare_txns=1,
                )
        except BaseException:
            os.close(self._locked)
            raise

    @contextmanager
    def lock(self) -> Iterator[None]:
        """A shared lock on the file.  Raises Busy, OSError."""
        self._set(fcntl.F_RDLCK)
        try:
            yield
        finally:
            self._set(fcntl.F_UNLCK)

    def _set(self, kind: int) -> None:
        try:
            fcntl.fcntl(self._locked, fcntl.F_OFD_SETLK, _LOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
        except BlockingIOError:
            raise Busy from None

    def get(self, key: bytes) -> bytes | None:
        """A value.  Postfix on one system ends keys and values with a NUL, on another not, so
        both are tried (dict_lmdb.c).  Raises Busy, OSError, lmdb.Error."""
        if b"\0" in key:
            return None
        with self.lock(), self._environment.begin() as transaction:
            for each in (key + b"\0", key):
                if 0 < len(each) <= self._environment.max_key_size():
                    value: bytes | None = transaction.get(each)
                    if value is not None:
                        return value.partition(b"\0")[0]
        return None

    def items(self) -> list[tuple[bytes, bytes]]:
        """Everything.  Raises Busy, OSError, lmdb.Error."""
        with self.lock(), self._environment.begin() as transaction:
            return [
                (bytes(key).partition(b"\0")[0], bytes(value).partition(b"\0")[0])
                for key, value in transaction.cursor()
            ]

    def is_current(self) -> bool:
        """Whether its name still leads to this file."""
        try:
            status = self.file.stat()
        except OSError:
            return True
        return self.identity == (status.st_ino, status.st_dev)

    def close(self) -> None:
        """Give back descriptors and memory map."""
        self._environment.close()
        os.close(self._locked)


class Lmdb:
    """Keys of a database file."""

    def __init__(self, name: str, context: Context) -> None:
        self._name, self._context = context.spec(name), context
        self._folding = context.folding
        file = context.path(name)
        self._file = file.with_name(file.name + ".lmdb")
        self._database: Database | None = None
        self._next_look = 0.0
        self._open_first()

    @property
    def name(self) -> str:
        """The table as it was written."""
        return self._name

    def _open_first(self) -> None:
        try:
            self._current()
        except Busy:
            return  # it is there; the first lookup waits
        except (OSError, lmdb.Error) as error:
            raise TableError(self.name, str(self._file), found=str(error)) from error

    async def find(self, key: bytes) -> Found | None:
        """Waits while the file is being written.  Raises Unavailable."""
        folded = self._folding.fixed(key)
        if folded is None:
            return None
        deadline = self._context.clock() + self._context.query_limit
        while True:
            try:
                return self._answer(key, self._get(folded))
            except Busy:
                if self._context.clock() >= deadline:
                    raise Unavailable(self.name, "locked by another for too long") from None
            except (OSError, lmdb.Error) as error:
                raise Unavailable(self.name, str(error)) from error
            await asyncio.sleep(PAUSE)

    def entries(self) -> Iterator[tuple[bytes, Found]]:
        """Every key with its answer.  Raises Unavailable."""
        try:
            items = self._current().items()
        except Busy:
            raise Unavailable(self.name, "locked by another") from None
        except (OSError, lmdb.Error) as error:
            raise Unavailable(self.name, str(error)) from error
        for key, value in items:
            yield key, Found(value, str(self._file))

    async def close(self) -> None:
        """Close the file."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _answer(self, key: bytes, value: bytes | None) -> Found | None:
        if value is None:
            return None
        if not self._folding.allows(value):
            raise Unavailable(self.name, f"the value of {key!r} is not UTF-8")
        return Found(value, str(self._file))

    def _get(self, key: bytes) -> bytes | None:
        try:
            return self._current().get(key)
        except lmdb.MapResizedError:  # the file has outgrown what we mapped of it
            self._renew()
            return self._current().get(key)

    def _current(self) -> Database:
        now = self._context.clock()
        if self._database is not None and now >= self._next_look:
            self._next_look = now + self._context.check_files
            if not self._database.is_current():
                self._renew()
        if self._database is None:
            self._database = Database(self._file)
        return self._database

    def _renew(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None


def open(name: str, context: Context) -> Lmdb:
    """Raises TableError."""
    return Lmdb(name, context)
