"""A worker's store with a queue of any size: opening, the first lease, a page, counts, memory,
a clock that jumped.

In a process of its own, by its CPU time, for the machine is shared.  GATEPOST_SCALE is the
number of mails, all of them due.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from smtpgw.queue.clock import QueueClock, SystemClock
from smtpgw.queue.sqlite import SqliteOptions, SqliteStore
from smtpgw.queue.store import Filter
from tests.queue.support import message, new
from tests.scale.fill import Plan, fill

FULL = "GATEPOST_SCALE" in os.environ
MAILS = int(os.environ.get("GATEPOST_SCALE", "50000"))
NEW = 2000
RUNS = 7 if FULL else 2


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def _measure(directory: Path) -> dict[str, float]:
    """CPU seconds of each step, and the process's largest memory in MiB."""
    found: dict[str, float] = {}
    clock, last = QueueClock(SystemClock()), _cpu()

    def took(what: str) -> None:
        nonlocal last
        found[what], last = _cpu() - last, _cpu()

    store = SqliteStore.open(directory, SqliteOptions(), clock=clock)
    await store.recover(clock.now())
    leased = await store.lease(clock.now(), 20, 60.0)
    await store.content(leased[0].mail.queue_id)
    took("first lease")
    assert len(await store.list(Filter(limit=100))) == 100
    took("page")
    await store.counts()
    took("counts")
    found["memory"] = _peak()
    mails = [new(store, message(), at=clock.now()) for _ in range(NEW)]
    last, began, written = _cpu(), time.monotonic(), _written()
    await asyncio.gather(*(store.add(each) for each in mails))
    took("enqueue")
    found["seconds"], found["written"] = time.monotonic() - began, _written() - written
    await store.close()
    last = _cpu()
    await _begin(directory, QueueClock(_YearAhead()))
    took("a start with the clock a year ahead")
    return found


class _YearAhead(SystemClock):
    def wall(self) -> float:
        return super().wall() + 365 * 86400.0


async def _begin(directory: Path, clock: QueueClock) -> None:
    """Open, recover, and deliver no more than what is due."""
    store = SqliteStore.open(directory, SqliteOptions(), clock=clock)
    await store.recover(clock.now())
    assert await store.lease(clock.now(), 20, 60.0)
    await store.close()


def _written() -> float:
    """MiB this process has given to be written."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_oublock / 2048


def _peak() -> float:
    """The most memory this program has had, in MiB.  Not ru_maxrss: that has in it what the
    process was before it became this program."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _run(directory: Path) -> dict[str, float]:
    call = [sys.executable, "-m", "tests.scale.test_million", str(directory)]
    done = subprocess.run(call, check=True, capture_output=True, timeout=300)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def _smallest(runs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: min(each[key] for each in runs) for key in runs[0]}


def _in_turns(*directories: Path) -> Iterator[dict[str, float]]:
    """The smallest of some runs for each, every run in a process of its own: in turns, for the
    machine is not always equally fast."""
    rounds = [[_run(each) for each in directories] for _ in range(RUNS)]
    for runs in zip(*rounds, strict=True):
        yield _smallest(runs)


@pytest.mark.timeout(900)
def test_a_large_queue_is_at_work_at_once(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    fill(tmp_path / "empty", Plan(1000, time.time() - 3600))
    fill(tmp_path / "large", Plan(MAILS, time.time() - 3600))
    empty, large = _in_turns(tmp_path / "empty", tmp_path / "large")
    text = ", ".join(f"{key} {large[key]:.3f} ({empty[key]:.3f})" for key in large)
    record_property("measured", f"{MAILS} mails (1000), CPU seconds, seconds, MiB: {text}")
    assert large["first lease"] < 5.0
    assert large["a start with the clock a year ahead"] < 5.0
    assert large["page"] < 0.2
    assert large["counts"] < 1.0
    assert large["memory"] < 300
    assert empty["enqueue"] > 0.8 * large["enqueue"] - 0.1
    assert large["written"] < 1.25 * empty["written"] + 4
    if FULL:  # the store alone; what a client gets of it is in test_gateway.py
        assert empty["seconds"] > 0.7 * large["seconds"]


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asyncio.run(_measure(Path(sys.argv[1])))))
