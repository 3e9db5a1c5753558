"""apply() against a model so plain that it can be read at a glance, and Postfix's rules one by one.

The rules: facts of the milter protocol as Postfix 3.7 carries it out (cleanup_milter.c).
"""

from __future__ import annotations

import timeit

from hypothesis import given
from hypothesis import strategies as st

from milterd.core.actions import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    ChangeSender,
    DeleteRecipient,
    Edit,
    InsertHeader,
    Quarantine,
    ReplaceBody,
)
from milterd.core.apply import apply
from milterd.core.mail import BytesBody, Envelope, HeaderField, Mail, Recipient, parse_message
from tests.unit import strategies

MAIL = parse_message(
    b"Received: 1\r\nSubject: s\r\nreceived: 2\r\nTo: t\r\nRECEIVED: 3\r\n\r\nbody"
)
Row = list[object]


def model(mail: Mail, edits: list[Edit]) -> list[Row]:
    """Name, gap, value and hiddenness of each field after the edits, by lists alone."""
    rows: list[Row] = [[each.name, each.gap, each.value, each.hidden] for each in mail.headers]
    for edit in edits:
        match edit:
            case AddHeader(name, value):
                rows = [*rows, [name, b"", value, False]]
            case InsertHeader(index, name, value):
                rows = [*rows[:index], [name, b"", value, False], *rows[index:]]
            case ChangeHeader(name, index, value):
                shown = [
                    row
                    for row in rows
                    if not row[3] and bytes(row[0]).lower() == name.lower()  # type: ignore[call-overload]
                ]
                wanted = shown[max(index, 1) - 1 : max(index, 1)]
                if not wanted and value:
                    rows = [*rows, [name, b"", value, False]]
                elif wanted and value:
                    rows = [[name, b"", value, False] if row is wanted[0] else row for row in rows]
                else:
                    rows = [row for row in rows if not any(row is each for each in wanted)]
    return rows


@given(strategies.mails, st.lists(strategies.edits, max_size=8))
def test_header_edits_do_what_the_model_does(mail: Mail, edits: list[Edit]) -> None:
    found = [[each.name, each.gap, each.value, each.hidden] for each in apply(mail, edits).headers]
    assert found == model(mail, edits)


@given(strategies.mails, st.lists(strategies.edits, max_size=8))
def test_one_at_a_time_is_the_same_as_all_at_once(mail: Mail, edits: list[Edit]) -> None:
    step = mail
    for each in edits:
        step = apply(step, [each])
    assert step == apply(mail, edits)


@given(strategies.mails, st.lists(strategies.envelope_edits, max_size=5))
def test_who_gets_it_does_not_change_what_it_says(mail: Mail, edits: list[Edit]) -> None:
    after = apply(mail, edits)
    assert after.headers is mail.headers
    assert after.body is mail.body
    assert b"".join(after.pieces()) == b"".join(mail.pieces())


@given(strategies.mails, st.lists(strategies.header_edits, max_size=5))
def test_fields_no_edit_names_are_the_same_objects(mail: Mail, edits: list[Edit]) -> None:
    named = {each.name.lower() for each in edits}  # type: ignore[union-attr]
    before = [each for each in mail.headers if each.name.lower() not in named]
    after = [each for each in apply(mail, edits).headers if each.name.lower() not in named]
    assert [id(each) for each in after] == [id(each) for each in before]


def head(*edits: Edit, mail: Mail = MAIL) -> list[bytes]:
    """The fields after the edits, as they are delivered."""
    return [each.raw for each in apply(mail, edits).headers]


def test_no_edit_gives_the_same_mail() -> None:
    assert apply(MAIL, []) == MAIL
    assert apply(MAIL, []).headers is MAIL.headers
    assert apply(MAIL, [Quarantine(b"why")]) == MAIL


def test_a_change_counts_the_fields_of_its_name_in_any_case_from_one() -> None:
    assert head(ChangeHeader(b"Received", 2, b" two"))[2] == b"Received: two"
    assert head(ChangeHeader(b"received", 3, b" three"))[4] == b"received: three"


def test_index_zero_means_one() -> None:
    assert head(ChangeHeader(b"Received", 0, b" x")) == head(ChangeHeader(b"Received", 1, b" x"))


def test_changing_a_missing_field_appends_it_and_deleting_it_does_nothing() -> None:
    assert head(ChangeHeader(b"Received", 4, b" x")) == [*head(), b"Received: x"]
    assert head(ChangeHeader(b"X-None", 1, b"")) == head()


def test_a_deletion_shifts_the_later_ones_up_at_once() -> None:
    twice = (ChangeHeader(b"Received", 1, b""), ChangeHeader(b"Received", 1, b""))
    assert head(*twice) == [b"Subject: s", b"To: t", b"RECEIVED: 3"]
    assert head(ChangeHeader(b"Received", 1, b""), ChangeHeader(b"Received", 3, b"")) == [
        b"Subject: s", b"received: 2", b"To: t", b"RECEIVED: 3"
    ]  # fmt: skip


def test_an_insertion_counts_every_field_from_zero_and_appends_beyond_the_last() -> None:
    assert head(InsertHeader(0, b"X", b" 1"))[:2] == [b"X: 1", b"Received: 1"]
    assert head(InsertHeader(2, b"X", b" 1"))[2] == b"X: 1"
    assert head(InsertHeader(99, b"X", b" 1"))[-1] == b"X: 1"
    assert head(InsertHeader(4294967295, b"X", b" 1"))[-1] == b"X: 1"


def test_hidden_fields_are_counted_by_insertions_only() -> None:
    ours = HeaderField(b"Received", b" ours", hidden=True)
    mail = MAIL.with_headers((ours, *MAIL.headers))
    assert head(InsertHeader(1, b"X", b" 1"), mail=mail)[:2] == [b"Received: ours", b"X: 1"]
    assert head(InsertHeader(0, b"X", b" 1"), mail=mail)[:2] == [b"X: 1", b"Received: ours"]
    assert head(ChangeHeader(b"Received", 1, b""), mail=mail)[:2] == [
        b"Received: ours", b"Subject: s"
    ]  # fmt: skip
    only = MAIL.with_headers((ours,))
    changed = head(ChangeHeader(b"Received", 1, b" x"), mail=only)
    assert changed == [b"Received: ours", b"Received: x"]


def test_folds_and_octets_of_a_new_value_stay_as_they_are() -> None:
    value = b"\t8-bit \xe9\r\n \r\n\tfolded "
    for edit in (
        AddHeader(b"X", value),
        InsertHeader(0, b"X", value),
        ChangeHeader(b"X", 1, value),
    ):
        assert b"X:" + value in head(edit)


def test_a_new_body_brings_its_blank_line() -> None:
    whole = parse_message(b"A: b\r\n")
    assert b"".join(apply(whole, [ReplaceBody(BytesBody(b"x"))]).pieces()) == b"A: b\r\n\r\nx"
    assert b"".join(apply(whole, [ReplaceBody(BytesBody())]).pieces()) == b"A: b\r\n"
    last = apply(MAIL, [ReplaceBody(BytesBody(b"1")), ReplaceBody(BytesBody(b"2"))])
    assert b"".join(last.pieces()).endswith(b"\r\n\r\n2")


def test_recipients_are_added_once_and_removed_wherever_they_are() -> None:
    a, b = Recipient(b"a@x", (b"NOTIFY=NEVER",)), Recipient(b"b@x")
    mail = Mail(envelope=Envelope(b"s@x", (b"SIZE=1",), (a, b, a)))
    added = apply(mail, [AddRecipient(b"c@x", (b"NOTIFY=DELAY",)), AddRecipient(b"b@x")])
    assert added.envelope.recipients == (a, b, a, Recipient(b"c@x", (b"NOTIFY=DELAY",)))
    assert apply(mail, [DeleteRecipient(b"a@x")]).envelope.recipients == (b,)
    assert apply(mail, [DeleteRecipient(b"A@x")]).envelope.recipients == (a, b, a)
    sender = apply(mail, [ChangeSender(b"", (b"RET=HDRS",))]).envelope
    assert (sender.sender, sender.sender_args) == (b"", (b"RET=HDRS",))


def test_many_changes_do_not_look_at_the_whole_header_each() -> None:
    """Two thousand deletions among forty thousand fields: a look each would be 80 million."""
    fields = [HeaderField(b"X", b" 1")] * 38_000 + [HeaderField(b"Y", b" 2")] * 2_000
    edits = [ChangeHeader(b"Y", index, b"") for index in range(2_000, 0, -1)]
    mail = Mail(headers=tuple(fields))
    seconds = min(timeit.repeat(lambda: apply(mail, edits), number=1, repeat=3))
    once = min(timeit.repeat(lambda: apply(mail, edits[:1]), number=1, repeat=3))
    assert len(apply(mail, edits).headers) == 38_000
    assert seconds < 50 * once
