"""Workers keep to processors of their own where they are told to, but for their long work."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from milterd.base import cores, logs
from tests.gateway.gateway import Gateway, until

EACH = len(os.sched_getaffinity(0))
KEPT = f"workers = {EACH}\nworker_cpu_affinity = true"
NOT_KEPT = f"workers = {EACH}\nworker_cpu_affinity = false"


def by_thread(pid: int) -> dict[int, set[int]]:
    found = {}
    for each in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # it has ended
            found[int(each.name)] = os.sched_getaffinity(int(each.name))
    return found


def whole() -> set[int]:
    return os.sched_getaffinity(0)


def test_each_has_its_own_and_long_work_is_done_on_any(gateway: Gateway) -> None:
    gateway.configure(KEPT)
    gateway.start()
    workers = gateway.workers()
    those = [by_thread(each) for each in workers]
    assert {frozenset(threads[pid]) for pid, threads in zip(workers, those, strict=True)} == {
        frozenset({each}) for each in whole()
    }
    for pid, threads in zip(workers, those, strict=True):
        assert len(threads) > 1
        assert all(where in (threads[pid], whole()) for where in threads.values())
        # Those that commit are where the loop is, which waits for them.
        assert sum(where == threads[pid] for where in threads.values()) >= 1 + (EACH > 1)
    gateway.send(b"Subject: large\r\n\r\n" + b"0123456789\r\n" * 40_000)
    (mail,) = gateway.delivered()
    assert len(mail) > 400_000
    roaming = [whole() in by_thread(each).values() for each in workers]
    assert any(roaming), "who wrote the body ran where the loop does"


def test_a_reload_lets_all_go_and_keeps_them_again(gateway: Gateway) -> None:
    gateway.configure(KEPT)
    gateway.start()
    workers = gateway.workers()
    assert gateway.process is not None
    gateway.configure(NOT_KEPT)
    gateway.process.send_signal(signal.SIGHUP)
    for each in workers:
        until(lambda each=each: all(at == whole() for at in by_thread(each).values()))
    gateway.configure(KEPT)
    gateway.process.send_signal(signal.SIGHUP)
    for each in workers:
        until(lambda each=each: len(os.sched_getaffinity(each)) == 1)
    assert workers == gateway.workers()


def test_with_another_number_of_workers_the_system_decides(gateway: Gateway) -> None:
    gateway.configure(f"workers = {EACH + 1}\nworker_cpu_affinity = true")
    gateway.start()
    for each in gateway.workers():
        assert all(where == whole() for where in by_thread(each).values())
    until(lambda: gateway.told("no processor of its own", workers=EACH + 1, processors=EACH))
    command = [sys.executable, "-m", "smtpgw", "check", "-c", str(gateway.file)]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    wanted = f"worker_cpu_affinity: found workers = {EACH + 1}, expected {EACH}, one for each"
    assert wanted in " ".join(said.split())


def test_where_the_system_refuses_work_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a service's SystemCallFilter."""

    def refused(*_: object) -> None:
        raise PermissionError(1, "not allowed")

    monkeypatch.setattr(os, "sched_setaffinity", refused)
    structlog.reset_defaults()
    with capture_logs() as lines:
        cores.keep(0, EACH, logs.get("test"))
    assert [(each["event"], each["log_level"]) for each in lines] == [
        ("no processor of its own", "warning")
    ]
    assert cores.usable() == EACH


def test_only_who_asks_for_it_is_kept() -> None:
    """A thread's processors are its own."""
    seen: list[set[int]] = []

    def run() -> None:
        cores.keep(0, EACH, logs.get("test"))
        seen.append(os.sched_getaffinity(0))
        inner = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
        inner.start()
        inner.join()
        cores.roam()
        seen.append(os.sched_getaffinity(0))
        cores.release(logs.get("test"))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    first = {min(whole())}
    assert seen == [first, first, whole()]
