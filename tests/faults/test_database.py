"""The queue's database locked, broken or taken away (F20): nothing that was promised and can be
read is lost, what cannot be read is set aside for the postmaster, and the gateway goes on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from smtpgw.queue import salvage
from smtpgw.queue.clock import QueueClock
from smtpgw.queue.sqlite import SqliteOptions, SqliteStore
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Damaged, Filter, QueueError, StoreBroken
from tests.faults import place
from tests.faults.place import Later
from tests.gateway.gateway import until
from tests.gateway.test_process import command
from tests.queue.support import START, FakeClock, message, new, opened, run

_FILES = SqliteOptions(queue_minfree=0, inline_limit=20_000)
_PAGE = 4096


# -- locked ---------------------------------------------------------------------------------

_LOCKS = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def lock() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for each in started:
        each.kill()
        each.communicate()


def _locked(call: list[str]) -> subprocess.Popen[str]:
    other = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    return other


def test_a_database_that_another_process_has_locked(
    tmp_path: Path, lock: list[subprocess.Popen[str]]
) -> None:
    """451 for who comes meanwhile, after the time that a tool may take; then all is as before."""

    async def scenario() -> None:
        options = SqliteOptions(queue_minfree=0, busy_timeout=0.2)
        async with opened(tmp_path / "00", options=options) as store:
            await store.add(new(store, message()))
            call = [sys.executable, "-c", _LOCKS, str(tmp_path / "00" / "queue.db")]
            other = _locked(call)
            lock.append(other)
            with pytest.raises(QueueError, match="locked") as told:
                await store.add(new(store, message()))
            assert (told.value.code, store.failed) == (451, None)
            assert len(await store.list(Filter())) == 1
            other.kill()
            other.wait()
            await store.add(new(store, message()))
            assert len(await store.lease(START, 10, 60)) == 2

    run(scenario())


# -- broken ---------------------------------------------------------------------------------


def _body(number: int) -> bytes:
    size = 30_000 if number % 5 == 0 else 9_000
    return b"%05d " % number * (size // 6)


async def _fill(directory: Path) -> dict[str, bytes]:
    """Sixty mails, the database of a gateway that was stopped; ids and bodies."""
    bodies: dict[str, bytes] = {}
    async with opened(directory, options=_FILES) as store:
        for number in range(60):
            each = new(store, message(_body(number), rcpts=(b"u%d@example.net" % number,)))
            await store.add(each)
            bodies[each.queue_id] = _body(number)
        await store.hold(next(iter(bodies)), "as it was")
    return bodies


async def _readable(directory: Path) -> tuple[dict[str, bytes], set[str]]:
    """What can be delivered from a shard, and what is listed as corrupt there."""
    good: dict[str, bytes] = {}
    async with opened(directory, FakeClock(), options=_FILES) as store:
        leased = [each.mail for each in await store.lease(START + 1, 100, 60)]
        held = await store.list(Filter(frozenset({MailState.HOLD})))
        for each in [mail.queue_id for mail in (*leased, *held)]:
            try:
                content = await store.content(each)
                good[each] = b"".join(content.body.pieces())
            except Damaged as error:
                await store.set_aside(each, str(error))
        listed = await store.list(Filter())
        bad = {each.queue_id for each in listed if each.state is MailState.CORRUPT}
    return good, bad


def test_any_broken_page_is_told_as_such_when_it_is_met_at_the_start(tmp_path: Path) -> None:
    """Whatever is on it: the database opens, or it has to be repaired; nothing else is raised."""

    async def scenario() -> None:
        first = tmp_path / "whole" / "00"
        await _fill(first)
        pages, broken = (first / "queue.db").stat().st_size // _PAGE, 0
        for page in range(min(pages, 40)):
            there = tmp_path / str(page) / "00"
            shutil.copytree(first, there)
            with (there / "queue.db").open("r+b") as file:
                file.seek(page * _PAGE)
                file.write(os.urandom(_PAGE))
            try:
                store = SqliteStore.open(there, _FILES, clock=QueueClock(FakeClock()))
            except StoreBroken:
                broken += 1
            else:
                await store.close()
        assert broken >= 2, "the first page, and the one that tells how far time had come"

    run(scenario())


def test_any_broken_page_costs_what_stood_on_it(tmp_path: Path) -> None:
    """Page by page: each mail is there to the octet, or listed as corrupt, or on the page."""

    async def scenario() -> None:
        first = tmp_path / "whole" / "00"
        bodies = await _fill(first)
        pages = (first / "queue.db").stat().st_size // _PAGE
        kept: list[int] = []
        for page in range(0, pages, 10):
            there = tmp_path / str(page) / "00"
            shutil.copytree(first, there)
            with (there / "queue.db").open("r+b") as file:
                file.seek(page * _PAGE)
                file.write(os.urandom(_PAGE))
            salvage.mark(there / "queue.db", "a test")
            with pytest.raises(StoreBroken, match="a test"):
                SqliteStore.open(there, _FILES, clock=QueueClock(FakeClock()))
            saved = salvage.repair(there, "now")
            assert saved.aside == there / "damaged-now"
            good, bad = await _readable(there)
            assert all(bodies[each] == octets for each, octets in good.items())
            lost = set(bodies) - set(good) - bad
            assert saved.mails == len(good) + len(bad)
            assert bool(saved.unreadable) or not lost
            files = {each.name for each in (there / "bodies").iterdir()}
            aside = {each.name for each in (there / "damaged-now").glob("bodies/*")}
            assert len(files | aside) == 12, "a body file is gone"
            kept.append(len(good))
        # Pages 0 and the roots of tables cost all or much; each other one few.
        assert sorted(kept)[len(kept) // 4] >= 55

    run(scenario())


@pytest.mark.parametrize("step", range(6))
def test_a_repair_that_is_killed_is_ended_by_the_next_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Between any two renames."""

    class Killed(BaseException):
        pass

    async def scenario() -> None:
        there = tmp_path / "00"
        bodies = await _fill(there)
        salvage.mark(there / "queue.db", "a test")
        rename, left = Path.rename, step

        def count(path: Path, target: Path) -> Path:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return rename(path, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", count)
            with contextlib.suppress(Killed):
                salvage.repair(there, "first")
        if (there / "damaged").exists() or not (there / "queue.db").exists():
            salvage.repair(there, "second")
        good, bad = await _readable(there)
        assert (good, bad) == (bodies, set())

    run(scenario())


# -- while the gateway runs ------------------------------------------------------------------


@pytest.fixture(scope="module")
def gateway() -> Iterator[Later]:
    with place.home() as home, place.later(home, queue=place.QUEUE) as one:
        yield one.start()


def test_a_short_lock_is_waited_for(gateway: Later) -> None:
    with closing(sqlite3.connect(gateway.queue / "00" / "queue.db", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        answers: list[int] = []
        client = threading.Thread(target=lambda: answers.append(gateway.send()[0]))
        client.start()
        client.join(0.5)
        assert answers == []
        db.execute("ROLLBACK")
        client.join()
        assert answers == [250]


@pytest.mark.parametrize("names", [["queue.db"], ["queue.db", "queue.db-wal", "queue.db-shm"]])
def test_a_database_that_is_deleted_while_in_use_is_written_anew(
    gateway: Later, names: list[str]
) -> None:
    """The process that has it open still can read it."""
    waits, repaired = gateway.send_later(), gateway.count("queue repaired")
    for name in names:
        (gateway.queue / "00" / name).unlink()
    until(lambda: gateway.count("queue repaired") > repaired, what="the repair")
    told = gateway.told("queue repaired")[-1]
    assert (told["level"], told["unreadable"]) == ("critical", 0)
    assert told["mails"] >= 1
    gateway.arrives(waits)
    assert gateway.arrives(gateway.send_new())


def test_garbage_in_the_database_costs_what_was_overwritten(gateway: Later) -> None:
    """The worker meets it, at the latest when it is started; its queue goes on without what
    cannot be read, which is kept, and the postmaster is told in the log and by a check."""
    waiting = [gateway.send_later() for _ in range(8)]
    database, repaired = gateway.queue / "00" / "queue.db", gateway.count("queue repaired")
    (worker,) = gateway.workers()
    os.kill(worker, signal.SIGKILL)
    until(lambda: worker not in gateway.workers(), what="the worker's end")
    with contextlib.suppress(FileNotFoundError):
        (gateway.queue / "00" / "queue.db-wal").unlink()
    with database.open("r+b") as file:
        file.write(os.urandom(database.stat().st_size))
    until(lambda: gateway.count("queue repaired") > repaired, what="the repair")
    told = gateway.told("queue repaired")[-1]
    assert told["mails"] == 0
    assert Path(told["set_aside"], "queue.db").exists()
    assert gateway.arrives(gateway.send_new())
    done = command(gateway, "check")
    assert "was broken" in " ".join(done.stdout.split())
    assert command(gateway, "queue", "list").exit_code == 0
    assert not any((gateway.mail / each).exists() for each in waiting)
