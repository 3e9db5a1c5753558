"""Limits of the kernel: few descriptors (F22), little memory (F23).

Who comes then is told to come again or not served at all for a while; nobody else suffers, no
processor is burnt, and as soon as the limit is gone all is as before.
"""

from __future__ import annotations

import contextlib
import resource
import smtplib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults import place
from tests.faults.place import Later
from tests.gateway.gateway import PATIENCE, send_by, until

FEW = 64
SLACK = 4 * 2**20
"""Octets of address space that a process gets beyond what it has."""


@pytest.fixture(scope="module")
def gateway() -> Iterator[Later]:
    with place.home() as home, place.later(home, queue=place.QUEUE) as one:
        yield one.start()


@contextlib.contextmanager
def crowd(gateway: Later, number: int) -> Iterator[list[socket.socket]]:
    """So many clients that have connected and say nothing."""
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(number):
            client = socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE)
            clients.append(stack.enter_context(client))
        yield clients


def greeting(client: socket.socket) -> bytes:
    """The first line a client is told, b'' if it is sent away without a word."""
    try:
        return client.makefile("rb").readline()
    except ConnectionError:
        return b""


def test_few_descriptors_are_kept_for_the_mail_that_is_here(gateway: Later) -> None:
    """F22: clients beyond three quarters of them get 421; those who are in are served, and
    deliveries go on, though there are more clients than descriptors."""
    worker, waits = place.worker(gateway), gateway.send_later()
    with place.limited(worker, resource.RLIMIT_NOFILE, FEW), gateway.client() as inside:
        with crowd(gateway, 2 * FEW) as clients:
            told = [greeting(each)[:10] for each in clients]
            assert {each[:4] for each in told} == {b"220 ", b"421 "}
            assert told.count(b"421 4.3.2 ") >= FEW
            began, since = place.processor_time(worker), time.monotonic()
            assert (
                send_by(inside, b"Subject: x\r\n\r\n", "a@b.example", ["in@example.net"])[0] == 250
            )
            gateway.arrives("in@example.net")
            gateway.arrives(waits)
            until(lambda: time.monotonic() > since + 1, what="a second")
            spent = place.processor_time(worker) - began
            assert spent < 0.5 * (time.monotonic() - since), "it spins"
        until(lambda: _sends(gateway), what="the crowd's end")
    assert place.worker(gateway) == worker
    assert gateway.arrives(gateway.send_new())


def test_not_one_descriptor_left_costs_no_processor(gateway: Later) -> None:
    """F22: nobody can be accepted, and nothing opened; it waits, and then goes on."""
    worker, waits = place.worker(gateway), gateway.send_later()
    with contextlib.ExitStack() as stack:
        with place.limited(worker, resource.RLIMIT_NOFILE, place.descriptors(worker)):
            clients = stack.enter_context(crowd(gateway, 20))
            began, since = place.processor_time(worker), time.monotonic()
            until(lambda: time.monotonic() > since + 1.5, what="a moment")
            spent = place.processor_time(worker) - began
            assert spent < 0.5 * (time.monotonic() - since), "it spins"
        for each in clients:
            each.close()
        gateway.arrives(waits)
        until(lambda: _sends(gateway), what="mail again")
    assert place.worker(gateway) == worker
    assert gateway.arrives(gateway.send_new())


def _sends(gateway: Later) -> bool:
    try:
        return gateway.send()[0] == 250
    except (OSError, smtplib.SMTPException):
        return False


def test_little_memory_costs_answers_and_no_promise(gateway: Later) -> None:
    """F23: each mail is promised or put off, or its connection lost; what was promised comes,
    whether the process lived or another took its place."""
    worker = place.worker(gateway)
    now = int(Path(f"/proc/{worker}/statm").read_text().split()[0]) * resource.getpagesize()
    promised: list[str] = []
    other: list[object] = []

    def client(number: int) -> None:
        for each in range(4):
            address = f"m{number}-{each}@example.net"
            try:
                code, text = gateway.send(BIG, recipients=[address])
            except (OSError, smtplib.SMTPException) as error:
                other.append(error)
            else:
                promised.append(address) if code == 250 else other.append((code, text))

    with place.limited(worker, resource.RLIMIT_AS, now + SLACK):
        clients = [threading.Thread(target=client, args=[number]) for number in range(6)]
        for each in clients:
            each.start()
        for each in clients:
            each.join()
    assert len(promised) + len(other) == 24
    assert other, "there was memory enough"
    codes = {each[0] for each in other if isinstance(each, tuple)}
    assert codes <= {421, 451, 452}
    until(lambda: _sends(gateway), what="mail again")
    for address in promised:
        gateway.arrives(address)
    assert gateway.arrives(gateway.send_new())


BIG = b"Subject: big\r\n\r\n" + (b"x" * 78 + b"\r\n") * 11_000
