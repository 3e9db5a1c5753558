"""What clients have passed, kept in a file that all workers of a machine share.

Nothing is ever waited for long: who cannot be found within :data:`PATIENCE` seconds has passed
nothing, and what was passed is written behind the sessions' backs.  What is lost costs a test
made again; so a file that is broken is begun anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import Callable
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from smtpgw.screen.passes import Passes, decode
from smtpgw.stores.shared import Shared, SharedOptions, StoreDown

PATIENCE = 0.2
PENDING = 10_000
"""Changes that wait to be written; the oldest beyond that are forgotten."""
ROWS = 1_000_000
"""Clients kept; beyond that, those whose passes end first go."""

_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS pass (client TEXT PRIMARY KEY, tests TEXT NOT NULL,"
    " last INTEGER NOT NULL) WITHOUT ROWID",
)
_BROKEN = ("malformed", "not a database")


class PassCache:
    """`wall` gives seconds since 1970."""

    def __init__(self, path: Path, wall: Callable[[], float], log: FilteringBoundLogger) -> None:
        self._path, self._wall, self._log = path, wall, log
        self._shared = self._open()
        self._pending: dict[str, Passes] = {}
        self._writing: asyncio.Task[None] | None = None
        self._told = False

    def _open(self) -> Shared:
        return Shared(SharedOptions(str(self._path), _SCHEMA, patience=4.0))

    async def find(self, client: str) -> Passes | None:
        """What a client has passed, as far as can be known now."""
        known = self._pending.get(client)
        if known is not None:
            return known
        query = "SELECT tests FROM pass WHERE client = ?"
        try:
            async with asyncio.timeout(PATIENCE):
                row = await self._shared.read(lambda db: db.execute(query, (client,)).fetchone())
            return None if row is None else decode(str(row[0]))
        except TimeoutError:
            return None
        except (StoreDown, ValueError) as error:
            await self._trouble(error)
            return None

    def keep(self, client: str, passes: Passes) -> None:
        """Remember what a client has passed: from now on in this process, soon in all."""
        if len(self._pending) >= PENDING and client not in self._pending:
            self._pending.pop(next(iter(self._pending)))
        self._pending[client] = passes
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._write())

    async def _write(self) -> None:
        while self._pending:
            batch = dict(self._pending)
            rows = [(client, each.encode(), each.last) for client, each in batch.items()]
            try:
                await self._shared.write(functools.partial(_insert, rows))
            except StoreDown as error:
                await self._trouble(error)
                return  # they stay pending: known here, and written with the next
            for client, passes in batch.items():
                if self._pending.get(client) is passes:
                    del self._pending[client]

    async def clean(self, retention: float) -> None:
        """Forget those who have had nothing good for `retention` seconds."""
        before = int(self._wall() - retention)
        try:
            await self._shared.write(lambda db: _clean(db, before))
        except StoreDown as error:
            await self._trouble(error)

    async def _trouble(self, error: Exception) -> None:
        """Say it once, the next thousand would be the same; begin a broken file anew."""
        tell = self._log.debug if self._told else self._log.warning
        self._told = True
        tell("screen.cache", outcome="failed", file=str(self._path), reason=str(error))
        if any(each in str(error) for each in _BROKEN):
            broken, self._shared = self._shared, self._open()
            await broken.close()
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(OSError):
                    self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    async def close(self) -> None:
        """Write what waits, as far as that is possible."""
        if self._writing is not None:
            await self._writing
        await self._shared.close()


def _insert(rows: list[tuple[str, str, int]], db: sqlite3.Connection) -> None:
    db.executemany("INSERT OR REPLACE INTO pass VALUES (?, ?, ?)", rows)


def _clean(db: sqlite3.Connection, before: int) -> None:
    db.execute("DELETE FROM pass WHERE last < ?", (before,))
    db.execute(
        "DELETE FROM pass WHERE client IN"
        " (SELECT client FROM pass ORDER BY last DESC LIMIT -1 OFFSET ?)",
        (ROWS,),
    )
