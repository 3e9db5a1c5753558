"""What the queue's tools cost does not depend on how much there is, or only as it must.

Counted in steps of SQLite's machine, which no other load changes.  GATEPOST_SCALE is the
number of mails; `python -m tests.scale.fill` fills a queue to measure by hand.
"""

from __future__ import annotations

import os
import sqlite3
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest

from smtpgw.queue import schema, search
from smtpgw.queue.ages import ages
from smtpgw.queue.batch import Batch
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Filter
from tests.queue.support import START
from tests.scale.fill import Plan, fill

MAILS = int(os.environ.get("GATEPOST_SCALE", "24000"))
STEP = 100
pytestmark = pytest.mark.timeout(900)
WAITING = (MailState.INCOMING, MailState.DEFERRED)


@pytest.fixture(scope="module")
def databases(tmp_path_factory: pytest.TempPathFactory) -> tuple[sqlite3.Connection, ...]:
    """A queue, and one that is eight times as large."""
    root = tmp_path_factory.mktemp("scale")
    found = []
    for name, mails in (("small", MAILS // 8), ("large", MAILS)):
        fill(root / name, Plan(mails, START))
        found.append(schema.connect(Path(root / name / "queue.db"), busy_timeout=1.0))
    return tuple(found)


def steps(db: sqlite3.Connection, work: Callable[[Batch], object]) -> int:
    """How many steps of SQLite's machine something takes."""
    count = 0

    def told() -> int:
        nonlocal count
        count += STEP
        return 0

    db.set_progress_handler(told, STEP)
    try:
        work(Batch(db))
    finally:
        db.set_progress_handler(None, 0)
    return count


@pytest.mark.parametrize("state", [None, MailState.DEFERRED, MailState.HOLD])
def test_the_first_page_costs_the_same_in_any_queue(
    databases: tuple[sqlite3.Connection, ...], state: MailState | None
) -> None:
    """But for the window, which is counted along an index: a few steps a mail."""

    def first(batch: Batch) -> None:
        assert list(islice(search.walk(batch, Filter(), state, START), 20))

    small, large = (steps(db, first) for db in databases)
    assert large < small + 12 * search.STEP

    def page(batch: Batch) -> None:
        states = frozenset() if state is None else frozenset({state})
        assert len(search.listing(batch, Filter(states, limit=20), START)) == 20

    small, large = (steps(db, page) for db in databases)
    assert large <= small * 1.5 + STEP


def test_a_search_for_nothing_costs_so_much_a_mail_and_no_memory(
    databases: tuple[sqlite3.Connection, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many windows it takes."""
    monkeypatch.setattr(search, "STEP", MAILS // 40)
    nothing = Filter(senders=("nobody@",), recipients=("nobody@",), reasons=("nothing",))

    def all_of_it(batch: Batch) -> None:
        assert list(search.walk(batch, nothing, None, START)) == []

    small, large = (steps(db, all_of_it) for db in databases)
    assert large < small * 8 * 1.5
    tracemalloc.start()
    try:
        walked = sum(1 for _ in search.walk(Batch(databases[1]), Filter(), None, START))
        assert walked == MAILS
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024 * 1024
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("by_sender", [False, True])
def test_ages_are_one_pass_over_an_index(
    databases: tuple[sqlite3.Connection, ...], by_sender: bool
) -> None:
    """No row of a mail is read, and each mail costs a few steps."""
    db = databases[1]
    asked: list[str] = []
    db.set_trace_callback(asked.append)
    found = ages(Batch(db), WAITING, START, by_sender=by_sender)
    db.set_trace_callback(None)
    assert sum(each.total for each in found.values()) == MAILS - MAILS // 100
    (sql,) = asked
    plan = " ".join(row[3] for row in db.execute("EXPLAIN QUERY PLAN " + sql))
    assert "COVERING INDEX mail_age" in plan
    assert steps(db, lambda batch: ages(batch, WAITING, START)) < 100 * MAILS
