"""A dead worker's part of the queue is delivered by another, and it gets it back."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from smtpgw.queue.shard import Shard
from smtpgw.queue.tools import QueueTool, shard_directory
from tests.gateway.gateway import Gateway, until
from tests.gateway.test_process import command, reload

TOP = "workers = 2\ntakeover_delay = 0.5\nservice_throttle_time = 4"


def ids(gateway: Gateway, number: int) -> set[str]:
    """The mails that were accepted by a worker."""
    return {each["queue_id"] for each in gateway.events("message", worker=number, outcome="queued")}


def worker(gateway: Gateway, number: int) -> int:
    """The process that runs as this worker now, or 0."""
    alive = gateway.workers()
    started = gateway.events("child started", child=f"worker-{number}")
    return next((each["pid"] for each in started if each["pid"] in alive), 0)


@contextlib.contextmanager
def kept_dead(gateway: Gateway, number: int) -> Iterator[None]:
    """Kill a worker now, and each time it is started meanwhile, before it has its queue."""
    enough = threading.Event()

    def kill() -> None:
        while not enough.wait(0.02):
            if pid := worker(gateway, number):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        enough.set()
        killer.join()


def deliveries(gateway: Gateway) -> Counter[str]:
    """How often each recipient was delivered to."""
    done = gateway.events("delivery", outcome="delivered")
    return Counter(each["recipient"] for each in done)


def send_until(gateway: Gateway, number: int, count: int, prefix: str) -> list[str]:
    """Send mail until that worker accepted so many; all recipients."""
    sent: list[str] = []
    before = len(ids(gateway, number))

    def enough() -> bool:
        sent.append(f"{prefix}{len(sent)}@example.net")
        assert gateway.send(recipients=(sent[-1],))[0] == 250
        return len(ids(gateway, number)) >= before + count

    until(enough, what=f"mail for worker {number}")
    return sent


def test_a_dead_workers_mail_is_delivered_by_another_and_it_gets_its_queue_back(
    gateway: Gateway, place: Path
) -> None:
    gateway.configure(TOP, delivery=f"lmtp:unix:{place / 'nobody'}")
    gateway.start()
    sent = send_until(gateway, 1, 3, "u")
    gateway.configure(TOP)
    reload(gateway)
    until(lambda: gateway.count("ready") == 2, what="the reload")
    with kept_dead(gateway, 1):
        until(lambda: gateway.count("shard taken over", shard=1, worker=0), what="the takeover")
        command(gateway, "queue", "flush", "ALL")
        until(lambda: set(sent) <= set(deliveries(gateway)), what="mail")

    def by_other() -> set[str]:
        done = {each["queue_id"] for each in gateway.events("queue.done", worker=0)}
        return ids(gateway, 1) & done

    until(by_other, what="a mail of the dead worker that the other one has delivered")
    until(lambda: gateway.count("shard given back", shard=1, worker=0), what="the return")
    until(lambda: len(gateway.workers()) == 2, what="both workers")
    sent += send_until(gateway, 1, 2, "later")
    for each in sent:
        gateway.delivered(each)
    until(lambda: len(deliveries(gateway)) == len(sent), what="the log of the last one")
    assert deliveries(gateway) == Counter(sent)
    assert gateway.metrics()["gatepost_shard_takeovers_total"] >= 1
    assert gateway.stop() == 0
    with closing(QueueTool(gateway.queue)) as tool:
        assert not tool.list()


@contextlib.contextmanager
def locked(gateway: Gateway, number: int) -> Iterator[None]:
    shard = Shard(shard_directory(gateway.queue, number))
    shard.lock()
    yield
    shard.unlock()


def test_a_worker_that_lives_or_was_just_restarted_keeps_its_queue(gateway: Gateway) -> None:
    gateway.configure("workers = 2\ntakeover_delay = 30")
    gateway.start()
    first = worker(gateway, 1)
    os.kill(first, signal.SIGKILL)
    until(lambda: worker(gateway, 1) not in (0, first), what="another worker")
    until(lambda: gateway.count("queue open", shard=1) == 2, what="its queue")
    assert gateway.count("shard taken over") == 0


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_taken_over_is_let_go_when_the_gateway_ends(
    gateway: Gateway, signal_number: int
) -> None:
    gateway.configure("workers = 2")
    gateway.start()
    assert gateway.stop() == 0
    gateway.configure("workers = 1")
    gateway.start()
    until(lambda: gateway.count("shard taken over", shard=1), what="the left over queue")
    assert gateway.process is not None
    gateway.process.send_signal(signal_number)
    gateway.process.wait(20)
    until(lambda: not gateway.workers(), what="the worker's end")
    with locked(gateway, 0), locked(gateway, 1):
        pass


def test_a_queue_that_cannot_be_run_ends_nobody_elses_work(gateway: Gateway) -> None:
    gateway.configure("workers = 2")
    gateway.start()
    assert gateway.stop() == 0
    with closing(sqlite3.connect(shard_directory(gateway.queue, 1) / "queue.db")) as db:
        db.execute("PRAGMA user_version=99")
    gateway.configure("workers = 1")
    gateway.start()
    until(lambda: gateway.count("shard cannot be run", shard=1), what="the complaint")
    assert gateway.send()[0] == 250
    gateway.delivered()
