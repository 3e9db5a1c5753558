"""Which files were taken into the queue: a mail handed in by a file is queued once.

The name is remembered in the transaction that queues the mail and forgotten when the file is
gone for good, so whoever finds the file after a crash knows that it was taken, even if the
mail itself was delivered and removed since.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from smtpgw.queue.store import QueueError


def require_new(db: sqlite3.Connection, name: str) -> None:
    """Raises QueueError for a name that is remembered already."""
    if known(db, [name]):
        raise QueueError(f"{name}: taken already")


def remember(db: sqlite3.Connection, name: str) -> None:
    """In the transaction that queues its mail."""
    db.execute("INSERT INTO handed VALUES (?)", (name,))


def known(db: sqlite3.Connection, names: Sequence[str]) -> set[str]:
    """Those of `names` that are remembered."""
    ask = "SELECT 1 FROM handed WHERE name=?"
    return {each for each in names if db.execute(ask, (each,)).fetchone()}


def forget(db: sqlite3.Connection, names: Sequence[str]) -> None:
    """Remember them no more."""
    db.executemany("DELETE FROM handed WHERE name=?", [(each,) for each in names])
