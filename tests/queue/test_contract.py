"""The SQLite store keeps every promise a store makes."""

from __future__ import annotations

from pathlib import Path

from smtpgw.queue.clock import QueueClock
from smtpgw.queue.sqlite import SqliteOptions, SqliteStore
from smtpgw.queue.store import Store
from tests.queue.contract import StoreContract


class TestSqlite(StoreContract):
    """The embedded store."""

    def open(self, directory: Path, clock: QueueClock) -> Store:
        return SqliteStore.open(directory, SqliteOptions(queue_minfree=0), clock=clock)
