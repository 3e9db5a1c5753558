"""A shard's queue time as dates that people read, for those who look from another process.

The shard's `mark` has queue time and the wall clock as they were at its last change.  They
differ once the wall clock has jumped (:mod:`smtpgw.queue.clock`); no stored time is changed
for that, so whoever shows one adds the difference.
"""

from __future__ import annotations

import sqlite3
from dataclasses import replace

from smtpgw.queue.clock import SAME, resumed
from smtpgw.queue.store import Filter, QueuedMail, Rest


def queue_time(db: sqlite3.Connection, now: float) -> float:
    """The shard's time when the wall clock says `now`."""
    found = _mark(db)
    return now if found is None else resumed(*found, now)


def ahead(db: sqlite3.Connection) -> float:
    """Seconds to add to queue time for the wall clock's."""
    found = _mark(db)
    if found is None or abs(found[1] - found[0]) < SAME:
        return 0.0
    return found[1] - found[0]


def _mark(db: sqlite3.Connection) -> tuple[float, float] | None:
    row = db.execute("SELECT seen, ifnull(wall, seen) FROM mark").fetchone()
    return None if row is None else (row[0], row[1])


def dated(mail: QueuedMail, by: float) -> QueuedMail:
    """A mail with its times moved."""
    if not by:
        return mail
    due = None if mail.due is None else mail.due + by
    return replace(mail, born=mail.born + by, due=due)


def dated_rest(rest: Rest, by: float) -> Rest:
    """A rest with its end moved."""
    return replace(rest, until=rest.until + by) if by else rest


def in_queue_time(chosen: Filter, by: float) -> Filter:
    """A filter by dates as one by queue time."""
    if not by:
        return chosen
    after, before = chosen.born_after, chosen.born_before
    return replace(
        chosen,
        born_after=None if after is None else after - by,
        born_before=None if before is None else before - by,
    )
