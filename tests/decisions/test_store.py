"""The store of decisions: what is kept, for how long, and that it never stands in the way."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpgw.decisions.decision import ALPHABET, LONGEST, WIDTH, Decision, decode, new_reference
from smtpgw.decisions.finding import file_of, find
from smtpgw.decisions.store import DecisionStore, StoreOptions
from tests.peers.process import wait_for


def decision(reference: str = "abcd2345", **values: object) -> Decision:
    usual: dict[str, object] = {
        "reference": reference, "at": 1.0, "session": "s1", "listener": "mx", "command": "RCPT",
        "code": 554, "enhanced": "5.7.1", "text": "no", "source": "reject", "outcome": "rejected",
    }  # fmt: skip
    return Decision(**{**usual, **values})  # type: ignore[arg-type]


def make(reference: str = "abcd2345", **values: object) -> Callable[[], Decision]:
    return lambda: decision(reference, **values)


def store(
    place: Path,
    lost: list[int] | None = None,
    *,
    kept: int = 100,
    waiting: int = 1000,
    shard: int = 0,
) -> DecisionStore:
    options = StoreOptions(file_of(place, shard), kept, waiting)
    counted = lost if lost is not None else []
    return DecisionStore(options, log=structlog.get_logger(), lost=counted.append)


def test_a_decision_is_found_by_reference_queue_id_and_session(tmp_path: Path) -> None:
    kept = [store(tmp_path, shard=shard) for shard in (0, 1)]
    one = decision(steps=({"restriction": "reject", "seconds": 0.5},), facts={"a": ["b"]})
    other = decision("zzzz2222", session="s2", queue_id="1JAbcdef0000xx", at=2.0)
    kept[0].note(lambda: one)
    kept[1].note(lambda: other)
    for each in kept:
        each.close()
    for name, expected in (("abcd2345", one), ("s1", one), ("1JAbcdef0000xx", other)):
        (found,) = find(tmp_path, name).decisions
        assert json.loads(found.encode()) == json.loads(expected.encode())
    assert find(tmp_path, "nothing").decisions == ()


def test_it_is_found_while_the_store_is_at_work(tmp_path: Path) -> None:
    kept = store(tmp_path)
    kept.note(make())
    wait_for(lambda: find(tmp_path, "abcd2345").decisions, "the decision is written")
    kept.close()


def test_only_the_newest_stay(tmp_path: Path) -> None:
    kept = store(tmp_path, kept=10)
    for number in range(50):
        kept.note(make(f"r{number:03}"))
    kept.close()
    with sqlite3.connect(file_of(tmp_path, 0)) as db:
        those = [each for (each,) in db.execute("SELECT reference FROM decision ORDER BY seq")]
    assert those == [f"r{number:03}" for number in range(40, 50)]


def test_who_cannot_write_loses_and_holds_up_nobody(tmp_path: Path) -> None:
    lost: list[int] = []
    (tmp_path / "decisions").write_text("in the way of the directory")
    kept = store(tmp_path, lost)
    for _ in range(10):
        kept.note(make())
    wait_for(lambda: sum(lost) == 10, "all are counted as lost")
    (tmp_path / "decisions").unlink()
    kept.note(make())
    wait_for(lambda: find(tmp_path, "abcd2345").decisions, "it goes on once it can")
    kept.close()
    assert sum(lost) == 10


def test_more_than_may_wait_are_lost(tmp_path: Path) -> None:
    lost: list[int] = []
    gate, began = threading.Event(), threading.Event()

    class Slow(dict[str, object]):
        def items(self):  # type: ignore[no-untyped-def]
            began.set()
            gate.wait(30)
            return super().items()

    kept = store(tmp_path, lost, waiting=5)
    kept.note(make(text="x" * LONGEST, facts=Slow()))
    assert began.wait(30)
    for number in range(8):
        kept.note(make(f"later{number}"))
    assert sum(lost) == 3
    gate.set()
    kept.close()


def test_one_that_cannot_be_made_costs_no_other(tmp_path: Path) -> None:
    lost: list[int] = []
    kept = store(tmp_path, lost)
    kept.note(lambda: decision(no_such_field=1))
    kept.note(make())
    kept.close()
    assert lost == [1]
    assert len(find(tmp_path, "abcd2345").decisions) == 1


def test_a_damaged_file_is_begun_anew(tmp_path: Path) -> None:
    file = file_of(tmp_path, 0)
    file.parent.mkdir()
    file.write_bytes(b"this is no database, and long enough to be seen as such" * 100)
    found = find(tmp_path, "abcd2345")
    assert found.decisions == ()
    assert [each for each, _reason in found.unread] == [file]
    kept = store(tmp_path)
    kept.note(make())
    kept.close()
    assert len(find(tmp_path, "abcd2345").decisions) == 1


_TEXT = st.text(max_size=2000)
_STEPS = st.lists(st.dictionaries(st.text(max_size=40), _TEXT, max_size=5), max_size=40)


@settings(max_examples=100, deadline=None)
@given(text=_TEXT, recipient=st.text(max_size=30_000), steps=_STEPS)
def test_what_is_kept_has_a_limit_and_is_read_again(
    text: str, recipient: str, steps: list[dict[str, str]]
) -> None:
    given_ = decision(text=text, recipient=recipient, steps=tuple(steps))
    encoded = given_.encode()
    assert len(encoded) <= LONGEST
    again = decode(encoded)
    assert again.reference == given_.reference
    if again.text == text and again.recipient == recipient:
        kept = [each for each in again.steps if "left_out" not in each]
        assert len(kept) <= len(steps)


def test_references_are_short_and_differ() -> None:
    those = {new_reference() for _ in range(10_000)}
    assert len(those) == 10_000
    assert all(len(each) == WIDTH and set(each) <= set(ALPHABET) for each in those)
