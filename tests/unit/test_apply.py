"""apply(mail, edits) against a plain model of what Postfix does with each edit."""

from __future__ import annotations

from dataclasses import replace

import pytest
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
from milterd.core.mail import BytesBody, Envelope, HeaderField, Mail, Recipient, body_octets

NAMES = st.sampled_from([b"A", b"a", b"B", b"Received"])
VALUES = st.sampled_from([b" 1", b" 2", b"", b" folded\r\n\there", b" \xff"])
FIELDS = st.builds(HeaderField, NAMES, VALUES, st.just(b""), st.booleans())
EDITS = st.one_of(
    st.builds(AddHeader, NAMES, VALUES),
    st.builds(InsertHeader, st.integers(0, 8), NAMES, VALUES),
    st.builds(ChangeHeader, NAMES, st.integers(0, 5), VALUES),
)
Line = tuple[bytes, bytes, bool]


def _model(lines: list[Line], edit: Edit) -> list[Line]:
    """The same by making a list of the positions that count, as the manual words it."""
    match edit:
        case AddHeader(name, value):
            return [*lines, (name, value, False)]
        case InsertHeader(index, name, value):
            return [*lines[:index], (name, value, False), *lines[index:]]
        case ChangeHeader(name, index, value):
            counted = [
                at
                for at, (each, _, hidden) in enumerate(lines)
                if each.lower() == name.lower() and not hidden
            ]
            at = counted[max(index, 1) - 1] if max(index, 1) <= len(counted) else len(lines)
            new = [(name, value, False)] if value else []
            return [*lines[:at], *new, *lines[at + 1 :]]
    raise AssertionError(edit)


@given(st.lists(FIELDS, max_size=7), st.lists(EDITS, max_size=7))
def test_header_edits_do_what_the_model_does(fields: list[HeaderField], edits: list[Edit]) -> None:
    lines = [(each.name, each.value, each.hidden) for each in fields]
    for edit in edits:
        lines = _model(lines, edit)
    done = apply(Mail(headers=tuple(fields)), edits)
    assert [(each.name, each.value, each.hidden) for each in done.headers] == lines


@given(st.lists(FIELDS, max_size=7), st.lists(EDITS, max_size=4))
def test_untouched_fields_are_the_very_same(fields: list[HeaderField], edits: list[Edit]) -> None:
    done = apply(Mail(headers=tuple(fields)), edits)
    kept = [each for each in done.headers if any(each is one for one in fields)]
    assert len(kept) >= len(fields) - sum(isinstance(each, ChangeHeader) for each in edits)


@given(st.lists(EDITS, max_size=5), st.lists(EDITS, max_size=5))
def test_two_filters_after_each_other_are_one_with_both_edits(
    first: list[Edit], second: list[Edit]
) -> None:
    mail = Mail(headers=(HeaderField(b"A", b" 0"), HeaderField(b"B", b" 0")))
    assert apply(apply(mail, first), second) == apply(mail, [*first, *second])


@pytest.mark.parametrize(
    ("edit", "sender", "recipients"),
    [
        (ChangeSender(b"", (b"RET=HDRS",)), b"", [b"x@a", b"y@b"]),
        (AddRecipient(b"z@c", (b"NOTIFY=NEVER",)), b"s@a", [b"x@a", b"y@b", b"z@c"]),
        (AddRecipient(b"x@a"), b"s@a", [b"x@a", b"y@b"]),
        (DeleteRecipient(b"x@a"), b"s@a", [b"y@b"]),
        (DeleteRecipient(b"nobody@a"), b"s@a", [b"x@a", b"y@b"]),
    ],
)
def test_envelope_edits(edit: Edit, sender: bytes, recipients: list[bytes]) -> None:
    envelope = Envelope(b"s@a", (), (Recipient(b"x@a"), Recipient(b"y@b")))
    done = apply(Mail(envelope=envelope), [edit])
    assert done.envelope.sender == sender
    assert [each.address for each in done.envelope.recipients] == recipients


def test_a_replaced_body_replaces_all_of_it_and_gets_a_separator() -> None:
    mail = Mail(headers=(HeaderField(b"A", b" 1"),), body=BytesBody(), separator=b"")
    done = apply(mail, [ReplaceBody(BytesBody(b"new\r\n"))])
    assert b"".join(done.pieces()) == b"A: 1\r\n\r\nnew\r\n"


def test_quarantine_changes_nothing_of_the_mail() -> None:
    mail = Mail(headers=(HeaderField(b"A", b" 1"),), body=BytesBody(b"x"))
    assert apply(mail, [Quarantine(b"why")]) == mail


def test_a_mail_without_edits_is_the_same_object_all_through() -> None:
    mail = Mail(headers=(HeaderField(b"A", b" 1"),), body=BytesBody(b"x"))
    done = apply(mail, [])
    assert done.headers is mail.headers
    assert done.body is mail.body
    assert body_octets(replace(done).body) == b"x"
