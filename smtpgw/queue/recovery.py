"""What is put right when a shard is opened: leases, clocks, body files.

Runs once, inside a transaction, before anything else uses the shard.
"""

from __future__ import annotations

from smtpgw.queue import misplaced, rows, turns
from smtpgw.queue.batch import Batch
from smtpgw.queue.clock import unwatched_shift
from smtpgw.queue.shard import Shard
from smtpgw.queue.states import MailEvent, MailState, after
from smtpgw.queue.store import Recovery

_NO_FILE = "body file is missing"


def recover(batch: Batch, shard: Shard, seen: float | None, now: float) -> Recovery:
    """Leased mails become due, times are shifted after a clock jump, orphans go."""
    shift = 0.0 if seen is None else unwatched_shift(seen, now)
    if shift:
        batch.db.execute("UPDATE mail SET born=born+?, due=due+?", (shift, shift))
        turns.shift(batch.db, shift)
    turns.drop_old_rests(batch.db, now)
    misplaced.put_right(batch, now)
    leased = _end_leases(batch, now)
    try:
        orphans, strange, there = _sweep(batch, shard)
    except OSError as error:
        # Which are missing cannot be known: that is seen when they are read.
        return Recovery(leased, shift=shift, unswept=f"{shard.bodies}: {error.strerror}")
    corrupt = _missing(batch, there)
    return Recovery(leased, orphans, tuple(corrupt), tuple(strange), shift)


def _end_leases(batch: Batch, now: float) -> int:
    active = MailState.ACTIVE.value
    held = after(MailState.ACTIVE, MailEvent.RECOVER_HELD).value
    due = after(MailState.ACTIVE, MailEvent.RECOVER).value
    first = batch.db.execute(
        "UPDATE mail SET state=?, due=NULL, held=0 WHERE state=? AND held=1", (held, active)
    )
    second = batch.db.execute(
        "UPDATE mail SET state=?, due=?, site=iif(held=2, '', site), held=0 WHERE state=?",
        (due, now, active),
    )
    rows.file_unfiled(batch)
    return first.rowcount + second.rowcount


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
