"""Children are kept running, told the truth, and never left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from milterd.base import logs, supervise
from milterd.base.supervise import Backoff, Child, Supervisor

FAST = Backoff(first=0.02, limit=0.1, reset=60)


def script(name: str, code: str) -> Child:
    return Child(name, (sys.executable, "-c", code))


def sleeper(name: str) -> Child:
    return Child(name, ("sleep", "1000"))


async def until(condition: Callable[[], object], patience: float = 10.0) -> None:
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.01)


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def supervise_while(
    children: list[Child], body: Callable[[Supervisor], Awaitable[None]], **options: object
) -> int:
    """Run a supervisor while `body` runs, then stop it; its result."""

    async def main() -> int:
        values = {"grace": 5.0, "backoff": FAST, **options}
        supervisor = Supervisor(children, log=logs.get("test"), **values)  # type: ignore[arg-type]
        task = asyncio.create_task(supervisor.run())
        await until(lambda: len(supervisor.pids()) == len(children))
        try:
            await body(supervisor)
        finally:
            supervisor.stop()
        return await task

    return asyncio.run(main())


def test_a_dead_child_is_replaced_and_the_others_stay() -> None:
    async def body(supervisor: Supervisor) -> None:
        before = supervisor.pids()
        os.kill(before["a"], signal.SIGKILL)
        await until(lambda: supervisor.pids().get("a", before["a"]) != before["a"])
        assert supervisor.pids()["b"] == before["b"]

    assert supervise_while([sleeper("a"), sleeper("b")], body) == 0


def test_stopping_leaves_nobody() -> None:
    seen: list[int] = []

    async def body(supervisor: Supervisor) -> None:
        seen.extend(supervisor.pids().values())

    assert supervise_while([sleeper("a"), sleeper("b")], body) == 0
    assert not any(running(pid) for pid in seen)


def test_a_child_that_ignores_the_signal_is_killed_after_the_grace_time(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    deaf = script(
        "deaf",
        "import signal, time, pathlib; signal.signal(15, signal.SIG_IGN)\n"
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(1000)",
    )
    seen: list[int] = []

    async def body(supervisor: Supervisor) -> None:
        await until(ready.exists)
        seen.extend(supervisor.pids().values())

    began = time.monotonic()
    assert supervise_while([deaf], body, grace=0.3) == 1
    assert time.monotonic() - began < 20
    assert not running(seen[0])


def test_a_second_signal_does_not_wait(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    deaf = script(
        "deaf",
        "import signal, time, pathlib; signal.signal(15, signal.SIG_IGN)\n"
        f"pathlib.Path({str(ready)!r}).touch(); time.sleep(1000)",
    )

    async def body(supervisor: Supervisor) -> None:
        await until(ready.exists)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)

    began = time.monotonic()
    assert supervise_while([deaf], body, grace=60.0) == 1
    assert time.monotonic() - began < 30


def test_the_delays_grow_to_the_limit_and_begin_anew() -> None:
    backoff, delay, seen = Backoff(), 0.0, []
    for lived in [0.1] * 8 + [60.0, 0.1]:
        delay = backoff.after(delay, lived)
        seen.append(delay)
    assert seen == [1, 2, 4, 8, 16, 32, 60, 60, 1, 2]


def test_a_program_that_is_not_there_is_tried_again_not_fatal() -> None:
    ended: list[str] = []

    async def body(supervisor: Supervisor) -> None:
        supervisor.replace([sleeper("a"), Child("none", ("/does/not/exist",))])
        await asyncio.sleep(0.1)
        assert "a" in supervisor.pids()

    assert supervise_while([sleeper("a")], body, on_exit=lambda name, *_: ended.append(name)) == 0


def test_a_terminals_interrupt_is_for_the_supervisor_alone() -> None:
    async def body(supervisor: Supervisor) -> None:
        assert os.getpgid(supervisor.pids()["a"]) != os.getpgid(0)

    supervise_while([sleeper("a")], body)


def test_each_start_is_prepared_anew() -> None:
    starts: list[int] = []

    def prepare(child: Child) -> Child:
        starts.append(len(starts))
        return Child(child.name, child.command, environ={"START": str(starts[-1])})

    async def body(supervisor: Supervisor) -> None:
        first = supervisor.pids()["a"]
        os.kill(first, signal.SIGKILL)
        await until(lambda: supervisor.pids().get("a", first) != first)
        environ = Path(f"/proc/{supervisor.pids()['a']}/environ")
        await until(lambda: b"START=1\0" in environ.read_bytes())

    supervise_while([sleeper("a")], body, prepare=prepare)


def test_exits_are_told() -> None:
    ended: list[tuple[str, int]] = []

    async def body(supervisor: Supervisor) -> None:
        os.kill(supervisor.pids()["a"], signal.SIGSEGV)
        await until(lambda: ended)

    supervise_while([sleeper("a")], body, on_exit=lambda name, _, code: ended.append((name, code)))
    assert ended[0] == ("a", -signal.SIGSEGV)


def test_replace_starts_stops_and_leaves() -> None:
    async def body(supervisor: Supervisor) -> None:
        before = supervisor.pids()
        changed = Child("b", ("sleep", "2000"))
        supervisor.replace([sleeper("a"), changed, sleeper("c")])
        await until(lambda: {"a", "b", "c"} <= set(supervisor.pids()))
        await until(lambda: supervisor.pids().get("b") not in (None, before["b"]))
        assert supervisor.pids()["a"] == before["a"]
        supervisor.replace([changed])
        await until(lambda: set(supervisor.pids()) == {"b"})
        assert not running(before["a"])

    assert supervise_while([sleeper("a"), sleeper("b")], body) == 0


def test_hangup_calls_back() -> None:
    called: list[bool] = []

    async def body(supervisor: Supervisor) -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: called)

    supervise_while([sleeper("a")], body, on_reload=lambda: called.append(True))


_ORPHAN = """
import os, signal, sys, threading
from milterd.base import supervise
gone = threading.Event()
supervise.watch_parent(supervise.parent_fd(), gone.set)
open(sys.argv[1], "w").write(str(os.getpid()))
gone.wait()
open(sys.argv[2], "w").write("drained")
"""

_PARENT = """
import asyncio, sys
from milterd.base import logs, supervise
async def main():
    child = supervise.Child("c", (sys.executable, "-c", *sys.argv[1:]))
    await supervise.Supervisor([child], log=logs.get("t")).run()
asyncio.run(main())
"""


@pytest.fixture
def parent(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", _PARENT, _ORPHAN]
    process = subprocess.Popen([*command, str(tmp_path / "pid"), str(tmp_path / "end")])
    yield process
    process.kill()
    process.wait()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


def wait_for(path: Path, patience: float = 15.0) -> None:
    asyncio.run(until(lambda: path.exists() and path.read_text(), patience))


def test_children_learn_that_the_supervisor_was_killed(
    tmp_path: Path, parent: subprocess.Popen[bytes]
) -> None:
    wait_for(tmp_path / "pid")
    parent.kill()
    wait_for(tmp_path / "end")
    asyncio.run(until(lambda: not running(int((tmp_path / "pid").read_text()))))


def test_no_pipe_no_parent() -> None:
    assert supervise.parent_fd({}) is None
    assert supervise.parent_fd({supervise.PARENT_FD: "x"}) is None
