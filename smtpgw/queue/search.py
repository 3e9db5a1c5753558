"""Which mails are meant: a filter as conditions of SQL, and its mails page by page.

A pattern with `*` or `?` stands for the whole text, as in a shell; any other one is
looked for anywhere in it.  ASCII letters count alike in both cases.  What no index
serves is looked for in windows of :data:`STEP` mails, so that memory stays bounded,
nobody's transaction is long, and whoever waits can be told how far it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from smtpgw.queue import rows, schema
from smtpgw.queue.batch import Batch
from smtpgw.queue.codec import MAIL_COLUMNS
from smtpgw.queue.states import KEPT, MailState
from smtpgw.queue.store import Filter, QueuedMail

STEP = 20_000
"""Mails looked at between two reports of progress."""
PAGE = 500
_FIRST_STEP, _FIRST_PAGE = 500, 50
NULL_SENDER = "<>"

Condition = tuple[str, tuple[Any, ...]]
Progress = Callable[[int], None]

_OPEN = (
    "(EXISTS (SELECT 1 FROM recipient WHERE mail=mail.seq AND recipient.state IN (0, 1) AND %s)"
    " OR sole IS NOT NULL AND EXISTS (SELECT 1 FROM"
    " (SELECT mail.sole AS address, '' AS text, '' AS destination) AS recipient WHERE %s))"
)
"""Twice the same, for whether a recipient has a row or not (sole.py)."""


def counts(batch: Batch) -> dict[MailState, int]:
    """Mails by state."""
    found = batch.db.execute(
        "SELECT state, count(*) FROM mail WHERE state<>1 GROUP BY state"
        " UNION ALL SELECT 1, count(*) FROM mail WHERE state=1"
    )
    by_state = dict(found.fetchall())
    return {each: by_state.get(each.value, 0) for each in MailState if each is not MailState.DONE}


def quiet(_looked_at: int) -> None:
    """No report."""


def listing(batch: Batch, chosen: Filter, now: float) -> list[QueuedMail]:
    """Mails by id after `chosen.after`, at most `chosen.limit`."""
    states: Iterable[MailState | None] = [*chosen.states] or [None]
    found: list[tuple[Any, ...]] = []
    for each in states:
        found += _page(batch, chosen, each, now, chosen.after, None, chosen.limit)
    found.sort(key=lambda row: str(row[1]))
    return [rows.describe(batch, each) for each in found[: chosen.limit]]


def walk(
    batch: Batch, chosen: Filter, state: MailState | None, now: float, progress: Progress = quiet
) -> Iterator[QueuedMail]:
    """All mails of one state, or of any, by id; `chosen.states` and its limit do not count.

    Other transactions may come between two pages.  The first ones are small, for somebody who
    wants no more than the first mails.
    """
    after, step, size = chosen.after, min(_FIRST_STEP, STEP), _FIRST_PAGE
    while (end := _window(batch, state, after, step)) is not None:
        last, looked_at = end
        while page := _page(batch, chosen, state, now, after, last, size):
            yield from (rows.describe(batch, each) for each in page)
            after, full = str(page[-1][1]), len(page) == size
            size = min(2 * size, PAGE)
            if not full:
                break
        progress(looked_at)
        after, step = last, min(4 * step, STEP)


def _window(batch: Batch, state: MailState | None, after: str, step: int) -> tuple[str, int] | None:
    """The last of the next `step` mails to look at and how many they are; None at the end."""
    where = "" if state is None else f"{schema.of_state(state)} AND "
    ids = f"SELECT id FROM mail WHERE {where}id>? AND id<x'' ORDER BY id LIMIT {step:d}"  # noqa: S608 - constant text
    last, count = batch.db.execute(
        f"SELECT max(id), count(*) FROM ({ids})",  # noqa: S608 - constant text
        (after,),
    ).fetchone()
    return (str(last), count) if count else None


def _page(
    batch: Batch,
    chosen: Filter,
    state: MailState | None,
    now: float,
    after: str,
    last: str | None,
    limit: int,
) -> list[tuple[Any, ...]]:
    # Blobs come after all text: an id that is one would be found for ever.  One upper bound
    # only, for SQLite would look at all that is below the one it takes.
    upper: Condition = ("id<x''", ()) if last is None else ("id<=?", (last,))
    conditions = [*_conditions(chosen, now), ("id>?", (after,)), upper]
    if state is not None:
        conditions.append((schema.of_state(state), ()))
    where = " AND ".join(sql for sql, _ in conditions)
    values = [each for _, those in conditions for each in those]
    return batch.db.execute(
        f"SELECT {MAIL_COLUMNS} FROM mail WHERE {where} ORDER BY id LIMIT ?",  # noqa: S608 - constant columns and conditions
        (*values, limit),
    ).fetchall()


def _conditions(chosen: Filter, now: float) -> Iterator[Condition]:
    if chosen.quarantine:
        yield "seq IN (SELECT mail FROM caught)", ()
    elif not chosen.states:
        yield f"state NOT IN ({', '.join(str(each.value) for each in KEPT)})", ()
    if chosen.born_after is not None:
        yield "born>=?", (chosen.born_after,)
    if chosen.born_before is not None:
        yield "born<=?", (chosen.born_before,)
    if chosen.senders:
        yield _any(_sender(each) for each in chosen.senders)
    if chosen.recipients:
        yield _any(_inside(_like("CAST(address AS TEXT)", each)) for each in chosen.recipients)
    if chosen.destinations:
        yield _any(_destination(each) for each in chosen.destinations)
    if chosen.reasons:
        yield _any(_reason(each, now) for each in chosen.reasons)


def _sender(pattern: str) -> Condition:
    if pattern in ("", NULL_SENDER):
        return "sender=x''", ()
    return _like("CAST(sender AS TEXT)", pattern)


def _destination(pattern: str) -> Condition:
    return _any([_like("site", pattern), _inside(_like("recipient.destination", pattern))])


def _reason(pattern: str, now: float) -> Condition:
    """Whatever a list shows as the reason: why it is held, doomed, not delivered, or at rest."""
    resting, values = _like("rest.note", pattern)
    at_rest = f"flow IS NOT NULL AND site IN (SELECT site FROM rest WHERE until>? AND {resting})"  # noqa: S608 - constant text
    return _any(
        [
            _like("note", pattern),
            _like("doomed", pattern),
            _inside(_like("recipient.text", pattern)),
            (at_rest, (now, *values)),
        ]
    )


def _inside(condition: Condition) -> Condition:
    """For some recipient that is left."""
    sql, values = condition
    return _OPEN % (sql, sql), (*values, *values)


def _any(conditions: Iterable[Condition]) -> Condition:
    each = list(conditions)
    sql = " OR ".join(f"({one})" for one, _ in each)
    return f"({sql})", tuple(value for _, values in each for value in values)


def _like(column: str, pattern: str) -> Condition:
    if "*" in pattern or "?" in pattern:
        return f"lower({column}) GLOB lower(?)", (pattern.replace("[", "[[]"),)
    return f"instr(lower({column}), lower(?))>0", (pattern,)
