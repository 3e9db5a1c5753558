"""The first look at a shard's database."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from smtpgw.queue import schema
from smtpgw.queue.reserve import Reserve
from smtpgw.queue.store import StoreBroken, StoreFailed, StoreFull

_PIECE = 1024 * 1024


def connect(
    database: Path, reserve: Reserve, refused: Callable[[], bool], timeout: float
) -> sqlite3.Connection:
    """Open it, on a full disk with the room that is kept back for that; `refused` says whether the
    disk takes nothing.

    What the last run left in the log goes to the database, synced, before anything is
    written behind it: where a sync had failed, the log's pages are in the kernel's memory
    and not on the disk, and the next power cut would take all that follows with them.
    Raises StoreFull, StoreDamaged, StoreBroken, StoreFailed.
    """
    try:
        db = schema.connect(database, busy_timeout=timeout)
    except StoreFull:
        if not reserve.release():
            raise
        db = schema.connect(database, busy_timeout=timeout)
    try:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error as error:
        if schema.is_broken(error):
            raise StoreBroken(f"{database}: {error}") from error
        if schema.is_fatal(error) and not refused():
            raise StoreFailed(f"{database}: {error}") from error
    return db


def mark(db: sqlite3.Connection, database: Path) -> tuple[float, int, float] | None:
    """How far queue time and ids had come, and the wall clock then."""
    try:
        found: tuple[float, int, float] | None = db.execute(
            "SELECT seen, floor, ifnull(wall, seen) FROM mark"
        ).fetchone()
    except sqlite3.Error as error:
        raise schema.kind_of(error)(f"{database}: {error}") from error
    return found


def make_room(db: sqlite3.Connection, log: Path, octets: int) -> None:
    """Give the write-ahead log of an open database a size that it would grow to anyway.

    A commit that makes the file longer has to have its length on the disk too, one that writes over
    what is there has not.  Zeros are no part of a log, wherever they stand in its file: SQLite
    passes by a header without its number, and stops at a frame without the header's salts
    (fileformat2.html, section 4).  Nobody else may write meanwhile: a tool may be at work.  On a
    full disk the log grows as it is written to.
    """
    with contextlib.suppress(OSError, sqlite3.Error):  # it can be done without
        db.execute("BEGIN IMMEDIATE")
        try:
            number = os.open(log, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                _fill(number, octets)
            finally:
                os.close(number)
        finally:
            db.execute("ROLLBACK")


def _fill(number: int, octets: int) -> None:
    """Write zeros behind a file's end up to that size, or leave it as it was."""
    before = at = os.fstat(number).st_size
    try:
        while at < octets:
            at += os.pwrite(number, bytes(min(_PIECE, octets - at)), at)
    except OSError:
        os.ftruncate(number, before)
        raise
