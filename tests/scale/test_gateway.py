"""The real gateway with a large queue beside one with none: start, memory, a page, new mail.

Nothing of the large queue is due but one mail, so that both have the same to do.
GATEPOST_SCALE is the number of mails; only then the limits are those that are promised, for
else other tests run beside this one.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from smtpgw.queue.states import MailState
from smtpgw.queue.store import Filter
from smtpgw.queue.tools import QueueTool
from tests.faults.place import processor_time
from tests.gateway.gateway import Gateway, send_by, until
from tests.scale.fill import Plan, fill

FULL = "GATEPOST_SCALE" in os.environ
MAILS = int(os.environ.get("GATEPOST_SCALE", "20000"))
PATIENT = 1 if FULL else 6
"""How many times longer than promised something may take beside other tests."""
PAIRS, BURST, CLIENTS = (11, 400, 5) if FULL else (1, 50, 5)


@contextlib.contextmanager
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir="/tmp", prefix="gw"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def gateway(path: Path) -> Iterator[Gateway]:
    path.mkdir()
    one = Gateway(path)
    try:
        yield one
    finally:
        one.kill()


def environ(path: Path) -> Mapping[str, str]:
    """With compiled programs, as they are where they are installed."""
    return {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(path / "compiled")}


def fill_but_one(queue: Path) -> None:
    """Mails that are due in an hour, and one that is due now."""
    fill(queue / "00", Plan(MAILS, time.time() + 3600))
    with contextlib.closing(QueueTool(queue)) as tool:
        (one,) = tool.list(Filter(frozenset({MailState.DEFERRED}), limit=1))
        tool.flush(time.time(), one.queue_id)
    os.sync()


def first_delivery(one: Gateway, env: Mapping[str, str]) -> float:
    """Seconds from its start."""
    began = time.monotonic()
    one.start(wait=False, environ=env)
    until(lambda: any(one.mail.glob("*/new/*")), 60, "the first delivery")
    return time.monotonic() - began


def page(one: Gateway, env: Mapping[str, str]) -> tuple[float, float]:
    """Seconds that a command takes, and those of a processor, the best of some."""
    call = [sys.executable, "-m", "smtpgw", "queue", "list", "--limit", "20", "-c", str(one.file)]
    took, used = [], []
    for _ in range(15 if FULL else 3):
        began, before = time.monotonic(), _children()
        done = subprocess.run(call, capture_output=True, check=True, env={**os.environ, **env})
        took.append(time.monotonic() - began)
        used.append(_children() - before)
        assert b"in 20 Requests. More:" in done.stdout
    return min(took), min(used)


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def peak(one: Gateway) -> float:
    """The most memory its worker has had, in MB (proc(5), VmHWM)."""
    (pid,) = one.workers()
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def rate(one: Gateway) -> tuple[float, float]:
    """Mails accepted a second, from some clients at once, and the worker's time for them."""

    def client(_: int) -> None:
        with one.client() as smtp:
            for _ in range(BURST // CLIENTS):
                text = b"Subject: x\r\n\r\n" + b"y" * 70 + b"\r\n"
                code, _said = send_by(smtp, text, "a@example.org", ["u@example.net"])
                assert code == 250

    (pid,) = one.workers()
    began, before = time.monotonic(), processor_time(pid)
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(client, range(CLIENTS)))
    return BURST / (time.monotonic() - began), processor_time(pid) - before


def rates(*gateways: Gateway) -> Sequence[tuple[float, float]]:
    """The medians for each; they take turns, each as often first as last."""
    found: dict[int, list[tuple[float, float]]] = {each.port: [] for each in gateways}
    for turn in range(PAIRS):
        for each in gateways if turn % 2 else reversed(gateways):
            found[each.port].append(rate(each))
    return [
        (statistics.median(rate for rate, _ in each), statistics.median(used for _, used in each))
        for each in found.values()
    ]


@pytest.mark.timeout(900)
def test_a_gateway_with_a_large_queue(record_property: Callable[[str, object], None]) -> None:
    with place() as path, gateway(path / "none") as none, gateway(path / "large") as large:
        env = environ(path)
        none.start(environ=env)
        fill_but_one(large.queue)
        first = first_delivery(large, env)
        listed, used = page(large, env)
        (without, idle), (among, busy) = rates(none, large)
        memory = peak(large)
        text = (
            f"{MAILS} mails: first delivery {first:.2f} s after the start, first page of queue"
            f" list {listed:.3f} s, {memory:.0f} MB, {among:.0f} new mails/s"
            f" ({without:.0f} without), {busy:.2f} s of a processor for {BURST} ({idle:.2f})"
        )
    record_property("measured", text)
    assert first < 5 * PATIENT, text
    assert (listed if FULL else used) < 0.2 * PATIENT, text
    assert memory < 300, text
    if FULL:
        assert among > without * 0.8, text
    assert busy < idle * (1.25 if FULL else 2.0) + 0.2, text
