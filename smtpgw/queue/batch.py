"""A transaction under way, and what is to happen after it."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field


@dataclass(slots=True)
class Batch:
    """`gone` are mails whose body file goes after the commit.  `flows` are flows that this
    transaction found or made, with the earliest turn they have: :mod:`smtpgw.queue.turns`
    keeps it, so that a hundred mails of one sender look for their flow once."""

    db: sqlite3.Connection
    gone: list[str] = field(default_factory=list)
    flows: dict[tuple[str, bytes, bool], tuple[int, float]] = field(default_factory=dict)


def data_version(batch: Batch) -> int:
    """SQLite's count of commits by other connections (PRAGMA data_version)."""
    return int(batch.db.execute("PRAGMA data_version").fetchone()[0])


def shrink(batch: Batch) -> None:
    """Give free pages back; the file is cut at the checkpoint that follows."""
    batch.db.execute("PRAGMA incremental_vacuum").fetchall()
