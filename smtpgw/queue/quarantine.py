"""What may be done to mails in quarantine, each inside the caller's transaction.

As in :mod:`smtpgw.queue.rows`, what raises has written nothing.  A release is two steps: a command
marks the mail, and the gateway asks its milters again and then ends it in one transaction with
what it comes to: mails in the queue, or a new entry.  Killed before that, it begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence

from smtpgw.queue import custody, rows, schema
from smtpgw.queue.batch import Batch
from smtpgw.queue.codec import Prepared
from smtpgw.queue.states import MailEvent, MailState, after
from smtpgw.queue.store import NotFound, QueuedMail

_TO_GO = schema.of_state(MailState.RELEASING, MailState.AWAITING)
_HERE = schema.of_state(MailState.QUARANTINE, MailState.RELEASING, MailState.AWAITING)
_QUARANTINE = MailState.QUARANTINE.value


def let_go(batch: Batch, queue_id: str, now: float) -> None:
    """Have it released by the gateway, now.  Raises NotFound, IllegalMove: also the second time."""
    seq, state, _, _ = rows.find(batch, queue_id)
    to = after(state, MailEvent.LET_GO)
    batch.db.execute(
        "UPDATE mail SET state=?, due=?, attempts=0, note='' WHERE seq=?", (to.value, now, seq)
    )


def dispose(batch: Batch, queue_id: str) -> None:
    """Remove it.  Raises NotFound, IllegalMove; a mail that was never here stays."""
    seq, state, _, _ = rows.find(batch, queue_id)
    after(state, MailEvent.DISPOSE)
    if not batch.db.execute("SELECT 1 FROM caught WHERE mail=?", (seq,)).fetchone():
        raise NotFound(f"{queue_id}: not in the quarantine")
    _remove(batch, seq, queue_id)


def wanted(batch: Batch, now: float, limit: int) -> list[QueuedMail]:
    """Mails that are to be released and due, those first that a command has released, and then
    those that milters are to be asked about again, the longest waiting first."""
    found = batch.db.execute(
        f"SELECT id FROM mail WHERE {_TO_GO} AND due<=? ORDER BY state, due, id LIMIT ?",  # noqa: S608 - constant text
        (now, limit),
    )
    return [rows.show(batch, queue_id) for (queue_id,) in found.fetchall()]


def expired(batch: Batch, now: float, limit: int) -> list[QueuedMail]:
    """Mails whose time is over; one that is being released stays until that is known."""
    found = batch.db.execute(
        "SELECT id FROM caught JOIN mail ON mail.seq=caught.mail"
        " WHERE expires<=? AND state=? ORDER BY expires LIMIT ?",
        (now, _QUARANTINE, limit),
    )
    return [rows.show(batch, queue_id) for (queue_id,) in found.fetchall()]


def expire(batch: Batch, queue_ids: Sequence[str]) -> list[str]:
    """Remove those that are still there and wait; which these were."""
    gone = []
    for each in queue_ids:
        found = batch.db.execute("SELECT seq, state FROM mail WHERE id=?", (each,)).fetchone()
        if found is None or found[1] != _QUARANTINE:
            continue
        after(MailState.QUARANTINE, MailEvent.EXPIRE)
        _remove(batch, found[0], each)
        gone.append(each)
    return gone


def passed(batch: Batch, queue_id: str, follow: Sequence[Prepared]) -> None:
    """End a release with what the mail became.  Raises NotFound, IllegalMove if it was deleted."""
    seq, state, _, _ = rows.find(batch, queue_id)
    after(state, MailEvent.END_RELEASE)
    for each in follow:
        rows.insert(batch, each)
    _remove(batch, seq, queue_id)


def _remove(batch: Batch, seq: int, queue_id: str) -> None:
    custody.leave(batch, seq)
    rows.remove(batch, seq, queue_id)


def put_off(batch: Batch, queue_id: str, due: float, note: str) -> None:
    """Try again then."""
    seq, state, _, _ = rows.find(batch, queue_id)
    to = after(state, MailEvent.PUT_OFF)
    batch.db.execute(
        "UPDATE mail SET state=?, due=?, attempts=attempts+1, note=? WHERE seq=?",
        (to.value, due, note, seq),
    )


def hasten(batch: Batch, now: float) -> None:
    """Ask at once about all mails that await a milter: one has just answered."""
    batch.db.execute(
        f"UPDATE mail SET due=? WHERE {schema.of_state(MailState.AWAITING)} AND due>?",  # noqa: S608 - constant text
        (now, now),
    )


def give_up(batch: Batch, queue_id: str, note: str) -> None:
    """Back into the quarantine: it could not be released for too long."""
    seq, state, _, _ = rows.find(batch, queue_id)
    to = after(state, MailEvent.GIVE_UP)
    batch.db.execute("UPDATE mail SET state=?, due=NULL, note=? WHERE seq=?", (to.value, note, seq))


def expiry(batch: Batch, queue_id: str) -> float | None:
    """When it expires (queue time); None for a mail that is not in quarantine."""
    row = batch.db.execute(
        "SELECT expires FROM caught JOIN mail ON mail.seq=caught.mail WHERE id=?", (queue_id,)
    ).fetchone()
    return row[0] if row is not None and isinstance(row[0], int | float) else None


def put_right(batch: Batch, now: float, lifetime: float) -> None:
    """At the start: what lost its date gets one, and dates of mails that are gone go."""
    batch.db.execute(
        f"INSERT OR IGNORE INTO caught SELECT seq, ?, size FROM mail WHERE {_HERE}",  # noqa: S608 - constant text
        (now + lifetime,),
    )
    batch.db.execute(
        "UPDATE caught SET expires=? WHERE typeof(expires) NOT IN ('real', 'integer')",
        (now + lifetime,),
    )
    batch.db.execute(
        f"UPDATE mail SET due=? WHERE {_TO_GO} AND typeof(due)<>'real'",  # noqa: S608 - constant text
        (now,),
    )
    batch.db.execute("DELETE FROM caught WHERE mail NOT IN (SELECT seq FROM mail)")
