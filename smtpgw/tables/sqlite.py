"""sqlite: tables, sqlite_table(5): a query in a SQLite file, opened for reading only.

Queries run in a thread of the table's own, with a time limit.  Of each row the first
column counts, as in Postfix.  A file that is replaced by another is opened anew.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

from smtpgw.tables import cf as cfs
from smtpgw.tables.asked import Asked, bound, sql_of
from smtpgw.tables.context import Context
from smtpgw.tables.sql import SQLITE, Statement
from smtpgw.tables.table import Table, Unavailable
from smtpgw.tables.template import Parts

_STEPS = 1000
"""Steps of SQLite's machine between two looks at the clock."""


def open(name: str, context: Context) -> Table:
    """The table of the .cf file `name`.  Raises TableError."""
    cf = cfs.read(name, context)
    path = context.path(cf.text("dbpath", empty=False))
    query, statement, where = sql_of(cf, SQLITE)
    return Asked(cf, context, _Database(cf.spec, path, statement, context), [query], where)


class _Database:
    """The file, and the thread that reads it."""

    def __init__(self, name: str, path: Path, statement: Statement, context: Context) -> None:
        self._name, self._path, self._statement = name, path, statement
        self._clock, self._limit = context.clock, context.query_limit
        self._thread = ThreadPoolExecutor(1, "sqlite-table")
        self._opened: sqlite3.Connection | None = None
        self._file = (0, 0)

    async def values(self, key: Parts) -> Iterable[bytes | None]:
        """The first column of each row.  Raises Unavailable."""
        deadline = self._clock() + self._limit
        parameters = bound(self._statement, key, self._name)
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._thread, self._query, parameters, deadline
            )
        except (sqlite3.Error, sqlite3.Warning, OSError) as error:
            late = self._clock() >= deadline
            reason = f"no answer within {self._limit:g} s" if late else str(error)
            raise Unavailable(self._name, f"{self._path}: {reason}") from error

    def _query(self, parameters: Sequence[str | int], deadline: float) -> list[bytes | None]:
        database = self._open()
        database.set_progress_handler(lambda: self._clock() >= deadline, _STEPS)
        rows = database.execute(self._statement.text, parameters).fetchall()
        return [self._text(database, row[0]) for row in rows if row]

    @staticmethod
    def _text(database: sqlite3.Connection, value: object) -> bytes | None:
        """The value as sqlite3_column_text() has it."""
        if isinstance(value, float):
            (value,) = database.execute("SELECT CAST(? AS TEXT)", (value,)).fetchone()
        return value if value is None or isinstance(value, bytes) else str(value).encode()

    def _open(self) -> sqlite3.Connection:
        found = os.stat(self._path)  # noqa: PTH116 - device and inode, no Path needed
        if self._opened is not None and self._file == (found.st_dev, found.st_ino):
            return self._opened
        self._shut()
        database = sqlite3.connect(
            f"file:{quote(str(self._path))}?mode=ro",
            uri=True,
            timeout=self._limit,
            isolation_level=None,
            check_same_thread=False,
        )
        database.text_factory = bytes
        self._opened, self._file = database, (found.st_dev, found.st_ino)
        return database

    def _shut(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    async def close(self) -> None:
        """Close the file and end the thread."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._shut)
        self._thread.shutdown(wait=False)
