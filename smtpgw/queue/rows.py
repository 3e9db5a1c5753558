"""What may be done to the queue's tables, each inside the caller's transaction.

Every function checks first and writes then: one that raises :class:`QueueError` or
:class:`IllegalMove` has written nothing, so those beside it in a group commit stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from smtpgw.queue import codec, custody, handed, history, ids, sole, turns
from smtpgw.queue.batch import Batch
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
    Lease,
    NotFound,
    QueuedMail,
    QueueError,
    Result,
    Settlement,
    StaleLease,
    Tried,
    Wish,
)

_HOLD, _BOUNCE = 1, 2
"""What is wanted when an attempt ends: the column `held`."""

_NAMES = [each.strip() for each in MAIL_COLUMNS.split(",")]
_FLOW, _TOKEN, _SOLE = (_NAMES.index(each) for each in ("flow", "token", "sole"))
_INCOMING, _ACTIVE = MailState.INCOMING.value, MailState.ACTIVE.value
_DONE = after(MailState.ACTIVE, MailEvent.SETTLE_ALL)


def add(batch: Batch, mails: Sequence[Prepared]) -> None:
    """Insert mails that were prepared.  Raises QueueError if one was handed in before."""
    some_caught = False
    for each in mails:
        if each.handed:
            handed.require_new(batch.db, each.handed)
        some_caught = some_caught or each.caught is not None
    if some_caught:
        custody.require_room(batch, mails)
    for each in mails:
        insert(batch, each)


def insert(batch: Batch, new: Prepared) -> None:
    """One more mail, which the caller has checked."""
    state, due, *_ = new.mail
    flow, leased = None, int(state == _ACTIVE)
    alone = new.sole if leased else None
    if state == _INCOMING:
        flow = turns.file(batch, new.site, new.sender, old=False, due=due)
    cursor = batch.db.execute(
        "INSERT INTO mail (state, due, born, id, arrived, size, sender, facts, sum, note, site,"
        " flow, doomed, token, attempts, sole) VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        (*new.mail, new.site, flow, new.doomed, leased, leased, alone),
    )
    seq = cursor.lastrowid or 0
    if alone is None:
        batch.db.executemany(
            "INSERT INTO recipient (mail, number, address, args) VALUES (?,?,?,?)",
            [(seq, *each) for each in new.recipients],
        )
    batch.db.execute("INSERT INTO content VALUES (?,?,?,?,?)", (seq, *new.content))
    if new.handed:
        handed.remember(batch.db, new.handed)
    if new.caught is not None:
        custody.enter(batch, seq, new)


def lease(batch: Batch, now: float, limit: int, duration: float, wish: Wish) -> list[Lease]:
    """Lease what is due: lapsed leases, then mails whose turn it is."""
    chosen = batch.db.execute(
        f"SELECT {MAIL_COLUMNS} FROM mail WHERE state=1 AND due<=? ORDER BY due LIMIT ?",  # noqa: S608 - constant columns
        (now, limit),
    ).fetchall()
    chosen += turns.choose(batch.db, now, limit - len(chosen), wish)
    leases = [_lease_one(batch, row, now + duration) for row in chosen]
    for flow in {row[_FLOW] for row in chosen if row[_FLOW] is not None}:
        turns.left(batch, flow, served=now)
    return [each for each in leases if each is not None]


def _lease_one(batch: Batch, row: tuple[Any, ...], until: float) -> Lease | None:
    try:
        mail = codec.mail(row, _recipients(batch, row[0]))
    except Damaged as error:
        mark_damaged(batch, row[0], str(error))
        return None
    if row[_SOLE] is not None:
        sole.give_row(batch.db, row[0])
    event = MailEvent.LAPSE if mail.state is MailState.ACTIVE else MailEvent.LEASE
    after(mail.state, event)
    batch.db.execute(
        "UPDATE mail SET state=?, due=?, flow=NULL, token=token+1, attempts=attempts+1 WHERE seq=?",
        (MailState.ACTIVE.value, until, row[0]),
    )
    return Lease(mail, row[_TOKEN] + 1, until)


def _wait(batch: Batch, seq: int, state: MailState, due: float, site: str | None = None) -> None:
    """Let a mail wait for its turn; the caller has asked the table of states.

    `site` None: the one it waited for before.
    """
    sender, before = batch.db.execute(
        "SELECT sender, site FROM mail WHERE seq=?", (seq,)
    ).fetchone()
    site = before if site is None else site
    flow = turns.file(batch, site, sender, old=state is MailState.DEFERRED, due=due)
    batch.db.execute(
        "UPDATE mail SET state=?, due=?, site=?, flow=? WHERE seq=?",
        (state.value, due, site, flow, seq),
    )


def file_unfiled(batch: Batch) -> None:
    """Let every mail wait that should and does not: after a crash, or an older version."""
    found = batch.db.execute(
        "SELECT seq, state, due FROM mail INDEXED BY mail_unfiled"
        " WHERE flow IS NULL AND state IN (0, 2)"
    ).fetchall()
    for seq, state, due in found:
        _wait(batch, seq, MailState(state), due)


def _leave(batch: Batch, seq: int) -> None:
    """Take a mail out of its flow, if it stands in one."""
    (flow,) = batch.db.execute("SELECT flow FROM mail WHERE seq=?", (seq,)).fetchone()
    if flow is not None:
        batch.db.execute("UPDATE mail SET flow=NULL WHERE seq=?", (seq,))
        turns.left(batch, flow)


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
    if end.whole and not follow and _whole(batch, end):
        return _DONE
    seq, state, wanted = _leased(batch, end.queue_id, end.token)
    moved, left = _moved(batch, seq, end.results)
    if end.hold is not None and not wanted:
        wanted = _HOLD
        batch.db.execute("UPDATE mail SET note=? WHERE seq=?", (end.hold, seq))
    if not left:
        event = MailEvent.SETTLE_ALL
    else:
        event = MailEvent.SETTLE_HELD if wanted == _HOLD else MailEvent.SETTLE_SOME
    to = after(state, event)
    for each in follow:
        insert(batch, each)
    if to is MailState.DONE:
        remove(batch, seq, end.queue_id)
        return to
    _write_results(batch, seq, end.at, moved)
    history.keep(batch.db, seq, end.tried)
    batch.db.execute(
        "UPDATE mail SET state=?, due=NULL, held=0, deaths=0, warned=max(warned, ?), site=?"
        " WHERE seq=?",
        (to.value, int(end.warned), end.site, seq),
    )
    if to is MailState.DEFERRED:
        now = wanted == _BOUNCE
        _wait(batch, seq, to, end.at if now else end.due, "" if now else None)
    return to


def settle_all(batch: Batch, ends: Sequence[Settlement]) -> list[MailState | Exception]:
    """The same for many that nothing follows: for each its state, or why it could not be."""
    found: list[MailState | Exception] = []
    for each in ends:
        try:
            found.append(settle(batch, each, ()))
        except (QueueError, IllegalMove) as error:
            found.append(error)  # it wrote nothing: see above
    return found


_WHOLE = (
    "SELECT seq, attempts, sole IS NULL,"
    " (SELECT body IS NOT NULL FROM content WHERE content.mail=mail.seq)"
    " FROM mail WHERE id=? AND state=1 AND token=?"
)


def _whole(batch: Batch, end: Settlement) -> bool:
    """Remove a mail that nobody is left of, if the lease still holds; whether it does."""
    # DELETE ... RETURNING would say the same, of a table that SQLite makes for it each time.
    row = batch.db.execute(_WHOLE, (end.queue_id, end.token)).fetchone()
    if row is None:
        return False
    seq, attempts, rows, inline = row
    batch.db.execute("DELETE FROM mail WHERE seq=?", (seq,))
    _remove_parts(batch, seq, tried=attempts > 1, rows=bool(rows))
    if not inline:  # its body is in a file, or may be
        batch.gone.append(end.queue_id)
    return True


def _leased(batch: Batch, queue_id: str, token: int) -> tuple[int, MailState, int]:
    seq, state, wanted, found = find(batch, queue_id)
    if state is not MailState.ACTIVE or found != token:
        raise StaleLease(f"{queue_id}: leased to another, or not at all")
    return seq, state, wanted


def find(batch: Batch, queue_id: str) -> tuple[int, MailState, int, int]:
    """A mail's number, its state, what is wanted for it, and its token.  Raises NotFound."""
    row = batch.db.execute(
        "SELECT seq, state, held, token FROM mail WHERE id=?", (queue_id,)
    ).fetchone()
    if row is None:
        raise NotFound(f"{queue_id}: no such mail")
    return row[0], MailState(row[1]), row[2], row[3]


Moved = list[tuple[RecipientState, Result]]


def _moved(batch: Batch, seq: int, results: Sequence[Result]) -> tuple[Moved, int]:
    """The recipients' new states, and how many are left then."""
    rows = batch.db.execute(
        "SELECT number, state FROM recipient WHERE mail=?1"
        " UNION ALL SELECT 0, 0 FROM mail WHERE seq=?1 AND sole IS NOT NULL",
        (seq,),
    )
    states = {number: RecipientState(state) for number, state in rows}
    moved: Moved = []
    for each in results:
        if each.number not in states:
            raise IllegalMove(f"no recipient {each.number}")
        states[each.number] = recipient_after(states[each.number], each.event)
        moved.append((states[each.number], each))
    return moved, sum(not each.settled for each in states.values())


def _write_results(batch: Batch, seq: int, at: float, moved: Moved) -> None:
    sole.give_row(batch.db, seq)
    batch.db.executemany(
        "UPDATE recipient SET state=?, enhanced=?, text=?, remote=?, destination=?, at=?"
        " WHERE mail=? AND number=?",
        [
            (to.value, r.enhanced, r.text, r.remote, r.destination, at, seq, r.number)
            for to, r in moved
        ],
    )


def remove(batch: Batch, seq: int, queue_id: str) -> None:
    """All rows of a mail in the queue; the caller has asked the table of states."""
    _leave(batch, seq)
    inline = batch.db.execute(
        "SELECT 1 FROM content WHERE mail=? AND body IS NOT NULL", (seq,)
    ).fetchone()
    batch.db.execute("DELETE FROM mail WHERE seq=?", (seq,))
    _remove_parts(batch, seq)
    if inline is None:  # its body is in a file, or may be
        batch.gone.append(queue_id)


def _remove_parts(batch: Batch, seq: int, *, tried: bool = True, rows: bool = True) -> None:
    """What other tables hold of a mail; nothing of attempts unless it was `tried` before, nothing
    of recipients where it had no `rows` for them."""
    if tried:
        batch.db.execute("DELETE FROM attempt WHERE mail=?", (seq,))
    if rows:
        batch.db.execute("DELETE FROM recipient WHERE mail=?", (seq,))
    batch.db.execute("DELETE FROM content WHERE mail=?", (seq,))


def mark_damaged(batch: Batch, seq: int, reason: str) -> None:
    """Mark a mail corrupt, whatever its state says; one without a proper id gets one, to be
    shown and deleted by.  Those of real mails do not begin with so many zeros."""
    _leave(batch, seq)
    batch.db.execute(
        "UPDATE mail SET state=?, due=NULL, note=? WHERE seq=?",
        (MailState.CORRUPT.value, reason, seq),
    )
    (queue_id,) = batch.db.execute("SELECT id FROM mail WHERE seq=?", (seq,)).fetchone()
    if not isinstance(queue_id, str) or not ids.valid(queue_id):
        batch.db.execute("UPDATE mail SET id=? WHERE seq=?", (f"{seq:014}", seq))


def set_aside(batch: Batch, queue_id: str, reason: str) -> None:
    """Mark a mail corrupt."""
    seq, state, _, _ = find(batch, queue_id)
    after(state, MailEvent.DAMAGE)
    mark_damaged(batch, seq, reason)


def hold(batch: Batch, queue_id: str, reason: str) -> None:
    """Hold now, or when the attempt under way ends."""
    seq, state, _, _ = find(batch, queue_id)
    to = after(state, MailEvent.HOLD)
    _leave(batch, seq)
    batch.db.execute(
        "UPDATE mail SET state=?, due=iif(?, due, NULL), held=?, note=? WHERE seq=?",
        (to.value, to is MailState.ACTIVE, int(to is MailState.ACTIVE), reason, seq),
    )


def release(batch: Batch, queue_id: str, now: float) -> None:
    """Back on the road, due now."""
    seq, state, _, _ = find(batch, queue_id)
    to = after(state, MailEvent.RELEASE)
    batch.db.execute(
        "UPDATE mail SET held=iif(held=1, 0, held), note='', deaths=0 WHERE seq=?", (seq,)
    )
    if to is not MailState.ACTIVE:
        _wait(batch, seq, to, now)


def requeue(batch: Batch, queue_id: str, now: float, site: str) -> None:
    """As if it had just come, and for that destination: due now, no attempt known."""
    seq, state, _, _ = find(batch, queue_id)
    to = after(state, MailEvent.REQUEUE)
    _leave(batch, seq)
    history.forget(batch.db, seq)
    batch.db.execute("UPDATE mail SET attempts=0, deaths=0, note='', doomed='' WHERE seq=?", (seq,))
    batch.db.execute(
        "UPDATE recipient SET enhanced='', text='', remote='', destination=''"
        " WHERE mail=? AND state IN (0, 1)",
        (seq,),
    )
    _wait(batch, seq, to, now, site)


def doom(batch: Batch, queue_id: str, now: float, reason: str) -> None:
    """Let the next attempt bounce it untried: now, whatever site rests."""
    seq, state, _, _ = find(batch, queue_id)
    to = after(state, MailEvent.DOOM)
    batch.db.execute(
        "UPDATE mail SET doomed=?, held=?, note='' WHERE seq=?",
        (reason, _BOUNCE if to is MailState.ACTIVE else 0, seq),
    )
    if to is not MailState.ACTIVE:
        _leave(batch, seq)
        _wait(batch, seq, to, now, "")


def flush_one(batch: Batch, now: float, queue_id: str) -> int:
    """Make one mail due now, and end the rest of the site it waits for."""
    seq, state, _, _ = find(batch, queue_id)
    to = after(state, MailEvent.FLUSH)
    due, site = batch.db.execute("SELECT due, site FROM mail WHERE seq=?", (seq,)).fetchone()
    _leave(batch, seq)
    turns.end_rests(batch, site)
    _wait(batch, seq, to, min(due, now))
    return 1


def delete(batch: Batch, queue_id: str) -> None:
    """Remove a mail, whatever its state."""
    seq, state, _, _ = find(batch, queue_id)
    after(state, MailEvent.DELETE)
    custody.leave(batch, seq)  # a corrupt one may have been in quarantine
    remove(batch, seq, queue_id)


def show(batch: Batch, queue_id: str) -> QueuedMail:
    """One mail.  Raises :class:`NotFound`."""
    row = batch.db.execute(
        f"SELECT {MAIL_COLUMNS} FROM mail WHERE id=?",  # noqa: S608 - constant columns
        (queue_id,),
    ).fetchone()
    if row is None:
        raise NotFound(f"{queue_id}: no such mail")
    return describe(batch, row)


def describe(batch: Batch, row: tuple[Any, ...]) -> QueuedMail:
    """A mail from its columns, and what can be said of it if they are damaged."""
    try:
        return codec.mail(row, _recipients(batch, row[0]))
    except Damaged as error:
        return codec.damaged_mail(row, str(error))


def timeline(batch: Batch, queue_id: str) -> list[tuple[int, Tried]]:
    """What was tried for a mail.  Raises :class:`NotFound`."""
    return history.read(batch.db, find(batch, queue_id)[0])


def next_due(batch: Batch, now: float) -> float | None:
    """When something is due that is not yet: a turn, or the end of a lease."""
    (lapse,) = batch.db.execute("SELECT min(due) FROM mail WHERE state=1").fetchone()
    times = (lapse, turns.next_turn(batch.db, now))
    return min((each for each in times if each is not None), default=None)
