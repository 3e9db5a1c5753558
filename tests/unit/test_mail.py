"""Every octet of a mail is kept, wherever its body is stored, and in linear time."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.mail import (
    BytesBody,
    FileBody,
    HeaderField,
    Mail,
    PiecedBody,
    body_octets,
    join_header,
    parse_message,
    split_header,
)
from tests.corpus.corpus import messages
from tests.unit import strategies


@given(strategies.octets)
def test_what_was_split_joins_to_the_same_octets(octets: bytes) -> None:
    fields, separator, offset = split_header(octets)
    assert join_header(fields) + separator + octets[offset:] == octets
    mail = parse_message(octets)
    assert b"".join(mail.pieces()) == octets
    assert mail.size == len(octets)


@given(strategies.octets)
def test_no_field_ends_before_its_last_fold_or_holds_a_line_of_another(octets: bytes) -> None:
    fields, _, offset = split_header(octets)
    for each in fields:
        assert each.value.count(b"\r\n") == sum(
            each.value.count(fold) for fold in (b"\r\n ", b"\r\n\t")
        )
        assert each.name
        assert b":" not in each.name
    if fields and octets[offset : offset + 1] in (b" ", b"\t"):
        assert octets[offset - 4 : offset] == b"\r\n\r\n"  # after the blank line, not a fold


@given(st.lists(strategies.fields, max_size=8).map(tuple), strategies.bodies)
def test_what_was_joined_splits_to_the_same_fields(
    fields: tuple[HeaderField, ...], body: BytesBody
) -> None:
    mail = Mail(headers=fields, body=body)
    again = parse_message(b"".join(mail.pieces()))
    assert [each.raw for each in again.headers] == [each.raw for each in fields]
    assert body_octets(again.body) == body.octets


@given(strategies.octets, st.integers(0, 60))
def test_a_message_cut_anywhere_is_still_all_there(octets: bytes, cut: int) -> None:
    """The header that ends in mid-line gets that line's end, and nothing else changes."""
    part = octets[:cut]
    whole = b"".join(parse_message(part).pieces())
    assert whole in (part, part + b"\r\n")


@pytest.mark.parametrize(("name", "octets"), messages())
def test_the_corpus_passes_unchanged(name: str, octets: bytes) -> None:
    mail = parse_message(octets)
    assert b"".join(mail.pieces(1000)) == octets
    assert mail.size == len(octets)


@pytest.mark.parametrize(
    ("octets", "fields", "separator", "offset"),
    [
        (b"", [], b"", 0),
        (b"\r\n", [], b"\r\n", 2),
        (b"A: b\r\n\r\nc", [(b"A", b"", b" b")], b"\r\n", 8),
        (b"A:b\r\n c\r\n\td\r\n\r\n", [(b"A", b"", b"b\r\n c\r\n\td")], b"\r\n", 15),
        (b"A \t: b\r\n\r\n", [(b"A", b" \t", b" b")], b"\r\n", 10),
        (b"A: b\r\n \r\n\r\n", [(b"A", b"", b" b\r\n ")], b"\r\n", 11),
        (b"A: b\r\nno field\r\n", [(b"A", b"", b" b")], b"", 6),
        (b" fold of nothing\r\nA: b\r\n", [], b"", 0),
        (b": b\r\n", [], b"", 0),
        (b"\xe9: b\r\n", [], b"", 0),
        (b"A:\r\n\r\n", [(b"A", b"", b"")], b"\r\n", 6),
        (b"A: b", [(b"A", b"", b" b")], b"", 4),
        (b"A: b\rB: c\r\n\r\n", [(b"A", b"", b" b\rB: c")], b"\r\n", 13),
    ],
)
def test_where_a_header_ends(
    octets: bytes, fields: list[tuple[bytes, bytes, bytes]], separator: bytes, offset: int
) -> None:
    found, blank, start = split_header(octets)
    assert [(each.name, each.gap, each.value) for each in found] == fields
    assert (blank, start) == (separator, offset)


@given(st.binary(max_size=300), st.integers(1, 50))
def test_bodies_come_in_pieces_of_at_most_the_limit(octets: bytes, limit: int) -> None:
    pieces = list(BytesBody(octets).pieces(limit))
    assert b"".join(pieces) == octets
    assert all(0 < len(each) <= limit for each in pieces)


@given(st.binary(max_size=400), st.integers(1, 100), st.integers(0, 50))
def test_a_body_in_a_file_is_the_same_as_one_in_memory(
    octets: bytes, limit: int, offset: int
) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"#" * offset + octets + b"after")
        file.flush()
        stored = FileBody(cast(BinaryIO, file), offset, len(octets))
        assert body_octets(stored) == octets
        pieces = list(stored.pieces(limit))
    assert pieces == list(BytesBody(octets).pieces(limit))


def test_views_share_a_file_and_nobody_moves_its_position(tmp_path: Path) -> None:
    path = tmp_path / "spooled"
    path.write_bytes(b"header" + b"0123456789" * 10_000 + b"trailer")
    with path.open("rb") as file:
        body = FileBody(file, 6, 100_000)
        first, second = body.pieces(7), body.pieces(11)
        assert (next(first), next(second), next(first)) == (b"0123456", b"01234567890", b"7890123")
        assert file.tell() == 0


def test_a_spooled_body_that_is_cut_off_is_an_error_not_a_short_mail(tmp_path: Path) -> None:
    path = tmp_path / "spooled"
    path.write_bytes(b"x" * 99)
    with path.open("rb") as file, pytest.raises(OSError, match="ends at octet 99, expected 100"):
        list(FileBody(file, 0, 100).pieces())


def test_hidden_fields_are_delivered_but_not_shown() -> None:
    ours = HeaderField(b"Received", b" ours", hidden=True)
    mail = Mail(headers=(ours, HeaderField(b"Received", b" theirs")))
    assert mail.values(b"received") == [b" theirs"]
    assert mail.head() == b"Received: ours\r\nReceived: theirs\r\n\r\n"
    assert mail.size == len(mail.head())
    assert join_header(mail.visible()) == b"Received: theirs\r\n"


def test_an_empty_mail_is_a_mail() -> None:
    assert b"".join(Mail(separator=b"").pieces()) == b""
    assert parse_message(b"").size == 0


@pytest.mark.parametrize(
    "unit",
    [b"A: b\r\n", b"A: b\r\n c\r\n", b" \r\n", b"A" * 40 + b"\r\n", b"A \t \t", b"A:\r\n ", b":"],
    ids=["fields", "folds", "blank folds", "no field", "gaps", "empty folds", "colons"],
)
def test_splitting_takes_linear_time(unit: bytes) -> None:
    """Ten times the octets take about ten times as long: fifty times would be quadratic."""

    small, large = (b"X: y\r\n" + unit * times for times in (10_000, 100_000))
    cost = max(min(_timed(small) for _ in range(3)), 1e-4)
    assert any(_timed(large) < 50 * cost for _ in range(3))


def _timed(octets: bytes) -> float:
    before = time.process_time()
    split_header(octets)
    return time.process_time() - before


@given(parts=st.lists(st.binary(max_size=30), max_size=6), limit=st.integers(1, 40))
def test_a_body_in_pieces_is_the_body(parts: list[bytes], limit: int) -> None:
    whole = BytesBody(b"".join(parts))
    assert list(PiecedBody(tuple(parts)).pieces(limit)) == list(whole.pieces(limit))
    pieced = PiecedBody(tuple(parts))
    assert (pieced.size, tuple(pieced.parts)) == (whole.size, tuple(parts))
    assert pieced == whole
    assert whole == pieced == PiecedBody(tuple(parts))
    assert hash(pieced) == hash(whole)
    assert body_octets(pieced) == whole.octets
    assert pieced != BytesBody(whole.octets + b"x")
    assert pieced != whole.octets
