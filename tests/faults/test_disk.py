"""A disk that is full, over quota, read-only or failing (F04, F05): who may send is told to try
again, what is queued goes out, and all goes on by itself once there is room.

One gateway lives through it all, on a small disk of its own.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from smtpgw.queue.sqlite import SqliteStore
from smtpgw.queue.store import Filter
from tests.faults import place
from tests.faults.place import Later
from tests.gateway.gateway import send_by, until
from tests.queue.support import message, new, opened, run

_FULL = "4.3.1 Insufficient system storage"


@pytest.fixture(scope="module")
def small() -> Iterator[Later]:
    """A gateway whose queue is on a small disk."""
    with place.home() as home, place.disk(home / "disk"), place.later(home) as one:
        yield one.start()


def message_of(size: int) -> bytes:
    return b"Subject: large\r\n\r\n" + (b"x" * 78 + b"\r\n") * (size // 80)


def left(small: Later) -> list[Path]:
    """Files with a mail in them."""
    return [*small.queue.glob("*/bodies/*"), *small.queue.glob("spool/*")]


FULL: dict[str, Callable[[Path], AbstractContextManager[None]]] = {
    "little space": lambda disk: place.filled(disk, 900_000),
    "no space": place.filled,
    "no inodes": place.without_inodes,
}


@pytest.mark.parametrize("kind", FULL)
def test_on_a_full_disk_new_mail_waits_and_what_is_queued_goes_out(small: Later, kind: str) -> None:
    """F05: with these, 452 comes at MAIL, before anything is sent in vain."""
    worker = place.worker(small)
    waits = small.send_later()
    with FULL[kind](small.queue.parent):
        with small.client() as client:
            code, text = client.mail("a@example.org")
            assert (code, text.decode().partition(",")[0]) == (452, _FULL)
        small.arrives(waits)
    assert small.arrives(small.send_new())
    assert place.worker(small) == worker


@pytest.mark.parametrize("size", [600_000, 1_400_000])
def test_a_disk_that_fills_up_while_a_mail_comes_in(small: Later, size: int) -> None:
    """F05: 452 after the dot, whether its body would be a file or is one already; nothing of it
    is left behind."""
    until(lambda: not left(small), what="the end of the mail before")
    with small.client() as client:
        client.mail("a@example.org")
        client.rcpt("u@example.net")
        client.docmd("DATA")
        with place.filled(small.queue.parent):
            client.send(message_of(size) + b".\r\n")
            code, text = client.getreply()
            assert (code, text.decode().partition(",")[0]) == (452, _FULL)
            assert not left(small)
        answer = send_by(client, message_of(size), "a@example.org", ["u@example.net"])
        assert answer[0] == 250


@pytest.mark.parametrize("name", ["EDQUOT", "EROFS"])
def test_a_write_that_is_refused_for_good_reason_is_a_full_disk(small: Later, name: str) -> None:
    """F05: SQLite tells a quota and a read-only disk like a broken one; they are not."""
    worker = place.worker(small)
    shard = small.queue / "00"
    paths = (shard / "queue.db-wal", shard / "probe")
    with place.failing(worker, f"pwrite64,fallocate:error={name}", small.place, *paths):
        for _ in range(3):
            code, text = small.send()
            assert (code, text.partition(",")[0]) == (452, _FULL)
        assert place.worker(small) == worker
    until(lambda: small.send()[0] == 250, what="room")
    assert small.arrives(small.send_new())


def test_it_starts_on_a_full_disk_and_empties_its_queue(small: Later) -> None:
    """F05: with what it kept back; the same after a crash of the worker alone."""
    waits = small.send_later()
    assert small.stop() == 0
    with place.filled(small.queue.parent):
        small.start()
        assert small.send()[0] == 452
        small.arrives(waits)
    assert small.arrives(small.send_new())


def test_a_read_only_disk_at_the_start_is_told(small: Later) -> None:
    """F05: it says so and ends; the service manager tries again."""
    assert small.stop() == 0
    disk = small.queue.parent
    place.remount(disk, "ro")
    try:
        command = [sys.executable, "-m", "smtpgw", "run", "-c", str(small.file)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert "Read-only file system" in done.stderr
    finally:
        place.remount(disk, "rw")
    small.start()
    assert small.arrives(small.send_new())


def test_a_failed_sync_ends_the_process_and_the_next_one_goes_on(small: Later) -> None:
    """F04: 451 for the mail whose commit failed, and none is accepted by this process after it;
    the log tells why, the supervisor starts another, and what was promised before is delivered."""
    worker, waits = place.worker(small), small.send_later()
    log = small.queue / "00" / "queue.db-wal"
    told = small.count("deliveries stopped")
    with place.failing(worker, "fdatasync,fsync:error=EIO", small.place, log) as trace:
        code, text = small.send()
        assert (code, text.partition(",")[0]) == (451, "4.3.0 Queue file write error")
        until(lambda: small.count("deliveries stopped") > told, what="the alert")
        until(lambda: worker not in small.workers(), what="the worker's end")
        assert trace.read_text().count("(INJECTED)") == 1, "a failed sync was tried again"
    (alert,) = small.events("deliveries stopped")[told:]
    assert (alert["level"], "SQLITE_IOERR_FSYNC" in alert["reason"]) == ("critical", True)
    small.arrives(waits)
    assert small.arrives(small.send_new())


def test_what_a_crash_left_in_the_log_is_on_the_disk_before_anything_is_written_behind_it(
    tmp_path: Path,
) -> None:
    """F04: pages of the log that never reached the disk would end the log for whoever reads it
    after the next power cut, with all that was promised behind them."""

    async def scenario() -> None:
        async with opened(tmp_path / "first" / "00") as store:
            for _ in range(3):
                await store.add(new(store, message()))
            shutil.copytree(tmp_path / "first" / "00", tmp_path / "crashed" / "00")
        store = SqliteStore.open(tmp_path / "crashed" / "00")
        (tmp_path / "cut" / "00").mkdir(parents=True)
        shutil.copy(tmp_path / "crashed" / "00" / "queue.db", tmp_path / "cut" / "00")
        await store.close()
        async with opened(tmp_path / "cut" / "00") as without_log:
            assert len(await without_log.list(Filter())) == 3

    run(scenario())


def test_the_helper_takes_its_faults_back(small: Later) -> None:
    """Nothing of the faults above is left for the next test."""
    assert place.free(small.queue.parent) > 1_000_000
    with contextlib.suppress(FileNotFoundError):
        assert "TracerPid:\t0" in Path(f"/proc/{place.worker(small)}/status").read_text()
