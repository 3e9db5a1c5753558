"""Decisions found again, whether the gateway runs or not."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from smtpgw.decisions.decision import Decision, decode

MOST = 200
"""Decisions that are shown for one id."""
DIRECTORY = "decisions"
_LOOK = (
    "SELECT text FROM decision WHERE reference=? "
    "UNION SELECT text FROM decision WHERE queue_id=? AND queue_id<>'' "
    "UNION SELECT text FROM decision WHERE session=? AND session<>'' LIMIT ?"
)


@dataclass(frozen=True, slots=True)
class Found:
    """What was found, the oldest first, and which files could not be read, each with the reason."""

    decisions: tuple[Decision, ...]
    unread: tuple[tuple[Path, str], ...] = ()


def file_of(queue: Path, shard: int) -> Path:
    """Where a worker keeps its decisions, below the directory of the queue."""
    return queue / DIRECTORY / f"{shard}.sqlite"


def find(queue: Path, name: str) -> Found:
    """Those with this reference or queue id, or of this session, in the files of all workers."""
    found: list[Decision] = []
    unread: list[tuple[Path, str]] = []
    try:
        files = sorted(each for each in (queue / DIRECTORY).iterdir() if each.suffix == ".sqlite")
    except FileNotFoundError:
        files = []
    except OSError as error:  # a glob would find nothing
        files, unread = [], [(queue / DIRECTORY, str(error.strerror))]
    for file in files:
        try:
            found.extend(_read(file, name))
        except (sqlite3.Error, ValueError, TypeError) as error:
            unread.append((file, str(error)))
    found.sort(key=lambda each: each.at)
    return Found(tuple(found[:MOST]), tuple(unread))


def _read(file: Path, name: str) -> Iterator[Decision]:
    db = sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True, timeout=5)
    try:
        db.execute("PRAGMA query_only=1")
        rows = db.execute(_LOOK, (name, name, name, MOST)).fetchall()
    finally:
        db.close()
    return (decode(text) for (text,) in rows)
