"""The processes that look into files: what they cost and what becomes of a mail when they fail."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from milterd.core.decision import Verdict
from milterd.filters.attachment_options import AttachmentsOptions
from milterd.filters.attachments import AttachmentsFilter
from milterd.ports.attached.found import Limits, Look
from milterd.ports.attached.pool import Pool
from tests.attachments import makers as make

FILE = make.zipped({"a.exe": make.PROGRAM})


def children() -> set[int]:
    """The processes that look, by their command lines."""
    found = set()
    for each in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        if b"milterd.ports.attached.worker" in Path(f"/proc/{each}/cmdline").read_bytes():
            found.add(int(each))
    return found


def look(pool: Pool, seconds: float = 20.0, octets: bytes = FILE) -> Look:
    return pool.look(octets, time.monotonic() + seconds)


def troubles(found: Look) -> list[str]:
    return [each.trouble for each in found.obstacles]


def test_one_that_was_killed_is_replaced_and_its_mail_comes_again() -> None:
    pool = Pool(Limits(), 1, time.monotonic)
    assert len(look(pool).things) == 2
    (victim,) = children()
    os.kill(victim, signal.SIGKILL)
    filter_ = AttachmentsFilter(AttachmentsOptions(), pool)
    mail = make.with_file(FILE, "a.zip")
    decision = filter_.decide(mail, filter_.gather(mail))
    assert decision.verdict is Verdict.TEMPFAIL
    assert decision.reasons[0].outcome == "unavailable"
    assert len(look(pool).things) == 2
    pool.close()
    assert not children()


def test_one_that_hangs_is_ended_at_the_deadline() -> None:
    pool = Pool(Limits(), 1, time.monotonic)
    look(pool)
    (victim,) = children()
    os.kill(victim, signal.SIGSTOP)
    began = time.monotonic()
    assert troubles(look(pool, 0.3)) == ["too_slow"]
    assert time.monotonic() - began < 20
    assert victim not in children()
    assert len(look(pool).things) == 2
    pool.close()


def test_no_more_than_there_may_be_work_at_a_time() -> None:
    pool = Pool(Limits(), 1, time.monotonic)
    look(pool)
    (busy,) = children()
    os.kill(busy, signal.SIGSTOP)
    waiting = threading.Thread(target=look, args=(pool, 2.0))
    waiting.start()
    assert troubles(look(pool, 0.2)) == ["too_slow"]
    assert len(children()) <= 1
    waiting.join()
    pool.close()


def test_memory_is_bounded() -> None:
    limits = Limits(octets=2_000_000_000, memory=300_000_000)
    pool = Pool(limits, 1, time.monotonic)
    found = look(pool, octets=make.packed_zeros(1500))
    assert troubles(found) in (["too_large"], ["unavailable"])
    pool.close()


@pytest.mark.parametrize("octets", [b"", b"x", bytes(5_000_000)])
def test_what_is_nothing_special_is_one_thing(octets: bytes) -> None:
    pool = Pool(Limits(), 1, time.monotonic)
    assert len(look(pool, octets=octets).things) == 1
    pool.close()
