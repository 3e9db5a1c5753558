"""What was tried for a mail that is still here: the timeline a postmaster reads.

Rows are written in the transaction that ends an attempt, only where a recipient is left;
the last `KEPT` attempts stay.
"""

from __future__ import annotations

import dataclasses
import json
import sqlite3
from collections.abc import Sequence

from smtpgw.queue.store import Tried

KEPT = 100


def keep(db: sqlite3.Connection, seq: int, tried: Sequence[Tried]) -> None:
    """Remember an attempt's parts; the mail's row counts the attempt already."""
    if not tried:
        return
    (number,) = db.execute("SELECT attempts FROM mail WHERE seq=?", (seq,)).fetchone()
    db.executemany(
        "INSERT OR REPLACE INTO attempt VALUES (?,?,?,?,?)",
        [(seq, number, part, each.at, _facts(each)) for part, each in enumerate(tried)],
    )
    if number > KEPT:
        db.execute("DELETE FROM attempt WHERE mail=? AND number<=?", (seq, number - KEPT))


def forget(db: sqlite3.Connection, seq: int) -> None:
    """Drop what was tried for a mail."""
    db.execute("DELETE FROM attempt WHERE mail=?", (seq,))


def _facts(tried: Tried) -> str:
    facts = dataclasses.asdict(tried)
    del facts["at"]
    return json.dumps(facts, separators=(",", ":"))


def read(db: sqlite3.Connection, seq: int) -> list[tuple[int, Tried]]:
    """The attempts' numbers and parts, the oldest first."""
    rows = db.execute(
        "SELECT number, at, facts FROM attempt WHERE mail=? ORDER BY number, part", (seq,)
    )
    return [(number, Tried(at=at, **json.loads(facts))) for number, at, facts in rows]
