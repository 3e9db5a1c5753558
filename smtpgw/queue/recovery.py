"""What is put right when a shard is opened: leases, body files.

Runs once, inside a transaction, before anything else uses the shard.

A mail whose delivery kills its worker would kill the next one, and whoever takes the shard
over.  So after a crash each mail that was in delivery counts it, and is tried again one
after the other, the one leased last first: the next crash comes while few of them are in
delivery, and counts for these.  One that was there at MAX_CRASHES is held, with the reason;
an end of its attempt, whatever it is, clears it.
"""

from __future__ import annotations

from smtpgw.queue import misplaced, quarantine, rows, sole, turns
from smtpgw.queue.batch import Batch
from smtpgw.queue.recovered import Recovery
from smtpgw.queue.shard import Shard
from smtpgw.queue.states import MailEvent, MailState, after

MAX_CRASHES = 3
"""Crashes of workers in whose delivery a mail was; then it is held."""
APART = 0.2
"""Seconds between the next attempts of mails that were in delivery at a crash."""

LOST_DATE = 30 * 86400.0
"""Seconds until a mail in quarantine expires whose own date was lost."""

_NO_FILE = "body file is missing"


def recover(batch: Batch, shard: Shard, now: float, crash: str = "") -> Recovery:
    """Leased mails become due, orphans go.  `crash` says what killed the last run, if a crash
    of the program did."""
    turns.drop_old_rests(batch.db, now)
    sole.give_rows(batch.db)
    misplaced.put_right(batch, now)
    quarantine.put_right(batch, now, LOST_DATE)
    held = tuple(_count_crash(batch, crash)) if crash else ()
    leased = _end_leases(batch, now, APART if crash else 0.0)
    try:
        orphans, strange, there = _sweep(batch, shard)
    except OSError as error:
        # Which are missing cannot be known: that is seen when they are read.
        return Recovery(leased, held=held, unswept=f"{shard.bodies}: {error.strerror}")
    corrupt = _missing(batch, there)
    return Recovery(leased, orphans, tuple(corrupt), tuple(strange), held)


def _count_crash(batch: Batch, crash: str) -> list[tuple[str, str]]:
    """Count it for all that were in delivery; hold, and return, those that were at too many."""
    to = after(MailState.ACTIVE, MailEvent.RECOVER_KILLER).value
    why = f"{MAX_CRASHES} workers crashed while this mail was in delivery, the last by {crash}"
    batch.db.execute("UPDATE mail SET deaths=deaths+1 WHERE state=1")
    found = batch.db.execute(
        "UPDATE mail SET state=?, due=NULL, held=0, note=? WHERE state=1 AND deaths>=?"
        " RETURNING id",
        (to, why, MAX_CRASHES),
    ).fetchall()
    return [(queue_id, why) for (queue_id,) in found]


def _end_leases(batch: Batch, now: float, apart: float) -> int:
    """Let what was in delivery wait again, each `apart` seconds after one that was leased
    later; how many it is."""
    held = after(MailState.ACTIVE, MailEvent.RECOVER_HELD).value
    due = after(MailState.ACTIVE, MailEvent.RECOVER).value
    first = batch.db.execute(
        "UPDATE mail SET state=?, due=NULL, held=0 WHERE state=1 AND held=1", (held,)
    )
    found = batch.db.execute(
        "SELECT seq FROM mail WHERE state=1 ORDER BY mail.due DESC, token DESC"
    ).fetchall()
    batch.db.executemany(
        "UPDATE mail SET state=?, due=?, site=iif(held=2, '', site), held=0 WHERE seq=?",
        [(due, now + place * apart, seq) for place, (seq,) in enumerate(found)],
    )
    rows.file_unfiled(batch)
    return first.rowcount + len(found)


def _sweep(batch: Batch, shard: Shard) -> tuple[int, list[str], set[str]]:
    """Unlink body files that no mail names; leave alone what cannot be ours."""
    orphans, strange, there = 0, [], set()
    for name, ours in shard.body_files():
        if not ours:
            strange.append(name)
        elif batch.db.execute("SELECT 1 FROM mail WHERE id=?", (name,)).fetchone():
            there.add(name)
        else:
            shard.drop_body(name)
            orphans += 1
    return orphans, strange, there


def _missing(batch: Batch, there: set[str]) -> list[tuple[str, str]]:
    found = batch.db.execute(
        "SELECT id FROM content CROSS JOIN mail ON mail.seq = content.mail"
        " WHERE content.body IS NULL AND state<>?",
        (MailState.CORRUPT.value,),
    ).fetchall()
    gone = [queue_id for (queue_id,) in found if queue_id not in there]
    for each in gone:
        rows.set_aside(batch, each, _NO_FILE)
    return [(each, _NO_FILE) for each in gone]
