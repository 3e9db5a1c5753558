"""Killed at any moment and at any system call, the queue keeps what it acknowledged.

Acknowledged means: delivered, or there, once and complete.  What was not acknowledged
may be there, but then complete.  Faults F01, F03, F04.
"""

from __future__ import annotations

import contextlib
import random
import re
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from smtpgw.queue.clock import QueueClock, SystemClock
from smtpgw.queue.sqlite import SqliteStore
from smtpgw.queue.states import MailState
from smtpgw.queue.store import Filter
from tests.peers.process import directory, wait_for
from tests.queue.support import run
from tests.queue.victim import OPTIONS, mail

_ROOT = Path(__file__).parents[2]
_WAIT = 20.0


@dataclass
class _Life:
    """What one victim said before it died."""

    acked: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def take(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        getattr(self, word).append(rest)


@contextlib.contextmanager
def _victim(shard: Path, life: _Life) -> Iterator[subprocess.Popen[str]]:
    """A victim that is ready; its words go to `life`, all of them once this ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.queue.victim", str(shard)],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "READY\n"
    stdout = process.stdout
    reader = threading.Thread(target=lambda: [life.take(line.strip()) for line in stdout])
    reader.start()
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        reader.join()
        process.stdin.close()
        process.stdout.close()


def _go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


@contextlib.contextmanager
def _strace(pid: int, inject: str, home: Path) -> Iterator[None]:
    calls = inject.partition(":")[0]
    command = ["strace", "-f", "-o", str(home / "trace"), "-p", str(pid)]
    command += ["-e", f"trace={calls}", "-e", f"inject={inject}"]
    said = home / "strace"
    with said.open("w") as errors:
        tracer = subprocess.Popen(command, stderr=errors)
    try:
        # The victim's threads are attached one by one: wait for all of them.
        threads = len(list(Path(f"/proc/{pid}/task").iterdir()))

        def attached() -> bool:
            return _traced(pid) >= threads

        wait_for(attached, "strace is attached", within=_WAIT)
        yield
    finally:
        tracer.terminate()
        tracer.wait()


def _traced(pid: int) -> int:
    count = 0
    for each in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            count += "TracerPid:\t0\n" not in (each / "status").read_text()
    return count


def _check(shard: Path, life: _Life) -> int:
    """Compare the ledger with the store; how many that were sent are there to be sent again."""

    async def look() -> int:
        clock = QueueClock(SystemClock())
        store = SqliteStore.open(shard, OPTIONS, clock=clock)
        found = await store.recover(clock.now())
        assert found.corrupt == ()
        assert (await store.counts())[MailState.CORRUPT] == 0
        there = [each.queue_id for each in await store.list(Filter(limit=100_000))]
        assert len(there) == len(set(there))
        lost = set(life.acked) - set(there) - set(life.sent)
        assert not lost, f"lost: {sorted(lost)}"
        for queue_id in there:
            octets = b"".join((await store.content(queue_id)).pieces())
            match = re.match(rb"X-Size: (\d+)\r\n", octets)
            assert match is not None
            assert octets == b"".join(mail(queue_id, int(match[1])).pieces())
        assert {each.name for each in (shard / "bodies").iterdir()} <= set(there)
        await store.close()
        return len(set(there) & set(life.sent))

    return run(look())


def test_killed_at_random_moments(tmp_path: Path) -> None:
    """One spool, killed again and again: nothing acknowledged is lost on the way."""
    chance, life, twice = random.Random(20), _Life(), 0
    shard = tmp_path / "00"
    for _ in range(8):
        now = _Life()
        with _victim(shard, now) as process:
            _go(process)
            wait_for(lambda now=now: len(now.acked) > 20, "mails are accepted", within=_WAIT)
            pause = threading.Event()
            pause.wait(chance.random() * 0.15)
        assert max(Counter(now.sent).values(), default=0) <= 1  # never twice without a crash
        life.acked += now.acked
        life.sent += now.sent
        twice += _check(shard, life)
    print(f"8 kills: {len(life.acked)} acknowledged, {len(life.sent)} sent, {twice} twice")


_POINTS = [
    (call, number)
    for call, numbers in {
        "write": (1, 2, 3, 5, 9, 17),
        "pwrite64": (1, 2, 3, 4, 5, 7, 11, 19, 37, 71, 120, 200),
        "fdatasync": (1, 2, 3, 4, 5, 7, 11, 16),
        "fsync": (1, 2, 3, 4, 6, 9),
        "openat": (1, 2, 3, 4, 6, 9),
        "unlink": (1, 2, 3, 5),
        "ftruncate": (1, 2, 3),
        "pread64": (1, 9, 40),
    }.items()
    for number in numbers
]


@pytest.mark.timeout(180)
def test_killed_at_a_system_call() -> None:
    """The sweep: SIGKILL as the nth such call is entered, n from the first accept on."""
    outcomes: Counter[str] = Counter()
    twice = 0
    for call, number in _POINTS:
        life = _Life()
        with directory("crash") as home:
            inject = f"{call}:signal=SIGKILL:when={number}"
            with _victim(home / "00", life) as process, _strace(process.pid, inject, home):
                _go(process)
                try:
                    process.wait(2.5)
                    outcomes["killed"] += 1
                except subprocess.TimeoutExpired:
                    outcomes["never reached"] += 1
            twice += _check(home / "00", life)
            outcomes["acknowledged"] += len(life.acked)
            outcomes["sent"] += len(life.sent)
    print(f"{len(_POINTS)} points: {dict(outcomes)}, {twice} would be sent twice")
    assert outcomes["killed"] >= len(_POINTS) * 0.9


@pytest.mark.parametrize("inject", ["fdatasync:error=EIO:when=4", "fsync:error=EIO:when=3"])
def test_a_failed_sync_is_not_retried(inject: str) -> None:
    """After EIO nothing more is accepted; what was acknowledged before is there."""
    life = _Life()
    with directory("crash") as home:
        with _victim(home / "00", life) as process, _strace(process.pid, inject, home):
            _go(process)
            wait_for(lambda: len(life.failed) > 20, "mail is refused", within=_WAIT)
            acked = len(life.acked)
            failed = len(life.failed)
            wait_for(lambda: len(life.failed) > failed + 20, "it goes on", within=_WAIT)
            assert len(life.acked) == acked
        assert set(life.failed) == {"451 StoreFailed"}
        call = inject.partition(":")[0]
        trace = (home / "trace").read_text()
        # Each thread counts its own calls, so more than one may meet its fault at that moment.
        after = trace.rpartition("(INJECTED)")[2]
        later = [each for each in after.splitlines()[1:] if f" {call}(" in each]
        # Each of six clients may have a body on its way, which any thread may write, the one that
        # met the fault too: a sync for its file, and one for its directory.
        most = 6 * 2 if call == "fsync" else 0
        assert len(later) <= most
        _check(home / "00", life)
