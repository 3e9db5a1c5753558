"""Mails that nobody would ever see, because what they are found by was damaged.

Looked for at the start, by indexes alone: a mail that never has its turn is never leased,
so its damage would not be noticed, and one without a proper id could not be asked for.
Where and when a mail waits is not part of the mail: it is filed anew and due now.

In SQLite's order text comes after every number, and blobs after all text.
"""

from __future__ import annotations

import sqlite3

from smtpgw.queue import rows
from smtpgw.queue.batch import Batch
from smtpgw.queue.states import MailState

_LAST = max(each.value for each in MailState)
_FAR = 366 * 86400.0
"""Seconds ahead for which nothing waits."""
_ODD_DUES = """
SELECT DISTINCT flow FROM mail INDEXED BY mail_turn
WHERE flow IS NOT NULL AND (due IS NULL OR due > ?)
"""
_USED = "SELECT DISTINCT flow FROM mail INDEXED BY mail_turn WHERE flow IS NOT NULL"
_SAME = f"""
SELECT (SELECT count(*) || ' ' || total(flow) FROM ({_USED}))
 = (SELECT count(*) || ' ' || total(id) FROM flow)
"""  # noqa: S608 - constant text
"""Whether the flows that mails are in are those that there are: by their number and their sum,
for a million of each are compared at every start."""
_ODD_FLOWS = f"""
SELECT flow FROM ({_USED}) WHERE flow NOT IN (SELECT id FROM flow)
UNION ALL SELECT id FROM flow WHERE NOT EXISTS (SELECT 1 FROM mail WHERE flow=flow.id)
"""  # noqa: S608 - constant text


def put_right(batch: Batch, now: float) -> None:
    """Take every such mail out of the line, for :func:`rows.file_unfiled` to put it in again;
    make those corrupt whose id or state cannot be."""
    for strange in ("<0", f"={MailState.DONE.value}", f">{_LAST}"):
        _mark(batch, "no such state", f"state<>1 AND state{strange}")
    _mark(batch, "no such id", "id>=x''")
    latest = now + _FAR
    _take_out(batch.db, latest)
    batch.db.execute(
        "UPDATE mail INDEXED BY mail_unfiled SET due=? WHERE flow IS NULL AND state IN (0, 2)"
        " AND (due IS NULL OR due>?)",
        (now, latest),
    )


def _mark(batch: Batch, reason: str, condition: str) -> None:
    found = batch.db.execute(f"SELECT seq FROM mail WHERE {condition}")  # noqa: S608 - constant text
    for (seq,) in found.fetchall():
        rows.mark_damaged(batch, seq, reason)


def _take_out(db: sqlite3.Connection, latest: float) -> None:
    db.execute("DELETE FROM lane WHERE ready>?", (latest,))
    db.execute(
        "DELETE FROM flow WHERE ready>? OR lane NOT IN (SELECT id FROM lane)",
        (latest,),
    )
    odd = db.execute(_ODD_DUES, (latest,)).fetchall()
    if not db.execute(_SAME).fetchone()[0]:
        odd += db.execute(_ODD_FLOWS).fetchall()
    for flow in odd:
        db.execute("DELETE FROM flow WHERE id=?", flow)
        db.execute("UPDATE mail SET flow=NULL WHERE flow=?", flow)
