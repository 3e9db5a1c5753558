"""What is seen of a body as it is written is what reading it would find."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from milterd.core.mail import BytesBody
from milterd.core.spooled import LONGEST, Seen, Watch, WholeBody, joined

_LINES = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.integers(LONGEST - 2, LONGEST + 2).map(lambda size: b"x" * size),
    ).map(lambda text: text.replace(b"\r", b"").replace(b"\n", b"")),
    max_size=6,
)


@given(_LINES, st.lists(st.integers(1, 1100), max_size=8))
@example([b"x" * LONGEST, b"x" * LONGEST], [500, LONGEST - 500, 1, 1, LONGEST])
@example([b"", b"x" * (LONGEST + 1)], [3, LONGEST])
def test_a_watch_sees_what_is_there_wherever_pieces_end(
    lines: Sequence[bytes], cuts: Sequence[int]
) -> None:
    body = b"".join(each + b"\r\n" for each in lines)
    watch, at = Watch(), 0
    for cut in (*cuts, len(body)):
        watch.see(bytearray(body[at : at + cut]))
        at += cut
    long = any(len(each) > LONGEST for each in lines)
    assert watch.seen() == Seen(zlib.crc32(body), not body.isascii(), long)


@given(st.binary(max_size=300), st.binary(max_size=300))
@example(b"head", bytes(5_000_003))
def test_the_checksum_of_two_is_that_of_both_as_one(first: bytes, second: bytes) -> None:
    found = joined(zlib.crc32(first), zlib.crc32(second), len(second))
    assert found == zlib.crc32(first + second)


def test_a_whole_body_is_any_body_of_its_octets() -> None:
    whole, plain = WholeBody(b"a\r\n"), BytesBody(b"a\r\n")
    assert whole == plain == whole
    assert hash(whole) == hash(plain)
    assert whole != WholeBody(b"b\r\n")
    assert whole != b"a\r\n"
