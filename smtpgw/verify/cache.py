"""The cache of addresses: a file that all workers share (address_verify_map), or memory."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from smtpgw.stores.shared import Shared, SharedOptions
from smtpgw.verify import rules
from smtpgw.verify.rules import Asked, Entry, Status, VerifyOptions

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS addresses (address TEXT PRIMARY KEY, status TEXT, probed REAL, "
    "updated REAL, good REAL, enhanced TEXT, text TEXT) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS addresses_updated ON addresses (updated)",
)
_AT_ONCE = 10_000
"""Entries that one transaction of the cleaning looks at."""


class Cache:
    """`clock` gives seconds since 1970; `entries` are kept at most.  Methods raise StoreDown."""

    def __init__(
        self,
        path: str,
        options: VerifyOptions,
        clock: Callable[[], float],
        *,
        patience: float = 5.0,
        entries: int = 1_000_000,
    ) -> None:
        self._shared = Shared(SharedOptions(path, SCHEMA, patience))
        self.options, self._clock, self._entries = options, clock, entries

    async def ask(self, address: str) -> Asked:
        """What is known; if a probe is due, it is for who asked, and nobody else is told so."""
        return await self._shared.write(lambda db: self._ask(db, address))

    def _ask(self, db: sqlite3.Connection, address: str) -> Asked:
        found = rules.ask(_get(db, address), self._clock(), self.options)
        if found.keep is not None:
            _put(db, address, found.keep)
        return found

    async def learn(self, address: str, found: Entry) -> None:
        """What a probe has found."""
        await self._shared.write(lambda db: self._learn(db, address, found))

    def _learn(self, db: sqlite3.Connection, address: str, found: Entry) -> None:
        keep = rules.learn(_get(db, address), found, self._clock(), self.options)
        if keep is not None:
            _put(db, address, keep)

    async def give_back(self, address: str) -> None:
        """The probe was not made: the next who asks may make it."""
        await self._shared.write(
            lambda db: db.execute("UPDATE addresses SET probed = 0 WHERE address = ?", (address,))
        )

    async def clean(self) -> int:
        """Forget what has expired, and the oldest where there are too many; how many."""
        last, dropped = "", 0
        while True:
            start = last
            looked = await self._shared.write(lambda db: self._clean(db, start))  # noqa: B023 - done before the next
            dropped += looked[1]
            if not looked[0]:
                return dropped + await self._shared.write(self._thin)
            last = looked[0]

    def _clean(self, db: sqlite3.Connection, after: str) -> tuple[str, int]:
        """From one address to another, '' at the end."""
        rows = db.execute(
            "SELECT * FROM addresses WHERE address > ? ORDER BY address LIMIT ?", (after, _AT_ONCE)
        ).fetchall()
        now = self._clock()
        old = [(row[0],) for row in rows if rules.stale(_entry(row), now, self.options)]
        db.executemany("DELETE FROM addresses WHERE address = ?", old)
        return (rows[-1][0] if len(rows) == _AT_ONCE else ""), len(old)

    def _thin(self, db: sqlite3.Connection) -> int:
        (count,) = db.execute("SELECT count(*) FROM addresses").fetchone()
        over = max(int(count) - self._entries, 0)
        if over:
            db.execute(
                "DELETE FROM addresses WHERE address IN "
                "(SELECT address FROM addresses ORDER BY updated LIMIT ?)",
                (over,),
            )
        return over

    async def close(self) -> None:
        """Let go of the file."""
        await self._shared.close()


def _get(db: sqlite3.Connection, address: str) -> Entry | None:
    row = db.execute("SELECT * FROM addresses WHERE address = ?", (address,)).fetchone()
    return None if row is None else _entry(row)


def _entry(row: tuple[str, str, float, float, float, str, str]) -> Entry:
    return Entry(Status(row[1]), *row[2:])


def _put(db: sqlite3.Connection, address: str, entry: Entry) -> None:
    row = entry.probed, entry.updated, entry.good, entry.enhanced, entry.text
    db.execute(
        "REPLACE INTO addresses VALUES (?, ?, ?, ?, ?, ?, ?)", (address, entry.status.value, *row)
    )
