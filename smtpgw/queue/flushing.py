"""Flushing many mails: those that wait are made due now, and the rests they wait for end.

Some thousand mails in each transaction, so that nobody waits long for the queue meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence

from smtpgw.queue import turns
from smtpgw.queue.batch import Batch

STEP = 10_000
"""Mails a flush looks at in one transaction."""


def flush_some(batch: Batch, now: float, limit: int, after_seq: int) -> tuple[int, int | None]:
    """Make those of the next `limit` mails that wait due now: how many it was, and the mail to
    go on after; None at the end, when every flow has its turn and no site rests."""
    found = batch.db.execute(
        "SELECT max(seq), count(*) FROM (SELECT seq FROM mail WHERE seq>? ORDER BY seq LIMIT ?)",
        (after_seq, limit),
    ).fetchone()
    if not found[1]:
        turns.end_rests(batch)
        turns.hurry(batch.db, now)
        return 0, None
    cursor = batch.db.execute(
        "UPDATE mail SET due=? WHERE seq>? AND seq<=? AND flow IS NOT NULL AND due>?",
        (now, after_seq, found[0], now),
    )
    return cursor.rowcount, found[0]


FOR_SITE = (
    "site=?1 OR EXISTS (SELECT 1 FROM recipient WHERE mail=mail.seq AND destination=?1"
    " AND recipient.state IN (0, 1))"
)
"""Mails for a destination; the value is its name."""
FOR_DOMAIN = (
    "EXISTS (SELECT 1 FROM recipient WHERE mail=mail.seq AND recipient.state IN (0, 1)"
    " AND lower(substr(CAST(address AS TEXT), -length(?1)))=?1)"
)
"""Mails for recipients whose address ends in the value: `@example.net`, `.example.net`."""


def waiting_for(
    batch: Batch, condition: str, value: str, limit: int, after_seq: int
) -> tuple[list[int], int | None]:
    """Which of the next `limit` mails wait and meet FOR_SITE or FOR_DOMAIN, and the mail to
    go on after; None at the end.  Only reads."""
    last, count = batch.db.execute(
        "SELECT max(seq), count(*) FROM (SELECT seq FROM mail WHERE seq>? ORDER BY seq LIMIT ?)",
        (after_seq, limit),
    ).fetchone()
    if not count:
        return [], None
    found = batch.db.execute(
        f"SELECT seq FROM mail WHERE seq>?2 AND seq<=?3 AND flow IS NOT NULL AND ({condition})",  # noqa: S608 - one of two constants
        (value, after_seq, last),
    )
    return [seq for (seq,) in found], last


def flush_these(batch: Batch, now: float, seqs: Sequence[int]) -> int:
    """Make those of these mails that still wait due now, and end the rests that they wait for."""
    flows: set[int] = set()
    count = 0
    for seq in seqs:
        row = batch.db.execute("SELECT flow FROM mail WHERE seq=?", (seq,)).fetchone()
        if row is None or row[0] is None:
            continue
        batch.db.execute("UPDATE mail SET due=min(due, ?) WHERE seq=?", (now, seq))
        flows.add(row[0])
        count += 1
    turns.hurry_flows(batch, flows, now)
    return count
