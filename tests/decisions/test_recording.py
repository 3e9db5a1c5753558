"""What is written of a decision is what the decision is."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from milterd.core.decision import Reason
from milterd.core.mail import Client, Family
from smtpgw.decisions.decision import LONGEST, decode
from smtpgw.edge.road import Answer, Connection, Hello
from smtpgw.policy.record import Record
from smtpgw.recording import Case, Decided

_TEXT = st.text(max_size=20) | st.just("x" * 3000)
_OCTETS = st.binary(max_size=20)
_VALUES = _TEXT | _OCTETS | st.integers() | st.lists(_OCTETS, max_size=3) | st.none()
_ROWS = st.tuples(*[_TEXT] * 8, st.sampled_from([0.0, 0.25]))
_RECORDS = st.lists(_ROWS, max_size=3).map(lambda rows: Record(rows=rows))
_CASES = st.builds(
    Case,
    command=st.just("message"),
    source=_TEXT,
    outcome=st.just("queued"),
    sender=_OCTETS,
    recipients=st.lists(_OCTETS, max_size=3).map(tuple),
    queue_id=st.just("3fGh"),
    facts=st.dictionaries(st.sampled_from(["size", "notes"]), _VALUES),
    steps=st.lists(st.dictionaries(st.sampled_from("ab"), _VALUES), max_size=2),
    records=st.lists(_RECORDS, max_size=2),
    reasons=st.lists(
        st.builds(Reason, _TEXT, _TEXT, st.dictionaries(st.sampled_from("ab"), _TEXT)), max_size=2
    ).map(tuple),
)


@settings(max_examples=200, deadline=None)
@given(_CASES, _OCTETS)
def test_it_is_written_as_it_would_be_shown(case: Case, helo: bytes) -> None:
    connection = Connection("mx", Client(b"h.example", Family.INET, b"192.0.2.1"), session="s")
    answer = Answer(250, "2.0.0", "Ok")
    decided = Decided("abcd2345", 1.5, connection, Hello(helo, esmtp=True), case, answer)
    text = decided.encode()
    assert text == decided.decision().encode()
    assert len(text) <= LONGEST
    assert decode(text).encode() == text
    assert (decided.queue_id, decided.session) == ("3fGh", "s")
