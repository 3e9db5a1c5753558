"""A body that was seen as it came in leaves as any other, and is read but once for that."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from milterd.core.mail import BytesBody, FileBody
from milterd.core.spooled import SeenBody, Watch, WholeBody
from smtpgw.delivery import content, emit
from smtpgw.delivery.message import Message
from smtpgw.delivery.outcome import Job, Target

_BODIES = {
    "plain": b"0123456789\r\n" * 30_000,
    "dots": b".\r\n..\r\nx\r\n" * 30_000,
    "eight bits": b"caf\xc3\xa9\r\n" * 30_000,
    "long": b"x" * 999 + b"\r\n" + b"y\r\n" * 50_000,
    "ends of lines at ends of pieces": (b"x" * 30 + b"\r\n.") * 20_000 + b"\r\n",
}


@pytest.fixture(params=_BODIES)
def body(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SeenBody]:
    octets, watch = _BODIES[request.param], Watch()
    watch.see(octets)
    with tempfile.TemporaryFile(dir=tmp_path) as file:
        file.write(octets)
        file.flush()
        yield SeenBody(cast(BinaryIO, file), 0, len(octets), watch.seen())


def _job(body: FileBody, head: bytes) -> Job:
    return Job("q", b"a@x", (), (Target(0, b"u@x"),), head, body)


HEADS = [b"S: x\r\n\r\n", b"S: x\ny\r\n\r\n", b"S: x\r\n", b"S: \xff\r\n\r\n", b"S: " + b"x" * 999]


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("limit", [0, 20, 998, 5000])
def test_it_has_the_traits_of_any_other(body: SeenBody, head: bytes, limit: int) -> None:
    plain = FileBody(body.file, 0, body.size)
    found = asyncio.run(content.examine(_job(body, head), limit))
    assert found == asyncio.run(content.examine(_job(plain, head), limit))


def test_it_is_not_read_for_its_traits(body: SeenBody) -> None:
    body.file.close()  # whoever reads it raises
    found = asyncio.run(content.examine(_job(body, b"S: x\r\n\r\n"), 998))
    assert found == content.Traits(body.seen.eight_bit, body.seen.long_lines)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("fold", [0, 998])
def test_it_leaves_as_any_other(body: SeenBody, head: bytes, fold: int) -> None:
    sent = []
    for each in (body, FileBody(body.file, 0, body.size)):
        message = Message(_job(each, head), None, True, False, fold)
        sent.append((b"".join(message.stuffed()), b"".join(message.chunks())))
    assert sent[0] == sent[1]


def test_no_look_is_taken_for_strays_in_it(body: SeenBody, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[int] = []
    look = emit._without_strays

    def counted(data: bytes) -> bytes:
        looked.append(len(data))
        return look(data)

    monkeypatch.setattr(emit, "_without_strays", counted)
    head = b"S: x\r\n\r\n"
    for _ in Message(_job(body, head), None, True, False, 0).stuffed():
        pass
    assert sum(looked) == len(head)


@pytest.mark.parametrize("head", [b"", b"S: x\r\n\r\n", b"S: x\ny\r\n\r\n", b".\r\n", b"S: \r"])
@pytest.mark.parametrize("body", [b"", b"a\r\n", b".\r\n.\r\n"])
def test_a_body_that_was_seen_to_be_whole_lines_leaves_as_any_other(
    head: bytes, body: bytes
) -> None:
    sent = []
    for each in (BytesBody(body), WholeBody(body)):
        job = Job("q", b"a@x", (), (Target(0, b"u@x"),), head, each)
        message = Message(job, None, True, False, 0, content.at_hand(job))
        sent.append(message.whole())
    assert sent[0] == sent[1] == emit.stuffed(head + body)


def test_no_look_is_taken_for_strays_in_one_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bytes] = []

    def counted(data: bytes) -> bytes:
        looked.append(data)
        return data

    monkeypatch.setattr(emit, "_without_strays", counted)
    job = Job("q", b"a@x", (), (Target(0, b"u@x"),), b"S: x\r\n\r\n", WholeBody(b"a\r\n"))
    Message(job, None, True, False, 0, content.at_hand(job)).whole()
    assert looked == [job.head]
