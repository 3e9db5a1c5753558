"""Core edits and their form on the wire: there and back, and what is refused."""

from __future__ import annotations

import itertools
import re

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
from milterd.core.mail import BytesBody, HeaderField
from milterd.wire import messages as m
from milterd.wire.convert import (
    EditCollector,
    edit_to_replies,
    header_from_wire,
    header_to_wire,
)
from milterd.wire.errors import LocalError, PeerError
from milterd.wire.limits import Limits

names = st.text(
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=":"), min_size=1
).map(lambda each: each.encode("ascii"))
plain = st.binary(max_size=20).map(lambda each: each.translate(None, b"\0\r\n"))
values = st.lists(plain, min_size=1, max_size=3).map(b"\r\n\t".join)
spaced = values.map(lambda each: b" " + each)
addresses = st.binary(min_size=1, max_size=20).map(
    lambda each: bytes(33 + octet % 90 for octet in each).translate(None, b"<>") or b"a"
)
args = st.lists(addresses, max_size=2).map(tuple)
index = st.integers(0, 0xFFFFFFFF)
lines = st.lists(st.binary(max_size=20).map(lambda each: each.translate(None, b"\r\n")), max_size=4)
bodies = lines.map(lambda each: ReplaceBody(BytesBody(b"".join(line + b"\r\n" for line in each))))


def edits(value: st.SearchStrategy[bytes]) -> st.SearchStrategy[Edit]:
    return st.one_of(
        st.builds(AddHeader, names, value),
        st.builds(InsertHeader, index, names, value),
        st.builds(ChangeHeader, names, index, value.filter(lambda each: each != b" ")),
        st.builds(ChangeHeader, names, index, st.just(b"")),
        st.builds(AddRecipient, addresses, args),
        st.builds(DeleteRecipient, addresses),
        st.builds(ChangeSender, addresses | st.just(b""), args),
        st.builds(Quarantine, plain),
    )


def _there_and_back(asked: list[Edit], leading_space: bool) -> tuple[Edit, ...]:
    collector = EditCollector(leading_space)
    for edit in asked:
        for reply in edit_to_replies(edit, leading_space):
            found = m.decode_reply(reply.encode()[4], reply.encode()[5:])
            assert found == reply
            collector.take(reply)
    return collector.edits()


@given(st.lists(edits(values), max_size=4), bodies, st.integers(0, 4))
def test_round_trip_with_leading_space(asked: list[Edit], body: ReplaceBody, at: int) -> None:
    asked.insert(at, body)
    assert _there_and_back(asked, True) == tuple(asked)


@given(st.lists(edits(spaced), max_size=4))
def test_round_trip_without_leading_space(asked: list[Edit]) -> None:
    assert _there_and_back(asked, False) == tuple(asked)


@given(names, values)
def test_header_fields_round_trip(name: bytes, value: bytes) -> None:
    field = HeaderField(name, value)
    assert header_from_wire(header_to_wire(field, True), True) == field
    spaced_field = HeaderField(name, b" " + value)
    assert header_from_wire(header_to_wire(spaced_field, False), False) == spaced_field


@pytest.mark.parametrize(
    ("edit", "leading_space", "expected"),
    [
        (AddHeader(b"X", b" a\r\n\tb"), False, m.AddHeaderReply(b"X", b"a\n\tb")),
        (AddHeader(b"X", b" a\r\n\tb"), True, m.AddHeaderReply(b"X", b" a\n\tb")),
        (AddHeader(b"X", b"\ta"), False, m.AddHeaderReply(b"X", b"\ta")),
        (AddHeader(b"X", b"  a"), False, m.AddHeaderReply(b"X", b" a")),
        (AddHeader(b"X", b" \xff"), False, m.AddHeaderReply(b"X", b"\xff")),
        (ChangeHeader(b"X", 2, b""), False, m.ChangeHeaderReply(2, b"X", b"")),
        (ChangeHeader(b"X", 2, b" "), False, m.ChangeHeaderReply(2, b"X", b" ")),
        (InsertHeader(1, b"X", b" a"), False, m.InsertHeaderReply(1, b"X", b"a")),
        (AddRecipient(b"a@b"), False, m.AddRcptReply(b"<a@b>")),
        (
            AddRecipient(b"a@b", (b"NOTIFY=NEVER", b"ORCPT=x")),
            False,
            m.AddRcptParReply(b"<a@b>", b"NOTIFY=NEVER ORCPT=x"),
        ),
        (DeleteRecipient(b"a@b"), False, m.DelRcptReply(b"<a@b>")),
        (ChangeSender(b""), False, m.ChangeFromReply(b"<>")),
        (ChangeSender(b"a@b", (b"RET=HDRS",)), False, m.ChangeFromReply(b"<a@b>", b"RET=HDRS")),
        (Quarantine(b"why"), False, m.QuarantineReply(b"why")),
        (ReplaceBody(BytesBody()), False, m.ReplaceBodyChunk(b"")),
    ],
)
def test_how_an_edit_is_asked_for(edit: Edit, leading_space: bool, expected: m.Reply) -> None:
    assert list(edit_to_replies(edit, leading_space)) == [expected]


def test_a_long_body_goes_in_pieces() -> None:
    octets = bytes(65535 * 2 + 1)
    pieces = list(edit_to_replies(ReplaceBody(BytesBody(octets)), False))
    sizes = [len(each.octets) for each in pieces if isinstance(each, m.ReplaceBodyChunk)]
    assert sizes == [65535, 65535, 1]


@pytest.mark.parametrize(
    "edit",
    [
        AddHeader(b"", b"x"),
        AddHeader(b"X:Y", b"x"),
        AddHeader(b"X\r\nBcc", b"x"),
        AddHeader(b"X\xff", b"x"),
        AddHeader(b"X Y", b"x"),
        AddHeader(b"X", b" a\r\nBcc: b"),
        AddHeader(b"X", b" a\nBcc: b"),
        AddHeader(b"X", b" a\rBcc: b"),
        AddHeader(b"X", b" a\r\n"),
        InsertHeader(0, b"X", b" \0"),
        ChangeHeader(b"X:", 1, b""),
        AddRecipient(b""),
        AddRecipient(b"a@b>\r\nDATA"),
        AddRecipient(b"a@b", (b"X Y",)),
        AddRecipient(b"a@b", (b"",)),
        DeleteRecipient(b"<a@b>"),
        ChangeSender(b"a@b\0"),
        ChangeSender(b"", (b"X=1\r\n",)),
    ],
)
def test_edits_of_ours_that_nobody_gets(edit: Edit) -> None:
    with pytest.raises(LocalError):
        list(edit_to_replies(edit, False))


@pytest.mark.parametrize(
    "reply",
    [
        m.AddHeaderReply(b"X:Y", b"x"),
        m.AddHeaderReply(b"", b"x"),
        m.AddHeaderReply(b"\r\nBcc", b"x"),
        m.AddHeaderReply(b"X\xff", b"x"),
        m.AddHeaderReply(b"X", b"a\nBcc: b"),
        m.AddHeaderReply(b"X", b"a\r\nBcc: b"),
        m.AddHeaderReply(b"X", b"a\rBcc: b"),
        m.AddHeaderReply(b"X", b"a\n"),
        m.InsertHeaderReply(1, b"X", b"a\n\n b"),
        m.ChangeHeaderReply(1, b"X", b"a\r"),
        m.AddRcptReply(b""),
        m.AddRcptReply(b"<>"),
        m.AddRcptReply(b"<a@b"),
        m.AddRcptReply(b"<a@b> <c@d>"),
        m.AddRcptParReply(b"<a@b>", b"X\r\n"),
        m.DelRcptReply(b"a\r\nb"),
        m.ChangeFromReply(b"<\x00>"),
    ],
)
def test_i05_edits_that_are_refused(reply: m.EditReply) -> None:
    with pytest.raises(PeerError):
        EditCollector(False).take(reply)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (m.AddHeaderReply(b"X", b"a\n\tb"), AddHeader(b"X", b" a\r\n\tb")),
        (m.AddHeaderReply(b"X", b"a\r\n b"), AddHeader(b"X", b" a\r\n b")),
        (m.AddHeaderReply(b"X", b""), AddHeader(b"X", b" ")),
        (m.ChangeHeaderReply(0, b"X", b"a"), ChangeHeader(b"X", 0, b" a")),
        (m.ChangeHeaderReply(2**32 - 1, b"X", b""), ChangeHeader(b"X", 2**32 - 1, b"")),
        (m.InsertHeaderReply(2**32 - 1, b"X", b"a"), InsertHeader(2**32 - 1, b"X", b" a")),
        (m.AddRcptReply(b"a@b"), AddRecipient(b"a@b")),
        (m.AddRcptParReply(b"<a@b>", b" A=1  B=2 "), AddRecipient(b"a@b", (b"A=1", b"B=2"))),
        (m.ChangeFromReply(b""), ChangeSender(b"")),
    ],
)
def test_i06_what_a_milter_means(reply: m.EditReply, expected: Edit) -> None:
    collector = EditCollector(False)
    collector.take(reply)
    assert collector.edits() == (expected,)


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        ([b"a\r", b"\nb\r\n"], b"a\r\nb\r\n"),
        ([b"a\nb"], b"a\r\nb\r\n"),
        ([b"a\r\nb\n"], b"a\r\nb\r\n"),
        ([b"a\rb"], b"a\r\nb\r\n"),
        ([b""], b""),
        ([b"", b"a\r\n", b""], b"a\r\n"),
    ],
)
def test_i07_a_new_body_has_whole_lines(pieces: list[bytes], expected: bytes) -> None:
    collector = EditCollector(False)
    for each in pieces:
        collector.take(m.ReplaceBodyChunk(each))
    assert collector.edits() == (ReplaceBody(BytesBody(expected)),)


def test_i07_a_new_body_comes_in_one_go() -> None:
    collector = EditCollector(False)
    collector.take(m.ReplaceBodyChunk(b"a"))
    collector.take(m.AddHeaderReply(b"X", b"1"))
    assert [type(each) for each in collector.edits()] == [ReplaceBody, AddHeader]
    with pytest.raises(PeerError):
        collector.take(m.ReplaceBodyChunk(b"b"))


def test_no_piece_means_the_body_stays() -> None:
    assert EditCollector(False).edits() == ()


def test_i07_a_new_body_is_bounded() -> None:
    collector = EditCollector(False, Limits(replaced_body=3, edits=1))
    collector.take(m.ReplaceBodyChunk(b"abc"))
    with pytest.raises(PeerError):
        collector.take(m.ReplaceBodyChunk(b"d"))
    collector.take(m.AddHeaderReply(b"X", b"1"))
    with pytest.raises(PeerError):
        collector.take(m.AddHeaderReply(b"X", b"1"))


@pytest.mark.parametrize("length", range(5))
def test_a_value_that_would_end_its_field_is_known_by_any_of_its_octets(length: int) -> None:
    """As the pattern finds it that says what is broken."""
    broken = re.compile(rb"\0|\r|\n(?![ \t])")
    for octets in map(bytes, itertools.product(b"\0\r\n \tx", repeat=length)):
        edit = AddHeader(b"A", octets)
        try:
            (made,) = edit_to_replies(edit, True)
        except LocalError:
            assert broken.search(octets.replace(b"\r\n", b"\n"))
        else:
            assert isinstance(made, m.AddHeaderReply)
            assert not broken.search(made.value)
