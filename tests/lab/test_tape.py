"""Tapes: what is written is read again, to the octet, and nothing else is taken for a tape."""

from __future__ import annotations

import errno
import io
import os
import re
from io import FileIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milterd.lab import tape
from milterd.lab.tape import Closed, Header, Note, Opened, Record, Said, TapeError, TapeReader
from milterd.lab.tape_codec import LONGEST, encode
from milterd.wire.frames import frame
from tests.fuzz.driver import seeds
from tests.fuzz.tape_targets import TARGETS

_sides = st.sampled_from(["mta", "milter"])
_packets = st.builds(frame, st.binary(min_size=1, max_size=1), st.binary(max_size=60))


@st.composite
def records(draw: st.DrawFn) -> list[Record]:
    """What a writer may put on a tape."""
    found: list[Record] = []
    at, last, closed = 0, 0, dict[int, set[str]]()
    for _ in range(draw(st.integers(0, 25))):
        at += draw(st.one_of(st.integers(0, 300), st.integers(0, 2**40)))
        number = draw(st.sampled_from([0, *closed]))
        if not number:
            last += 1
            closed[last] = set()
            found.append(Opened(last, at))
        elif draw(st.integers(0, 5)) == 0:
            by = draw(st.sampled_from(["mta", "milter", "recorder"]))
            if by not in closed[number]:
                found.append(Closed(number, at, by, draw(st.booleans())))
                closed[number].add(by)
                if found[-1].final or len(closed[number]) == 2:
                    del closed[number]
        elif draw(st.integers(0, 5)) == 0:
            found.append(Note(number, at, draw(st.text(max_size=20).filter(_plain))))
        else:
            side, whole = draw(_sides), draw(st.booleans())
            if side not in closed[number]:
                octets = draw(_packets if whole else st.binary(max_size=40))
                found.append(Said(number, at, side, octets, whole))
    return found


def _plain(text: str) -> bool:
    return text.isprintable()


def _octets(said: list[Record], header: Header = Header()) -> bytes:  # noqa: B008 - frozen
    octets, before = header.encode(), 0
    for each in said:
        octets += encode(each, before)
        before = each.at
    return octets


def _read(octets: bytes) -> tuple[TapeReader, list[Record]]:
    reader = TapeReader(io.BytesIO(octets), "x.tape")
    return reader, list(reader)


@given(records(), st.integers(0, 2**64 - 1), st.booleans())
@settings(max_examples=150, deadline=None)
def test_what_is_written_is_read(said: list[Record], started: int, redacted: bool) -> None:
    octets = _octets(said, Header(started, redacted))
    reader, found = _read(octets)
    assert found == said
    assert reader.header == Header(started, redacted)
    assert reader.torn is None


@given(records())
@settings(max_examples=40, deadline=None)
def test_a_tape_cut_anywhere_gives_all_whole_records(said: list[Record]) -> None:
    octets = _octets(said)
    ends = [len(_octets(said[:count])) for count in range(len(said) + 1)]
    for cut in range(18, len(octets)):
        reader, found = _read(octets[:cut])
        whole = sum(end <= cut for end in ends) - 1
        assert found == said[:whole]
        if cut in ends:
            assert reader.torn is None
        else:
            assert reader.torn == tape.Torn(ends[whole], cut - ends[whole])
    for cut in range(18):
        with pytest.raises(TapeError, match=r"x\.tape: octet 0: not a tape"):
            _read(octets[:cut])


@given(st.binary(max_size=200), st.booleans())
@settings(max_examples=400, deadline=None)
def test_garbage_is_never_anything_but_refused(octets: bytes, headed: bool) -> None:
    TARGETS["tape"](Header().encode() + octets if headed else octets)


def test_every_change_of_a_seed() -> None:
    for seed in seeds("tape"):
        TARGETS["tape"](seed)
        for at in range(len(seed)):
            for octet in (b"", b"\0", b"\x7f", b"\x80", b"\xff"):
                TARGETS["tape"](seed[:at] + octet + seed[at + 1 :])


_OPEN = _octets([Opened(1, 0)])


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"\x93GPTAPE\n\x02" + bytes(9), "octet 8: a tape of version 2; this program reads"),
        (b"\x93GPTAPE\n\x01\x02" + bytes(8), "octet 9: flags 0x2"),
        (Header().encode() + b"\0\0\0", "octet 18: no record: kind 0"),
        (Header().encode() + b"\x8b\0\0", "octet 18: a number longer than it need be"),
        (Header().encode() + b"\xff" * 9, "octet 18: a number of more than 63 bits"),
        (Header().encode() + b"\x11\0\0", "octet 18: connection 2 opened after 0"),
        (Header().encode() + b"\x0b\0\x01c", "octet 18: connection 1 is not open"),
        (_OPEN + b"\x0b\0\0", "octet 21: a packet without octets"),
        (_OPEN + b"\x0d\0\x81\x80\x40", "octet 21: no record"),
        (_OPEN + b"\x0a\0\x02\x03\0", "octet 21: connection closed in a way that does not exist"),
        (_OPEN + b"\x0a\0\x02\0\0\x0a\0\x02\0\0", "octet 26: connection 1 closed twice"),
        (_OPEN + b"\x0a\0\x02\0\0\x0b\0\x01Q", "octet 26: octets of the mta's, which has closed"),
        (_OPEN + b"\x0f\0\0\x17\0\0", "octet 24: note on connection 2"),
    ],
)
def test_a_refusal_names_file_octet_and_reason(octets: bytes, reason: str) -> None:
    with pytest.raises(TapeError) as caught:
        _read(octets)
    assert str(caught.value).startswith(f"x.tape: {reason}")


def test_the_first_octets_are_as_documented() -> None:
    """The page's example, octet by octet."""
    said: list[Record] = [
        Opened(1, 0),
        Said(1, 200, "mta", frame(b"Q"), True),
        Said(1, 201, "milter", b"\0\0", False),
        Closed(1, 201, "milter", True),
    ]
    page = (Path(__file__).parents[2] / "docs/lab/tapes.md").read_text()
    (block,) = re.findall(r"^```\n(93 47 .*?)^```", page, re.M | re.S)
    assert _octets(said, Header(1, True)) == bytes.fromhex(block)


@given(st.lists(st.one_of(_packets, st.binary(max_size=12)), max_size=8).map(b"".join), st.data())
@settings(max_examples=150, deadline=None)
def test_a_stream_is_kept_to_the_octet(stream: bytes, data: st.DataObject) -> None:
    """However it is cut, the same packets and pieces, and no octet lost."""
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    split = tape.Splitter()
    found = [
        each
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)
        for each in split.feed(stream[start:end])
    ]
    found += split.rest()
    assert b"".join(octets for octets, _ in found) == stream
    at_once = tape.Splitter()
    expected = [octets for octets, whole in at_once.feed(stream) if whole]
    assert [octets for octets, whole in found if whole] == expected
    for octets, whole in found:
        if whole:
            assert int.from_bytes(octets[:4], "big") == len(octets) - 4


class _Clock:
    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


def test_writing_a_tape(tmp_path: Path) -> None:
    path, clock = tmp_path / "a.tape", _Clock()
    with tape.create(path, started=12.5, clock=clock) as writer:
        one, two = writer.opened(), writer.opened()
        tap = writer.tap(one)
        tap("mta", frame(b"O", b"offer")[:3])
        clock.now += 0.25
        tap("mta", frame(b"O", b"offer")[3:] + b"\0\0\0\0?")
        writer.heard(two, "milter", b"\0\0")
        writer.closed(one, "mta")
        writer.closed(one, "milter")
    assert path.stat().st_mode & 0o777 == 0o600
    with tape.reading(path) as reader:
        assert reader.header == Header(12_500_000, False)
        found = list(tape.conversations(reader))
    assert [each.connection for each in found] == [1, 2]
    assert found[0].said == [
        Said(1, 250_000, "mta", frame(b"O", b"offer"), True),
        Said(1, 250_000, "mta", b"\0\0\0\0?", False),
    ]
    assert found[1].turns == [("milter", b"\0\0")]
    assert found[1].closed == [Closed(2, 250_000, "recorder")]
    with pytest.raises(FileExistsError), tape.create(path):
        pass


def test_nothing_is_lost_when_the_writer_is_killed(tmp_path: Path) -> None:
    """Every record is in the file when its call returns: no close, no flush."""
    path = tmp_path / "a.tape"
    with tape.create(path) as writer:
        connection = writer.opened()
        for count in range(1, 4):
            writer.heard(connection, "mta", frame(b"A"))
            with tape.reading(path) as reader:
                assert len(list(reader)) == 1 + count


class _Full(FileIO):
    """A disk with room for `room` more octets."""

    room = 60

    def write(self, data: object) -> int:
        part = bytes(data)[: self.room]  # type: ignore[call-overload]
        if not part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(part)
        return super().write(part)


def test_a_full_disk_leaves_whole_records(tmp_path: Path) -> None:
    path = tmp_path / "a.tape"
    writer = tape.TapeWriter(_Full(path, "xb"), Header())
    connection = writer.opened()
    writer.heard(connection, "mta", frame(b"B", b"x" * 20))
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            writer.heard(connection, "mta", frame(b"B", b"y" * 20))
    writer.close()
    with tape.reading(path) as reader:
        assert [each.at >= 0 for each in reader] == [True, True]
        assert reader.torn is None


def test_what_is_held_has_a_limit() -> None:
    said: list[Record] = [Opened(1, 0)]
    said += [Said(1, 0, "mta", bytes(1000), False) for _ in range(10)]
    with pytest.raises(TapeError, match="more than 5000 octets"):
        list(tape.conversations(_reader(said), most=5000))


def test_connections_that_are_over_are_not_held() -> None:
    said: list[Record] = []
    for number in range(1, 30):
        said += [Opened(number, 0), Said(number, 0, "mta", bytes(1000), False)]
        said += [Closed(number, 0, "mta", True)]
    assert len(list(tape.conversations(_reader(said), most=5000))) == 29


def _reader(said: list[Record]) -> TapeReader:
    return TapeReader(io.BytesIO(_octets(said)), "x.tape")


def test_the_reader_never_takes_more_than_a_record() -> None:
    """A length that promises more than there is costs nothing."""

    class Counted(io.BytesIO):
        most = 0

        def read(self, size: int | None = -1, /) -> bytes:
            self.most = max(self.most, size or 0)
            return super().read(size)

    stream = Counted(_OPEN + b"\x0d\0\xff\xff\xff\xff\x7f")
    with pytest.raises(TapeError):
        list(TapeReader(stream, "x.tape"))
    assert stream.most <= LONGEST
