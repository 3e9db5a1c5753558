"""The state table: every row holds, every pair that is not in it is refused."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from milterd.core.finding import Found
from smtpgw.queue import quarantine
from smtpgw.queue.batch import Batch
from smtpgw.queue.caught import Caught
from smtpgw.queue.sqlite import SqliteStore
from smtpgw.queue.states import (
    KEPT,
    MAIL_MOVES,
    RECIPIENT_MOVES,
    IllegalMove,
    MailEvent,
    MailState,
    RecipientEvent,
    RecipientState,
    after,
    recipient_after,
)
from smtpgw.queue.store import QueueError, Result, Settlement
from tests.queue.support import START, message, new, opened, run

_MAIL_PAIRS = list(itertools.product([None, *MailState], MailEvent))


@pytest.mark.parametrize(("state", "event"), _MAIL_PAIRS)
def test_after_obeys_the_table(state: MailState | None, event: MailEvent) -> None:
    if (state, event) in MAIL_MOVES:
        assert after(state, event) is MAIL_MOVES[state, event].to
    else:
        with pytest.raises(IllegalMove):
            after(state, event)


@pytest.mark.parametrize(
    ("state", "event"), list(itertools.product(RecipientState, RecipientEvent))
)
def test_recipient_after_obeys_the_table(state: RecipientState, event: RecipientEvent) -> None:
    if (state, event) in RECIPIENT_MOVES:
        assert recipient_after(state, event) is RECIPIENT_MOVES[state, event]
    else:
        with pytest.raises(IllegalMove):
            recipient_after(state, event)


def test_each_row_says_what_must_be_durable_before_which_answer() -> None:
    assert all(move.durable and move.answer for move in MAIL_MOVES.values())


def test_every_state_is_reached_and_only_done_is_final() -> None:
    assert {move.to for move in MAIL_MOVES.values()} == set(MailState)
    assert set(MailState) - {state for state, _ in MAIL_MOVES} == {MailState.DONE}


def test_the_document_holds_every_row() -> None:
    text = (Path(__file__).parents[2] / "docs/queue.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    table = [
        ["| " + _name(state), event.value, _name(move.to), move.durable, move.answer + " |"]
        for (state, event), move in MAIL_MOVES.items()
    ]
    assert [row for row in rows if len(row) == 5][1:] == table
    smaller = [
        ["| " + _name(state), event.value, _name(to) + " |"]
        for (state, event), to in RECIPIENT_MOVES.items()
    ]
    assert [row for row in rows if len(row) == 3][1:] == smaller


def _name(state: MailState | RecipientState | None) -> str:
    return "(new)" if state is None else state.name.lower()


_INTERNAL = {
    MailEvent.ARRIVE,
    MailEvent.ARRIVE_HELD,
    MailEvent.ARRIVE_LEASED,
    MailEvent.LEASE,
    MailEvent.LAPSE,
    MailEvent.RECOVER,
    MailEvent.RECOVER_HELD,
    MailEvent.RECOVER_KILLER,
    MailEvent.ARRIVE_CAUGHT,
    MailEvent.ARRIVE_AWAITING,
}


def _kept(
    store: SqliteStore, change: Callable[..., object], *values: object
) -> Callable[[], Awaitable[object]]:
    """A change in the quarantine."""
    return lambda: store.change(lambda batch, _: change(batch, *values))


def _expire(batch: Batch, queue_id: str) -> None:
    if not quarantine.expire(batch, [queue_id]):
        raise IllegalMove("not one that expires")


_STORED = [state for state in MailState if state is not MailState.DONE]


@pytest.mark.parametrize(
    ("state", "event"), [p for p in _MAIL_PAIRS if p[0] in _STORED and p[1] not in _INTERNAL]
)
def test_the_store_obeys_the_table(tmp_path: Path, state: MailState, event: MailEvent) -> None:
    """Put a mail in each state, let each event happen: the store ends where the table says."""

    async def scenario() -> None:
        async with opened(tmp_path / "00") as store:
            item = new(store, message(), hold="x" if state is MailState.HOLD else None)
            if state in KEPT or (event is MailEvent.DISPOSE and state is MailState.CORRUPT):
                what = "scan/?not-scanned" if state is MailState.AWAITING else "virus"
                item = replace(item, caught=Caught((Found("scan", what),)))
            queue_id, token = item.queue_id, 0
            await store.add(item)
            if state in (MailState.ACTIVE, MailState.DEFERRED):
                (lease,) = await store.lease(START, 9, 60.0)
                token = lease.token
            if event is MailEvent.SETTLE_HELD and state is MailState.ACTIVE:
                await store.hold(queue_id, "wanted")
            result = Result(0, RecipientEvent.DEFER, "4.0.0", "later")
            some = Settlement(queue_id, token, START, (result,), START + 300)
            if state is MailState.DEFERRED:
                await store.settle(some)
            if state is MailState.RELEASING:
                await store.change(lambda batch, _: quarantine.let_go(batch, queue_id, START))
            if state is MailState.CORRUPT:
                await store.set_aside(queue_id, "broken")
            done = Result(0, RecipientEvent.DELIVER, "2.0.0", "ok")
            work = {
                MailEvent.NOTE: lambda: store.note(queue_id, token, START, (done,)),
                MailEvent.SETTLE_SOME: lambda: store.settle(some),
                MailEvent.SETTLE_HELD: lambda: store.settle(some),
                MailEvent.SETTLE_ALL: lambda: store.settle(
                    Settlement(queue_id, token, START, (done,), START)
                ),
                MailEvent.HOLD: lambda: store.hold(queue_id, "why"),
                MailEvent.RELEASE: lambda: store.release(queue_id, START),
                MailEvent.FLUSH: lambda: store.flush(START, queue_id),
                MailEvent.REQUEUE: lambda: store.requeue(queue_id, START, "smtp:x"),
                MailEvent.DOOM: lambda: store.doom(queue_id, START, "unwanted"),
                MailEvent.DELETE: lambda: store.delete(queue_id),
                MailEvent.DAMAGE: lambda: store.set_aside(queue_id, "broken"),
                MailEvent.LET_GO: _kept(store, quarantine.let_go, queue_id, START),
                MailEvent.END_RELEASE: _kept(store, quarantine.passed, queue_id, ()),
                MailEvent.PUT_OFF: _kept(store, quarantine.put_off, queue_id, START, "later"),
                MailEvent.GIVE_UP: _kept(store, quarantine.give_up, queue_id, "too late"),
                MailEvent.EXPIRE: _kept(store, _expire, queue_id),
                MailEvent.DISPOSE: _kept(store, quarantine.dispose, queue_id),
            }[event]
            if (state, event) not in MAIL_MOVES:
                with pytest.raises((IllegalMove, QueueError)):
                    await work()
                assert (await store.show(queue_id)).state is state
                return
            await work()
            to = MAIL_MOVES[state, event].to
            counts = await store.counts()
            assert sum(counts.values()) == (to is not MailState.DONE)
            assert to is MailState.DONE or counts[to] == 1

    run(scenario())
