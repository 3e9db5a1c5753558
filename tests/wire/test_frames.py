"""Frames: the same frames however the octets are cut, and refusal before buffering."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.wire.errors import FrameError, PeerError
from milterd.wire.frames import FrameDecoder, frame
from tests.wire.strategies import fragments


@given(st.data(), st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=30)), max_size=5))
def test_any_cut_gives_the_same_frames(
    data: st.DataObject, frames: list[tuple[int, bytes]]
) -> None:
    stream = b"".join(frame(bytes((code,)), payload) for code, payload in frames)
    decoder = FrameDecoder(100)
    found = []
    for piece in data.draw(fragments(stream)):
        decoder.feed(piece)
        found += list(decoder)
    assert found == frames
    assert decoder.buffered == 0


@pytest.mark.parametrize(
    "head", [b"\0\0\0\0", b"\xff\xff\xff\xff", (65536 * 8).to_bytes(4, "big"), b"\0\0\0\x0b"]
)
def test_bad_length_is_refused_before_its_payload_comes(head: bytes) -> None:
    decoder = FrameDecoder(10)
    decoder.feed(head)
    with pytest.raises(FrameError) as caught:
        list(decoder)
    assert isinstance(caught.value, PeerError)
    assert "octets" in caught.value.reason


def test_the_limit_itself_is_allowed() -> None:
    decoder = FrameDecoder(10)
    decoder.feed(b"\0\0\0\x0aX123456789")
    assert decoder.next_frame() == (ord("X"), b"123456789")


def test_half_a_frame_waits() -> None:
    decoder = FrameDecoder(10)
    decoder.feed(b"\0\0\0\x03X1")
    assert decoder.next_frame() is None
    assert decoder.buffered == 6
    decoder.clear()
    assert decoder.buffered == 0


@given(
    st.data(),
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=30)), max_size=5),
    st.sampled_from([b"", b"\0\0\0\0", b"\0\0\0\x65" + b"x" * 200, b"\0\0\0\x08half"]),
)
def test_split_gives_what_feeding_gives_and_the_fault_behind_it(
    data: st.DataObject, frames: list[tuple[int, bytes]], end: bytes
) -> None:
    stream = b"".join(frame(bytes((code,)), payload) for code, payload in frames) + end
    fed, split = FrameDecoder(100), FrameDecoder(100)
    for piece in data.draw(fragments(stream)):
        expected: list[tuple[int, bytes]] = []
        wrong = False
        fed.feed(piece)
        try:
            while (one := fed.next_frame()) is not None:
                expected.append(one)
        except FrameError:
            wrong = True
        found, fault = split.split(piece)
        assert (found, fault is not None) == (expected, wrong)
        assert split.buffered == fed.buffered
        if wrong:
            break
