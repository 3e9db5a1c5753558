"""A mail keeps every octet: what is parsed and joined again is what came."""

from __future__ import annotations

import tempfile
from typing import BinaryIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.mail import (
    BytesBody,
    FileBody,
    HeaderField,
    Mail,
    body_octets,
    join_header,
    parse_message,
    split_header,
)
from tests.corpus.corpus import messages

LINES = st.lists(
    st.one_of(
        st.binary(max_size=30).map(lambda each: each.replace(b"\r", b"").replace(b"\n", b"")),
        st.sampled_from([b"", b" ", b"\t", b"A: b", b"B:", b" fold", b"no colon", b":", b"A : b"]),
    ),
    max_size=12,
)


@given(LINES, st.booleans())
def test_a_message_is_its_parts(lines: list[bytes], complete: bool) -> None:
    octets = b"\r\n".join(lines) + (b"\r\n" if complete and lines else b"")
    mail = parse_message(octets)
    joined = b"".join(mail.pieces())
    if complete or mail.body.size or mail.separator:
        assert joined == octets
    else:  # a header whose last line has no end is given one
        assert joined in (octets, octets + b"\r\n")


@pytest.mark.parametrize(("name", "octets"), messages())
def test_corpus_passes_unchanged(name: str, octets: bytes) -> None:
    assert b"".join(parse_message(octets).pieces(1000)) == octets


@pytest.mark.parametrize(
    ("block", "names", "separator", "rest"),
    [
        (b"A: 1\r\n\r\nbody", [b"A"], b"\r\n", b"body"),
        (b"A: 1\r\n", [b"A"], b"", b""),
        (b"\r\nbody", [], b"\r\n", b"body"),
        (b"A: 1\r\n folded\r\n\tagain\r\nB:2\r\n\r\n", [b"A", b"B"], b"\r\n", b""),
        (b"A: 1\r\n \r\nB: still header\r\n\r\n", [b"A", b"B"], b"\r\n", b""),
        (b"A: 1\r\nno field\r\nB: 2\r\n\r\n", [b"A"], b"", b"no field\r\nB: 2\r\n\r\n"),
        (b"From x Thu\r\nA: 1\r\n", [], b"", b"From x Thu\r\nA: 1\r\n"),
        (b" starts with a fold\r\n\r\n", [], b"", b" starts with a fold\r\n\r\n"),
        (b":no name\r\n", [], b"", b":no name\r\n"),
        (b"A : gap\r\n\r\n", [b"A"], b"\r\n", b""),
    ],
)
def test_where_the_header_ends(
    block: bytes, names: list[bytes], separator: bytes, rest: bytes
) -> None:
    fields, found, offset = split_header(block)
    assert [each.name for each in fields] == names
    assert found == separator
    assert block[offset:] == rest


def test_values_keep_their_folding_and_space() -> None:
    fields, _, _ = split_header(b"A:  two\r\n\tfold \r\nB:none\r\nC \t: gap\r\n\r\n")
    assert [(each.name, each.gap, each.value) for each in fields] == [
        (b"A", b"", b"  two\r\n\tfold "),
        (b"B", b"", b"none"),
        (b"C", b" \t", b" gap"),
    ]


def test_a_long_header_takes_linear_time() -> None:
    """A hundred thousand fields, and one field of a hundred thousand folds."""
    many = b"X: 1\r\n" * 100_000 + b"\r\n"
    folds = b"X: 1\r\n" + b" 2\r\n" * 100_000 + b"\r\n"
    assert len(split_header(many)[0]) == 100_000
    assert len(split_header(folds)[0]) == 1


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
    assert b"".join(pieces) == octets
    assert all(len(each) <= limit for each in pieces)
    assert list(BytesBody(octets).pieces(limit)) == pieces


def test_a_file_that_lost_its_end_is_an_error_and_not_a_short_mail() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(b"half")
        file.flush()
        with pytest.raises(OSError, match="ends at octet 4, expected 8"):
            body_octets(FileBody(cast(BinaryIO, file), 0, 8))


def test_hidden_fields_are_delivered_and_not_shown() -> None:
    ours = HeaderField(b"Received", b" by us", hidden=True)
    mail = parse_message(b"Received: theirs\r\n\r\n")
    mail = mail.with_headers((ours, *mail.headers))
    assert mail.values(b"received") == [b" theirs"]
    assert mail.head() == b"Received: by us\r\nReceived: theirs\r\n\r\n"
    assert mail.size == len(mail.head())
    assert join_header(mail.visible()) == b"Received: theirs\r\n"


def test_an_empty_mail_is_a_mail() -> None:
    assert b"".join(Mail(separator=b"").pieces()) == b""
    assert parse_message(b"").size == 0
