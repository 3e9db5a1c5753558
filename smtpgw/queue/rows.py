"""What may be done to the queue's tables, each inside the caller's transaction.

Every function checks first and writes then: one that raises :class:`QueueError` or
:class:`IllegalMove` has written nothing, so those beside it in a group commit stand.
A `Batch` carries the connection and what is to happen after the commit.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from smtpgw.queue import codec
from smtpgw.queue.codec import MAIL_COLUMNS, RECIPIENT_COLUMNS, Prepared
from smtpgw.queue.states import (
    IllegalMove,
    MailEvent,
    MailState,
    RecipientState,
    after,
    recipient_after,
)
from smtpgw.queue.store import (
    Damaged,
    Filter,
    Lease,
    NotFound,
    QueuedMail,
    Result,
    Settlement,
    StaleLease,
)


@dataclass(slots=True)
class Batch:
    """A transaction under way.  `gone` are mails whose body file goes after the commit."""

    db: sqlite3.Connection
    gone: list[str] = field(default_factory=list)


def add(batch: Batch, new: Prepared) -> None:
    """Insert a mail that was prepared."""
    cursor = batch.db.execute(
        "INSERT INTO mail (state, due, born, id, arrived, size, sender, facts, sum, note)"
        " VALUES (?,?,?,?,?,?,?,?,?,?)",
        new.mail,
    )
    seq = cursor.lastrowid
    batch.db.executemany(
        "INSERT INTO recipient (mail, number, address, args) VALUES (?,?,?,?)",
        [(seq, *each) for each in new.recipients],
    )
    batch.db.execute("INSERT INTO content VALUES (?,?,?,?,?)", (seq, *new.content))


def lease(batch: Batch, now: float, limit: int, duration: float) -> list[Lease]:
    """Lease what is due: lapsed leases, then new and deferred mails by halves."""
    lapsed = _due(batch, MailState.ACTIVE, now, limit)
    fresh = _due(batch, MailState.INCOMING, now, limit - len(lapsed))
    old = _due(batch, MailState.DEFERRED, now, limit - len(lapsed))
    room = limit - len(lapsed)
    share = max(room // 2, room - len(old))
    chosen = lapsed + fresh[:share]
    chosen += old[: limit - len(chosen)]
    leases = []
    for row in chosen:
        found = _lease_one(batch, row, now + duration)
        if found is not None:
            leases.append(found)
    return leases


def _due(batch: Batch, state: MailState, now: float, limit: int) -> list[tuple[Any, ...]]:
    return batch.db.execute(
        f"SELECT {MAIL_COLUMNS} FROM mail WHERE state=? AND due<=? ORDER BY due LIMIT ?",  # noqa: S608 - constant columns
        (state.value, now, max(limit, 0)),
    ).fetchall()


def _lease_one(batch: Batch, row: tuple[Any, ...], until: float) -> Lease | None:
    try:
        mail = codec.mail(row, _recipients(batch, row[0]))
    except Damaged as error:
        _mark_damaged(batch, row[0], str(error))
        return None
    event = MailEvent.LAPSE if mail.state is MailState.ACTIVE else MailEvent.LEASE
    after(mail.state, event)
    batch.db.execute(
        "UPDATE mail SET state=?, due=?, token=token+1, attempts=attempts+1 WHERE seq=?",
        (MailState.ACTIVE.value, until, row[0]),
    )
    return Lease(mail, row[11] + 1, until)


def _recipients(batch: Batch, seq: int) -> list[tuple[Any, ...]]:
    return batch.db.execute(
        f"SELECT {RECIPIENT_COLUMNS} FROM recipient WHERE mail=? ORDER BY number",  # noqa: S608 - constant columns
        (seq,),
    ).fetchall()


def note(batch: Batch, queue_id: str, token: int, at: float, results: Sequence[Result]) -> None:
    """Write some outcomes; the mail stays active."""
    seq, state, _ = _leased(batch, queue_id, token)
    after(state, MailEvent.NOTE)
    _write_results(batch, seq, at, _moved(batch, seq, results)[0])


def settle(batch: Batch, end: Settlement, follow: Sequence[Prepared]) -> MailState:
    """Write all outcomes and what follows; end the lease."""
    seq, state, held = _leased(batch, end.queue_id, end.token)
    moved, left = _moved(batch, seq, end.results)
    if not left:
        event = MailEvent.SETTLE_ALL
    else:
        event = MailEvent.SETTLE_HELD if held else MailEvent.SETTLE_SOME
    to = after(state, event)
    for each in follow:
        add(batch, each)
    if to is MailState.DONE:
        _remove(batch, seq, end.queue_id)
        return to
    _write_results(batch, seq, end.at, moved)
    due = end.due if to is MailState.DEFERRED else None
    batch.db.execute(
        "UPDATE mail SET state=?, due=?, held=0, warned=max(warned, ?) WHERE seq=?",
        (to.value, due, int(end.warned), seq),
    )
    return to


def _leased(batch: Batch, queue_id: str, token: int) -> tuple[int, MailState, bool]:
    seq, state, held, found = _find(batch, queue_id)
    if state is not MailState.ACTIVE or found != token:
        raise StaleLease(f"{queue_id}: leased to another, or not at all")
    return seq, state, held


def _find(batch: Batch, queue_id: str) -> tuple[int, MailState, bool, int]:
    row = batch.db.execute(
        "SELECT seq, state, held, token FROM mail WHERE id=?", (queue_id,)
    ).fetchone()
    if row is None:
        raise NotFound(f"{queue_id}: no such mail")
    return row[0], MailState(row[1]), bool(row[2]), row[3]


Moved = list[tuple[RecipientState, Result]]


def _moved(batch: Batch, seq: int, results: Sequence[Result]) -> tuple[Moved, int]:
    """The recipients' new states, and how many are left then."""
    rows = batch.db.execute("SELECT number, state FROM recipient WHERE mail=?", (seq,))
    states = {number: RecipientState(state) for number, state in rows}
    moved: Moved = []
    for each in results:
        if each.number not in states:
            raise IllegalMove(f"no recipient {each.number}")
        states[each.number] = recipient_after(states[each.number], each.event)
        moved.append((states[each.number], each))
    return moved, sum(not each.settled for each in states.values())


def _write_results(batch: Batch, seq: int, at: float, moved: Moved) -> None:
    batch.db.executemany(
        "UPDATE recipient SET state=?, enhanced=?, text=?, remote=?, destination=?, at=?"
        " WHERE mail=? AND number=?",
        [
            (to.value, r.enhanced, r.text, r.remote, r.destination, at, seq, r.number)
            for to, r in moved
        ],
    )


def _remove(batch: Batch, seq: int, queue_id: str) -> None:
    batch.gone.append(queue_id)
    batch.db.execute("DELETE FROM mail WHERE seq=?", (seq,))
    batch.db.execute("DELETE FROM recipient WHERE mail=?", (seq,))
    batch.db.execute("DELETE FROM content WHERE mail=?", (seq,))


def _mark_damaged(batch: Batch, seq: int, reason: str) -> None:
    batch.db.execute(
        "UPDATE mail SET state=?, due=NULL, note=? WHERE seq=?",
        (MailState.CORRUPT.value, reason, seq),
    )


def set_aside(batch: Batch, queue_id: str, reason: str) -> None:
    """Mark a mail corrupt."""
    seq, state, _, _ = _find(batch, queue_id)
    after(state, MailEvent.DAMAGE)
    _mark_damaged(batch, seq, reason)


def hold(batch: Batch, queue_id: str, reason: str) -> None:
    """Hold now, or when the attempt under way ends."""
    seq, state, _, _ = _find(batch, queue_id)
    to = after(state, MailEvent.HOLD)
    batch.db.execute(
        "UPDATE mail SET state=?, due=iif(?, due, NULL), held=?, note=? WHERE seq=?",
        (to.value, to is MailState.ACTIVE, int(to is MailState.ACTIVE), reason, seq),
    )


def release(batch: Batch, queue_id: str, now: float) -> None:
    """Back on the road, due now."""
    seq, state, _, _ = _find(batch, queue_id)
    to = after(state, MailEvent.RELEASE)
    batch.db.execute(
        "UPDATE mail SET state=?, due=iif(?, due, ?), held=0, note='' WHERE seq=?",
        (to.value, to is MailState.ACTIVE, now, seq),
    )


def flush_one(batch: Batch, now: float, queue_id: str) -> int:
    """Make one mail due now."""
    seq, state, _, _ = _find(batch, queue_id)
    after(state, MailEvent.FLUSH)
    batch.db.execute("UPDATE mail SET due=min(due, ?) WHERE seq=?", (now, seq))
    return 1


def flush_some(batch: Batch, now: float, limit: int) -> int:
    """Make up to `limit` of the mails that wait due now; how many it was."""
    cursor = batch.db.execute(
        "UPDATE mail SET due=? WHERE seq IN"
        " (SELECT seq FROM mail WHERE state=? AND due>? ORDER BY due LIMIT ?)",
        (now, MailState.DEFERRED.value, now, limit),
    )
    return cursor.rowcount


def delete(batch: Batch, queue_id: str) -> None:
    """Remove a mail, whatever its state."""
    seq, state, _, _ = _find(batch, queue_id)
    after(state, MailEvent.DELETE)
    _remove(batch, seq, queue_id)


def listing(batch: Batch, chosen: Filter) -> list[QueuedMail]:
    """Mails by id, after `chosen.after`."""
    where, values = "id>?", [chosen.after]
    if chosen.states:
        values += [each.value for each in chosen.states]  # type: ignore[misc] # mixed parameters
        where += f" AND +state IN ({','.join('?' * len(chosen.states))})"
    rows = batch.db.execute(
        f"SELECT {MAIL_COLUMNS} FROM mail WHERE {where} ORDER BY id LIMIT ?",  # noqa: S608 - constant columns, counted marks
        (*values, chosen.limit),
    ).fetchall()
    return [_show(batch, each) for each in rows]


def show(batch: Batch, queue_id: str) -> QueuedMail:
    """One mail.  Raises :class:`NotFound`."""
    row = batch.db.execute(
        f"SELECT {MAIL_COLUMNS} FROM mail WHERE id=?",  # noqa: S608 - constant columns
        (queue_id,),
    ).fetchone()
    if row is None:
        raise NotFound(f"{queue_id}: no such mail")
    return _show(batch, row)


def _show(batch: Batch, row: tuple[Any, ...]) -> QueuedMail:
    try:
        return codec.mail(row, _recipients(batch, row[0]))
    except Damaged as error:
        return codec.damaged_mail(row, str(error))


def counts(batch: Batch) -> dict[MailState, int]:
    """Mails by state."""
    rows = batch.db.execute("SELECT state, count(*) FROM mail GROUP BY state").fetchall()
    found = dict(rows)
    return {each: found.get(each.value, 0) for each in MailState if each is not MailState.DONE}


def next_due(batch: Batch) -> float | None:
    """The earliest due time there is."""
    times = []
    for state in (MailState.INCOMING, MailState.ACTIVE, MailState.DEFERRED):
        found = batch.db.execute("SELECT min(due) FROM mail WHERE state=?", (state.value,))
        times += [each for (each,) in found if each is not None]
    return min(times, default=None)
