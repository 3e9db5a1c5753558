"""Triplets and networks in a file that all workers share."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

from smtpgw.greylist import keys, rules
from smtpgw.greylist.keys import Triplet
from smtpgw.greylist.rules import GreylistOptions, Network, Seen, Verdict
from smtpgw.stores.shared import Shared, SharedOptions

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS triplets (network TEXT, sender TEXT, recipient TEXT, first REAL, "
    "last REAL, passed INTEGER, PRIMARY KEY (network, sender, recipient)) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS triplets_last ON triplets (last)",
    "CREATE TABLE IF NOT EXISTS networks (network TEXT PRIMARY KEY, passes INTEGER, last REAL, "
    "fixed INTEGER) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS networks_last ON networks (last)",
)
_FOR_EVER = 2**53
"""Passes of a network that a postmaster has let through."""


@dataclass(frozen=True, slots=True)
class Row:
    """A triplet as it is kept."""

    triplet: Triplet
    seen: Seen


@dataclass(frozen=True, slots=True)
class NetworkRow:
    """A network as it is kept."""

    network: str
    known: Network


class GreylistStore:
    """`clock` gives seconds since 1970.  Every method raises StoreDown."""

    def __init__(
        self, path: str, options: GreylistOptions, clock: Callable[[], float], patience: float = 5.0
    ) -> None:
        self._shared = Shared(SharedOptions(path, SCHEMA, patience))
        self.options, self._clock = options, clock
        self._new = 0

    async def check(self, triplet: Triplet) -> Verdict:
        """What it is told, which is kept."""
        found = await self._shared.write(lambda db: self._check(db, triplet))
        if found.reason == "new":
            self._new += 1
            if self._new >= max(self.options.entries // 100, 10):
                self._new = 0
                await self.clean()
        return found

    def _check(self, db: sqlite3.Connection, triplet: Triplet) -> Verdict:
        if _in_allowed(db, triplet.network):
            return Verdict("network")
        key = triplet.network, triplet.sender, triplet.recipient
        decided = rules.decide(
            _seen(db, key), _network(db, triplet.network), self._clock(), self.options
        )
        if decided.seen is not None:
            row = decided.seen.first, decided.seen.last, decided.seen.passed
            db.execute("REPLACE INTO triplets VALUES (?, ?, ?, ?, ?, ?)", (*key, *row))
        if decided.network is not None:
            _keep(db, triplet.network, decided.network)
        return decided.verdict

    async def clean(self) -> int:
        """Forget what has run out, and the oldest where there are too many; how many."""
        return await self._shared.write(self._clean)

    def _clean(self, db: sqlite3.Connection) -> int:
        now, options = self._clock(), self.options
        before = db.total_changes
        old = now - options.lifetime
        db.execute("DELETE FROM triplets WHERE last < ? AND passed", (old,))
        late = now - options.window
        db.execute("DELETE FROM triplets WHERE last < ? AND NOT passed AND first < ?", (late, late))
        db.execute("DELETE FROM networks WHERE last < ? AND NOT fixed", (old,))
        for table, key, kept in (
            ("triplets", "network, sender, recipient", ""),
            ("networks", "network", "WHERE NOT fixed"),
        ):
            (count,) = db.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - ours
            over = count - options.entries
            if over > 0:
                db.execute(
                    f"DELETE FROM {table} WHERE ({key}) IN "  # noqa: S608 - names of ours
                    f"(SELECT {key} FROM {table} {kept} ORDER BY last LIMIT ?)",
                    (over,),
                )
        return db.total_changes - before

    # -- for the postmaster ------------------------------------------------------------

    async def triplets(self, limit: int) -> list[Row]:
        """Those seen last, at most `limit`."""
        rows = await self._shared.read(
            lambda db: db.execute(
                "SELECT * FROM triplets ORDER BY last DESC LIMIT ?", (limit,)
            ).fetchall()
        )
        return [Row(Triplet(*row[:3]), Seen(row[3], row[4], bool(row[5]))) for row in rows]

    async def networks(self, limit: int) -> list[NetworkRow]:
        """Those seen last, at most `limit`."""
        rows = await self._shared.read(
            lambda db: db.execute(
                "SELECT * FROM networks ORDER BY last DESC LIMIT ?", (limit,)
            ).fetchall()
        )
        return [NetworkRow(row[0], Network(row[1], row[2], bool(row[3]))) for row in rows]

    async def allow(self, network: str) -> None:
        """Let a network through for good."""
        now = self._clock()
        await self._shared.write(lambda db: _keep(db, network, Network(_FOR_EVER, now, True)))

    async def remove(
        self, *, network: str | None, sender: str | None, recipient: str | None
    ) -> int:
        """Forget every triplet that has all of these, and the network where nothing else is given;
        how many."""
        return await self._shared.write(lambda db: _remove(db, network, sender, recipient))

    async def close(self) -> None:
        """Let go of the file."""
        await self._shared.close()


def _seen(db: sqlite3.Connection, key: tuple[str, str, str]) -> Seen | None:
    row = db.execute(
        "SELECT first, last, passed FROM triplets WHERE network = ? AND sender = ? "
        "AND recipient = ?",
        key,
    ).fetchone()
    return None if row is None else Seen(row[0], row[1], bool(row[2]))


def _network(db: sqlite3.Connection, network: str) -> Network | None:
    row = db.execute(
        "SELECT passes, last, fixed FROM networks WHERE network = ?", (network,)
    ).fetchone()
    return None if row is None else Network(row[0], row[1], bool(row[2]))


def _in_allowed(db: sqlite3.Connection, network: str) -> bool:
    """Whether a postmaster has let a wider network through."""
    those = keys.wider(network)
    marks = ", ".join("?" * len(those))
    found = db.execute(
        f"SELECT 1 FROM networks WHERE network IN ({marks}) AND fixed LIMIT 1",  # noqa: S608 - marks
        those,
    )
    return found.fetchone() is not None


def _keep(db: sqlite3.Connection, network: str, known: Network) -> None:
    row = network, known.passes, known.last, known.fixed
    db.execute("REPLACE INTO networks VALUES (?, ?, ?, ?)", row)


def _remove(
    db: sqlite3.Connection, network: str | None, sender: str | None, recipient: str | None
) -> int:
    before = db.total_changes
    db.execute(
        "DELETE FROM triplets WHERE network = coalesce(?, network) "
        "AND sender = coalesce(?, sender) AND recipient = coalesce(?, recipient)",
        (network, sender, recipient),
    )
    if network is not None and sender is None and recipient is None:
        db.execute("DELETE FROM networks WHERE network = ?", (network,))
    return db.total_changes - before
