"""DataReader and BdatReader against a slow model, under every way of cutting the octets."""

from __future__ import annotations

import time
import zlib
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from milterd.core.mail import BytesBody, body_octets, join_header
from milterd.core.spooled import Seen, SeenBody, WholeBody
from smtpgw.edge.content import Content
from smtpgw.edge.data import BdatReader, DataReader, whole
from smtpgw.edge.framing import BARE_CR, BARE_LF, BARE_LF_NOTE, NUL
from smtpgw.edge.options import ContentOptions
from smtpgw.edge.road import Answer
from smtpgw.edge.sink import HEADER_TOO_LARGE, NO_SPACE, TOO_LARGE, TOO_MANY_HOPS

OPTIONS = ContentOptions()


def octets_of(content: Content) -> bytes:
    """The whole message, and its size checked against what it says."""
    whole = join_header(content.headers) + content.separator + body_octets(content.body)
    assert content.size == len(whole)
    return whole


@dataclass
class Model:
    """What RFC 5321 says of the octets after 354, one octet at a time."""

    content: bytes
    rest: bytes | None
    bare_cr: bool = False
    bare_lf: bool = False
    nul: bool = False


def model(stream: bytes) -> Model:
    out, at_start, before = bytearray(), True, b"\r\n"
    result = Model(b"", None)
    at = 0
    while at < len(stream):
        octet = stream[at : at + 1]
        if before.endswith(b"\r\n") and stream[at : at + 3] == b".\r\n":
            result.rest = stream[at + 3 :]
            break
        before = (before + octet)[-2:]
        at += 1
        if at_start and octet == b".":
            at_start = False
            continue
        at_start = octet == b"\n"
        out += octet
    result.nul = b"\0" in out
    plain = bytes(out).replace(b"\r\n", b"")
    result.bare_cr, result.bare_lf = b"\r" in plain, b"\n" in plain
    result.content = bytes(out).replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return result


def cuts(stream: bytes, places: list[int]) -> list[bytes]:
    bounds = sorted({0, len(stream), *(each % (len(stream) + 1) for each in places)})
    return [stream[a:b] for a, b in pairwise(bounds)]


def read_data(pieces: list[bytes], options: ContentOptions) -> tuple[DataReader, bytes]:
    reader = DataReader(options)
    rest = b""
    for each in pieces:
        if reader.finished:
            rest += each
        else:
            rest += each[reader.feed(each) :]
    return reader, rest


FRAGMENTS = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"\r\n.\r\n", b"\n.\n", b"\0", b"a", b"b:c", b" ",
         b"From ", b"Subject: x\r\n", b"\r\n\r\n", b"\xff", b".."]
    ),
    max_size=14,
).map(b"".join)  # fmt: skip


@settings(max_examples=400, deadline=None)
@given(FRAGMENTS, st.lists(st.integers(0, 200), max_size=8), st.sampled_from([1, 6, 1 << 20]))
@example(b"\r\n.\r\nNOOP\r\n", [1, 2, 3, 4, 5], 1)
@example(b"x\r\n.\r", [], 1)
def test_data_equals_the_model_however_it_is_cut(
    stream: bytes, places: list[int], threshold: int
) -> None:
    expected = model(stream)
    options = ContentOptions(spool_threshold=threshold)
    reader, rest = read_data(cuts(stream, places), options)
    assert reader.finished == (expected.rest is not None)
    if not reader.finished:
        reader.discard()
        return
    assert rest == expected.rest
    got = reader.finish()
    if expected.nul or expected.bare_cr:
        assert got in ([NUL] if expected.nul else []) + ([BARE_CR] if expected.bare_cr else [])
        return
    assert isinstance(got, Content)
    assert (BARE_LF_NOTE in got.notes) == expected.bare_lf
    assert laid_out(expected.content) == octets_of(got)
    got.close()


def laid_out(content: bytes) -> bytes:
    """The content with what the sink is allowed to add, computed the slow way."""
    if content.startswith((b"From ", b">From ")):
        content = b"X-Mailbox-Line: " + content
    header, body = b"", content
    while body:
        if body.startswith(b"\r\n"):
            return content
        line, _, rest = body.partition(b"\r\n")
        name, colon, _ = line.partition(b":")
        name = name.rstrip(b" \t")
        is_field = colon and name and all(33 <= each <= 126 for each in name)
        if not (is_field or (header and line[:1] in (b" ", b"\t"))):
            return header + b"\r\n" + body
        header, body = header + line + b"\r\n", rest
    return header


@settings(max_examples=300, deadline=None)
@given(FRAGMENTS, st.lists(st.integers(0, 200), max_size=8))
@example(b"A: b\r\n\r\nx\r\ny\r", [9])
def test_bdat_joins_chunks_exactly_wherever_they_are_cut(chunks: bytes, places: list[int]) -> None:
    whole, reader = BdatReader(OPTIONS), BdatReader(OPTIONS)
    whole.feed(chunks)
    for each in cuts(chunks, places):
        reader.feed(each)
    one, many = whole.finish(), reader.finish()
    if isinstance(one, Answer):
        assert one in (NUL, BARE_CR)
        assert isinstance(many, Answer)
        return
    assert isinstance(many, Content)
    assert octets_of(one) == octets_of(many)
    unix = chunks.replace(b"\r\n", b"\n")
    ended = unix if not unix or unix.endswith(b"\n") else unix + b"\n"
    assert octets_of(many) == laid_out(ended.replace(b"\n", b"\r\n"))


def test_bdat_keeps_what_would_end_data() -> None:  # C11
    reader = BdatReader(OPTIONS)
    reader.feed(b"A: b\r\n\r\nx\r\n.\r\n..y\r\n")
    got = reader.finish()
    assert isinstance(got, Content)
    assert body_octets(got.body) == b"x\r\n.\r\n..y\r\n"


LIMITS = [
    OPTIONS,
    ContentOptions(message_size_limit=12),
    ContentOptions(header_size_limit=12),
    ContentOptions(hopcount_limit=1),
    ContentOptions(spool_threshold=9, bare_newline="reject"),
]


@settings(max_examples=600, deadline=None)
@given(FRAGMENTS, FRAGMENTS, st.sampled_from(LIMITS))
@example(b"A: b\r\n\r\n", b"NOOP\r\n", OPTIONS)
@example(b"A: b\r\n\r\nlong", b"", LIMITS[1])
@example(b"A: b\r\nC: d\r\n", b"", LIMITS[2])
@example(b"Received: a\r\nReceived: b\r\n", b"", LIMITS[3])
@example(b"From : b\r\n", b"", OPTIONS)
@example(b".A: b\r\n", b"", OPTIONS)
@example(b"A: b\r\n\r\nc\nd", b"", OPTIONS)
@example(b"A: b\r\n\r\nc\0d", b"", OPTIONS)
@example(b"A: b\r\n\r\nc\r\n..\r\nd", b".", OPTIONS)
def test_what_comes_in_one_piece_is_read_as_if_it_came_in_many(
    message: bytes, after: bytes, options: ContentOptions
) -> None:
    stream = message + b"\r\n.\r\n" + after
    found = whole(stream, options)
    if found is None:
        return
    content, used = found
    reader, rest = read_data([stream], options)
    assert (content, stream[used:]) == (reader.finish(), rest)


@pytest.mark.parametrize(
    ("message", "content"),
    [
        (b"A: b\r\n c\r\n\r\nd\r\n..e\r\n..\r\n", b"A: b\r\n c\r\n\r\nd\r\n.e\r\n.\r\n"),
        (b"A:b\r\nC \t: \xe4\r\n\r\n", b"A:b\r\nC \t: \xe4\r\n\r\n"),
        (b"\r\nbody\r\n", b"\r\nbody\r\n"),
    ],
)
def test_most_messages_are_read_at_once(message: bytes, content: bytes) -> None:
    found = whole(message + b".\r\nMAIL", OPTIONS)
    assert found is not None
    assert octets_of(found[0]) == content
    assert found[1] == len(message) + 3
    assert whole(message + b".\r", OPTIONS) is None
    assert whole(message + b".\r\n" + b"NOOP\r\n" * 100, OPTIONS) is None
    assert isinstance(found[0].body, WholeBody)


def test_bare_lf_is_refused_where_the_postmaster_says_so() -> None:  # A10
    reader, _ = read_data([b"A: b\r\n\r\nx\ny\r\n.\r\n"], ContentOptions(bare_newline="reject"))
    assert reader.finish() == BARE_LF


FIELD = b"Received: from a by b\r\n"


@pytest.mark.parametrize(
    ("content", "options", "answer"),
    [
        (b"A: b\r\n\r\n" + b"x" * 100 + b"\r\n", ContentOptions(message_size_limit=100), TOO_LARGE),
        (b"A: " + b"x" * 200_000 + b"\r\n", OPTIONS, HEADER_TOO_LARGE),
        (b"A: " + b"x" * 102_400 + b"\r\n\r\nx\r\n", OPTIONS, HEADER_TOO_LARGE),
        (b"A: " + b"x\r\n " * 300_000 + b"\r\n", OPTIONS, HEADER_TOO_LARGE),
        (b"a:\r\n" * 100_000 + b"\r\n", OPTIONS, HEADER_TOO_LARGE),
        (FIELD * 51 + b"\r\n", OPTIONS, TOO_MANY_HOPS),
        (FIELD * 100_000 + b"\r\n", OPTIONS, TOO_MANY_HOPS),
        (b"x\r\n" * 100, ContentOptions(spool_directory=Path("/nonexistent"), spool_threshold=9),
         NO_SPACE),
    ],
    ids=["size", "E03-field", "E03-whole", "E03-fold", "E03-all", "E04-51", "E04-many", "no-spool"],
)  # fmt: skip
@pytest.mark.parametrize("step", [1000, 262_144])
def test_limits(content: bytes, options: ContentOptions, answer: Answer, step: int) -> None:
    stream = content + b".\r\n"
    pieces = [stream[at : at + step] for at in range(0, len(stream), step)]
    reader, rest = read_data(pieces, options)
    assert reader.finished
    assert rest == b""
    assert reader.finish() == answer


def test_limits_leave_room_up_to_themselves() -> None:
    body = b"x" * 90 + b"\r\n"
    reader, _ = read_data([b"A: b\r\n\r\n", body, b".\r\n"], ContentOptions(message_size_limit=100))
    assert isinstance(reader.finish(), Content)
    reader, _ = read_data([FIELD * 50, b"\r\n.\r\n"], OPTIONS)
    assert isinstance(reader.finish(), Content)


def test_a_body_that_begins_without_blank_line_may_be_long() -> None:
    body = b"no field\r\n" + b"x" * 200_000 + b"\r\n"
    reader, _ = read_data([b"A: b\r\n", body, b".\r\n"], OPTIONS)
    got = reader.finish()
    assert isinstance(got, Content)
    assert octets_of(got) == b"A: b\r\n\r\n" + body


@pytest.mark.parametrize("cut", range(95, 125))
def test_where_pieces_are_cut_does_not_decide_about_the_header(cut: int) -> None:
    stream = b"A: " + b"x" * 95 + b"\r\nno field at all\r\nx\r\n.\r\n"
    options = ContentOptions(header_size_limit=100)
    reader, _ = read_data([stream[:cut], stream[cut:]], options)
    got = reader.finish()
    assert isinstance(got, Content)
    assert octets_of(got) == stream[:100] + b"\r\n" + stream[100:-3]
    reader, _ = read_data([b"A:" + stream[:cut], stream[cut:]], options)
    assert reader.finish() == HEADER_TOO_LARGE


def test_a_line_that_comes_octet_by_octet_is_not_parsed_each_time() -> None:
    reader = DataReader(OPTIONS)
    reader.feed(b"A:\r\n" * 25_600)
    begin = time.process_time()
    for _ in range(900):
        reader.feed(b"n")
    assert time.process_time() - begin < 2
    reader.feed(b"\r\n.\r\n")
    got = reader.finish()
    assert isinstance(got, Content)
    assert len(got.headers) == 25_600
    assert got.body.size == 902


def test_more_than_twice_the_limit_is_an_overrun() -> None:
    reader = DataReader(ContentOptions(message_size_limit=1000))
    reader.feed(b"x" * 2000)
    assert not reader.overrun
    reader.feed(b"x")
    assert reader.overrun


def test_a_large_body_goes_to_an_unlinked_file(tmp_path: Path) -> None:
    options = ContentOptions(spool_threshold=1000, spool_directory=tmp_path)
    body = b"0123456789abcdef\r\n" * 1000
    reader, _ = read_data([b"A: b\r\n\r\n", body, b".\r\n"], options)
    got = reader.finish()
    assert isinstance(got, Content)
    assert isinstance(got.body, SeenBody)
    assert body_octets(got.body) == body
    assert got.body.seen == Seen(zlib.crc32(body), False, False)
    assert list(tmp_path.iterdir()) == []
    got.close()
    assert got.body.file.closed


def test_a_small_body_stays_in_memory() -> None:
    reader, _ = read_data([b"A: b\r\n\r\nx\r\n.\r\n"], OPTIONS)
    got = reader.finish()
    assert isinstance(got, Content)
    assert isinstance(got.body, BytesBody)


def test_from_lines_a_million_times_in_linear_time() -> None:  # A18
    stream = b"From x Thu\r\n" * 1_000_000 + b".\r\n"
    begin = time.process_time()
    reader, _ = read_data([stream[at : at + 65536] for at in range(0, len(stream), 65536)], OPTIONS)
    got = reader.finish()
    assert time.process_time() - begin < 5
    assert isinstance(got, Content)
    assert [(each.name, each.value) for each in got.headers] == [
        (b"X-Mailbox-Line", b" From x Thu")
    ]
    assert got.body.size == 12 * 999_999
    got.close()


def test_clean_data_passes_quickly(tmp_path: Path) -> None:
    """A guard against a loop by line; a quiet machine does five times this."""
    line = b"The quick brown fox jumps over the lazy dog and some more text.\r\n"
    piece = line * (262_144 // len(line))
    options = ContentOptions(message_size_limit=1 << 30, spool_directory=tmp_path)
    reader = DataReader(options)
    reader.feed(b"A: b\r\n\r\n")
    begin = time.process_time()
    for _ in range(200):
        reader.feed(piece)
    speed = 200 * len(piece) / (time.process_time() - begin) / 1e6
    reader.discard()
    print(f"{speed:.0f} MB/s")
    assert speed > 60
