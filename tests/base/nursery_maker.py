"""A maker of a nursery, as a program: `python -m tests.base.nursery_maker WHAT`.

What it finds goes to standard output as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milterd.base import metrics, nursery
from milterd.base.asked import ask

HERE = (sys.executable, "-m")


def look(words: Sequence[str]) -> int:
    """What the child sees of itself, into the descriptor named by the first word."""
    own = list(Path("/proc/self/fd").iterdir())
    found = {
        "words": list(words),
        "open": sorted(int(each.name) for each in own if each.is_symlink()),
        "input": str(Path("/proc/self/fd/0").readlink()),
        "group": os.getpgid(0) == os.getpid(),
        "given": os.environ.get("GIVEN"),
        "title": Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode(),
        "comm": Path("/proc/self/comm").read_text().strip(),
        "usual": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        and signal.getsignal(signal.SIGINT) == signal.default_int_handler,
        "threads": len(list(Path("/proc/self/task").iterdir())),
    }
    os.write(int(words[0]), json.dumps(found).encode())
    return 7


def wait(_words: Sequence[str]) -> int:
    time.sleep(1000)
    return 0


def fail(words: Sequence[str]) -> int:
    if words:
        raise SystemExit(words[0])
    raise ValueError("it cannot")


def echo(_words: Sequence[str]) -> int:
    text = sys.stdin.read()
    sys.stdout.write(text.upper())
    sys.stderr.write("said")
    return 3


def count(_words: Sequence[str]) -> int:
    metrics.MAILS.labels("smtpgw", "mx", "queued").inc(2)
    metrics.TAKEOVERS.inc()
    return 0


PROGRAMS = {each.__name__: each for each in (look, wait, fail, echo, count)}


async def born(one: nursery.Nursery) -> Any:
    """Two children one after the other, each with descriptors at the other's place."""
    found = []
    for _ in range(2):
        ours, theirs = socket.socketpair()
        spare = os.open(os.devnull, os.O_RDONLY)
        numbers = {theirs.fileno(): spare, spare: theirs.fileno()}
        child = one.bear((*HERE, "look", str(spare)), numbers, {"GIVEN": "this"})
        theirs.close()
        os.close(spare)
        status = await child.wait()
        seen = json.loads(ours.recv(65536))
        ours.close()
        found.append([status, child.returncode, sorted([0, 1, 2, *numbers]), seen])
    return found


async def ends(one: nursery.Nursery) -> Any:
    """Statuses: of one that is killed, that fails, that says why, and of a process asked once;
    then of one whose nursery was killed, and of one asked without a nursery."""
    killed = one.bear((*HERE, "wait"), {}, {})
    killed.send_signal(signal.SIGKILL)
    found: list[Any] = [await killed.wait()]
    try:
        killed.kill()
    except ProcessLookupError:
        found.append("ended")
    for words in (["fail"], ["fail", "no such place"]):
        found.append(await one.bear((*HERE, *words), {}, {}).wait())
    said = await ask(one, (*HERE, "echo"), b"text", 10)
    found += [said.status, said.output.decode(), said.errors.decode()]
    left = one.bear((*HERE, "wait"), {}, {})
    os.kill(one._pid, signal.SIGKILL)
    await asyncio.to_thread(os.waitid, os.P_PID, one._pid, os.WEXITED | os.WNOWAIT)
    left.send_signal(signal.SIGTERM)
    found.append(await left.wait())
    found.append(one.knows((*HERE, "wait")))
    try:
        one.bear((*HERE, "wait"), {}, {})
    except nursery.NurseryGone:
        found.append("gone")
    said = await ask(one, (sys.executable, "-c", "print(input())"), b"other\n", 10)
    found.append(said.output.decode())
    return found


async def late(one: nursery.Nursery) -> Any:
    try:
        await ask(one, (*HERE, "wait"), b"", 0.05)
    except TimeoutError:
        return "late"


async def counted(one: nursery.Nursery) -> Any:
    """Two that count together, and one that counts for itself."""
    together = metrics.prepare(os.environ["PLACE"])
    return [await one.bear((*HERE, "count"), {}, each).wait() for each in (together, together, {})]


async def stays(one: nursery.Nursery) -> Any:
    """Say who is there, and wait to be killed."""
    child = one.bear((*HERE, "wait"), {}, {})
    sys.stdout.write(json.dumps([one._pid, child.pid]) + "\n")
    sys.stdout.flush()
    await child.wait()


if __name__ == "__main__":
    made = nursery.make(PROGRAMS)
    result = asyncio.run(globals()[sys.argv[1]](made))
    made.close()
    sys.stdout.write(json.dumps(result))
