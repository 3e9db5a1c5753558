"""strace: what system calls a program makes, and SIGKILL as it enters one of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.peers.process import program

CALLS = (
    # what changes files
    *("openat", "mkdir", "write", "pwrite64", "writev", "ftruncate", "fallocate", "rename"),
    *("renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "rmdir", "chmod", "fchmod"),
    *("fsync", "fdatasync", "flock"),
    # what tells others
    *("sendto", "sendmsg", "connect", "accept4", "close"),
)
"""The calls at which a sweep kills.  What comes before a call is done then, the call is not, so
calls that change nothing would add no new state."""

_LINE = re.compile(r"(\d+) +(\w+)\((.*)")
_ATTACH = 20.0


@dataclass(frozen=True)
class Point:
    """The `number`th such call of a thread: of the program's `thread`th that there was when
    tracing began, or, if None, of whichever comes that far first."""

    call: str
    number: int
    thread: int | None = None


def threads(pid: int) -> list[int]:
    """A program's threads in the order in which they were made."""
    return sorted(int(each.name) for each in Path(f"/proc/{pid}/task").iterdir())


Counts = Mapping[tuple[int | None, str], int]
"""How often a thread makes a call."""


@dataclass
class Trace:
    """What strace wrote."""

    file: Path
    began_with: list[int]

    def lines(self) -> list[tuple[int, str, str]]:
        """Thread, call, and the rest; descriptors come with the file that each is."""
        found = map(_LINE.match, self.file.read_text(errors="replace").splitlines())
        return [(int(each[1]), each[2], each[3]) for each in found if each]

    def by_thread(self) -> Counts:
        """The calls of the threads that there were from the beginning."""
        number = {pid: index for index, pid in enumerate(self.began_with)}
        return Counter(
            (number[pid], call) for pid, call, _ in self.lines() if pid in number and call in CALLS
        )

    def by_any(self) -> Counts:
        """The most that one thread made of each."""
        most: Counter[tuple[int | None, str]] = Counter()
        for (_, call), count in Counter((pid, call) for pid, call, _ in self.lines()).items():
            if call in CALLS:
                most[None, call] = max(most[None, call], count)
        return most


@contextlib.asynccontextmanager
async def traced(pid: int, file: Path, point: Point | None = None) -> AsyncIterator[Trace]:
    """Trace a program and every thread it will make; with a point, kill it there."""
    began_with = threads(pid)
    if point is None or point.thread is None:
        words, expected = ["-f", "-p", str(pid)], len(began_with)
    else:
        # The pool may have had one thread more when the points were drawn.
        words, expected = ["-p", str(began_with[min(point.thread, len(began_with) - 1)])], 1
    words += ["-y", "-s", "0", "-o", str(file)]
    words += ["-e", f"trace={point.call if point else ','.join(CALLS)}"]
    if point is not None:
        words += ["-e", f"inject={point.call}:signal=SIGKILL:when={point.number}"]
    tracer = await asyncio.create_subprocess_exec(
        program("strace", "strace"), *words, stderr=asyncio.subprocess.PIPE
    )
    assert tracer.stderr is not None
    try:
        async with asyncio.timeout(_ATTACH):
            said = b""
            while _attached(said) < expected:
                more = await tracer.stderr.read(4096)
                assert more, said
                said += more
        yield Trace(file, began_with)
    finally:
        # Not tracer.terminate(): that may take away the status that asyncio waits for.
        if tracer.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(tracer.pid, signal.SIGTERM)
        await tracer.communicate()


def _attached(said: bytes) -> int:
    """How many threads: "Process 1 attached", or "Process 1 attached with 7 threads"."""
    together = re.search(rb"attached with (\d+) threads", said)
    return int(together[1]) if together else len(re.findall(rb"attached\n", said))


def spread(counts: Counts, how_many: int, dice: random.Random) -> list[Point]:
    """Points over all of a run: of each thread's calls of each kind some, over all of its length,
    more of those that are made more often, but not in proportion."""
    weights = {key: count**0.5 for key, count in counts.items()}
    total = sum(weights.values())
    points = []
    for (thread, call), weight in weights.items():
        share = max(1, round(how_many * weight / total))
        count = counts[thread, call]
        points += [
            Point(call, 1 + int((index + dice.random()) / share * count), thread)
            for index in range(share)
        ]
    dice.shuffle(points)
    return points


def kinds(points: Iterable[Point]) -> str:
    """How many there are of each call, for a report."""
    return ", ".join(
        f"{call} {count}" for call, count in Counter(each.call for each in points).most_common()
    )
