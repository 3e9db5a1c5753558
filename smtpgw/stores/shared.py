"""A SQLite file that all workers read and write: for what may be lost, as with Postfix's caches.

Statements run in a thread of their own, one at a time and each in a transaction; who asks waits
for a bounded time.  Whatever goes wrong is StoreDown: whoever asked has to say what then.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
MEMORY = ":memory:"


class StoreDown(Exception):  # noqa: N818 - it says what happened
    """The file cannot be used now; the message says why."""


@dataclass(frozen=True, slots=True)
class SharedOptions:
    """`path`: the file, or :data:`MEMORY` for one of this process alone.  `schema`: statements
    that make its tables where there are none.  `patience`: seconds for an answer; `waiting`: how
    many may wait for one."""

    path: str
    schema: tuple[str, ...]
    patience: float = 5.0
    waiting: int = 1000


class Shared:
    """Opened when it is first used.  Every method raises StoreDown."""

    def __init__(self, options: SharedOptions) -> None:
        self._options = options
        self._thread = ThreadPoolExecutor(1, "shared-store")
        self._db: sqlite3.Connection | None = None
        self._waiting = 0

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, in a transaction that no other process writes beside."""
        return await self._asked(lambda db: _in_transaction(db, "BEGIN IMMEDIATE", work))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """The same for what only reads: it waits for no writer."""
        return await self._asked(lambda db: _in_transaction(db, "BEGIN", work))

    async def _asked(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._waiting >= self._options.waiting:
            raise StoreDown(f"{self._options.path}: {self._waiting} questions wait already")
        self._waiting += 1
        loop = asyncio.get_running_loop()
        try:
            done = loop.run_in_executor(self._thread, self._run, work)
        except RuntimeError as error:  # closed meanwhile
            self._waiting -= 1
            raise StoreDown(str(error)) from None
        done.add_done_callback(self._answered)
        try:
            async with asyncio.timeout(self._options.patience):
                return await asyncio.shield(done)
        except TimeoutError:
            limit = self._options.patience
            raise StoreDown(f"{self._options.path}: no answer within {limit:g} s") from None
        except (sqlite3.Error, OSError) as error:
            raise StoreDown(f"{self._options.path}: {error}") from error

    def _answered(self, done: asyncio.Future[T]) -> None:
        self._waiting -= 1
        if not done.cancelled():
            done.exception()  # whoever waited too short for it was told so

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._db is None:
            self._db = self._open()
        try:
            return work(self._db)
        except sqlite3.DatabaseError:
            # It may be another file by now: one that was removed because it was broken.
            self._db.close()
            self._db = None
            raise

    def _open(self) -> sqlite3.Connection:
        path, limit = self._options.path, self._options.patience / 2
        if path != MEMORY:
            Path(path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        db = sqlite3.connect(path, timeout=limit, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            # A crash of the machine may lose the last entries, never the file.
            db.execute("PRAGMA synchronous = NORMAL")
            for each in self._options.schema:
                db.execute(each)
        except BaseException:
            db.close()
            raise
        return db

    async def close(self) -> None:
        """Let what was asked end, and close the file."""
        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._db is not None:
            self._db.close()
            self._db = None


def _in_transaction(
    db: sqlite3.Connection, begin: str, work: Callable[[sqlite3.Connection], T]
) -> T:
    db.execute(begin)
    try:
        found = work(db)
        db.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise
    return found
