"""A body that was seen as it came in is not read to be queued, nor for the first attempt."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest

from milterd.core.mail import body_octets
from milterd.core.spooled import SeenBody, Watch
from smtpgw.queue import shard as shards
from smtpgw.queue.shard import Shard
from smtpgw.queue.store import Damaged

_ID = "0123456789abcd"
_HEAD = zlib.crc32(b"Subject: a\r\n\r\n")
_OCTETS = b"0123456789abc\r\n" * 30_000


def _came(directory: Path) -> SeenBody:
    number = os.open(directory, os.O_TMPFILE | os.O_RDWR, 0o600)
    file = os.fdopen(number, "w+b")
    file.write(_OCTETS)
    file.flush()
    watch = Watch()
    watch.see(_OCTETS)
    return SeenBody(file, 0, len(_OCTETS), watch.seen())


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what is read from files at a place."""
    those: list[int] = []
    pread = os.pread

    def counted(number: int, size: int, at: int) -> bytes:
        those.append(size)
        return pread(number, size, at)

    monkeypatch.setattr(os, "pread", counted)
    return those


def test_it_is_queued_and_opened_without_being_read(tmp_path: Path, reads: list[int]) -> None:
    shard, body = Shard(tmp_path / "00"), _came(tmp_path)
    checksum = shard.write_body(_ID, body, _HEAD)
    assert checksum == zlib.crc32(_OCTETS, _HEAD)
    first = shard.open_body(_ID, len(_OCTETS), _HEAD, checksum)
    assert isinstance(first, SeenBody)
    assert first.seen == body.seen
    assert reads == []
    again = shard.open_body(_ID, len(_OCTETS), _HEAD, checksum)
    assert not isinstance(again, SeenBody)
    assert len(reads) > 1
    assert body_octets(first) == body_octets(again) == _OCTETS
    for each in (body, first, again):
        each.file.close()


def test_what_was_changed_since_is_read_and_found_out(tmp_path: Path) -> None:
    shard, body = Shard(tmp_path / "00"), _came(tmp_path)
    checksum = shard.write_body(_ID, body, _HEAD)
    path = shard.body_path(_ID)
    path.write_bytes(b"9" + _OCTETS[1:])
    os.utime(path, (0, 0))  # a clock may stand still between two writes
    with pytest.raises(Damaged):
        shard.open_body(_ID, len(_OCTETS), _HEAD, checksum)
    body.file.close()


@pytest.mark.parametrize(("head", "wrong"), [(_HEAD, 1), (_HEAD ^ 1, 0)])
def test_what_the_row_says_has_to_agree_all_the_same(tmp_path: Path, head: int, wrong: int) -> None:
    shard, body = Shard(tmp_path / "00"), _came(tmp_path)
    checksum = shard.write_body(_ID, body, _HEAD)
    with pytest.raises(Damaged):
        shard.open_body(_ID, len(_OCTETS), head, checksum ^ wrong)
    body.file.close()


def test_no_more_are_remembered_than_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_REMEMBERED", 2)
    shard, body = Shard(tmp_path / "00"), _came(tmp_path)
    names = [f"0123456789abc{each}" for each in "defg"]
    bodies = [body, *(_came(tmp_path) for _ in names[1:])]
    sums = [shard.write_body(*each, _HEAD) for each in zip(names, bodies, strict=True)]
    shard.drop_body(names[3])
    found = [
        shard.open_body(name, len(_OCTETS), _HEAD, checksum)
        for name, checksum in zip(names[:3], sums, strict=False)
    ]
    assert [isinstance(each, SeenBody) for each in found] == [False, False, True]
    for each in (*bodies, *found):
        each.file.close()
