"""A log that cannot be written (F06): mail goes on, and what was not written is counted."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from milterd.base.logs import MAX_WAITING
from tests.faults import place
from tests.gateway.gateway import PATIENCE, Gateway, until
from tests.peers.process import answers

DROPPED = "gatepost_log_lines_dropped"
RECIPIENTS = 1000


@pytest.fixture
def home() -> Iterator[Path]:
    with place.home() as path:
        yield path


def dropped(gateway: Gateway) -> float:
    return gateway.metrics().get(DROPPED, 0)


def test_a_full_disk_below_the_log(home: Path) -> None:
    with place.disk(home / "log disk", "size=256k"), place.gateway(home) as gateway:
        gateway.log_file = home / "log disk" / "log"
        gateway.start()
        whole = len(gateway.log())
        with place.filled(home / "log disk"):
            before = gateway.log_file.stat().st_size
            for _ in range(20):
                assert gateway.send()[0] == 250
            gateway.delivered(count=20)
            until(lambda: dropped(gateway) >= 20, what="lines that are dropped and counted")
            assert gateway.log_file.stat().st_size - before < 4096
        queue_id = gateway.send()[1].split()[-1]
        until(lambda: queue_id in gateway.log_file.read_text(), what="lines again")
        assert gateway.stop() == 0
        lines = gateway.log_file.read_text().splitlines()[whole:]
        torn = [each for each in lines if not each.endswith("}")]
        assert len(torn) <= 2, "one of each process"
        gateway.log_file = home / "nothing more to read"


class _Unread(Gateway):
    """Its log is not read by the test either."""

    def log(self) -> list[dict[str, Any]]:
        return []


def test_a_reader_that_has_stopped(home: Path) -> None:
    """As a journal that hangs: the pipe is full, then the lines that wait are too many."""
    with place.gateway(home, kind=_Unread) as gateway:
        gateway.configure(delivery="discard:")
        os.mkfifo(gateway.log_file)
        reader = os.open(gateway.log_file, os.O_RDWR)
        try:
            gateway.start(wait=False)
            until(lambda: answers(gateway.port, b"220"), what="the gateway")
            for _ in range(MAX_WAITING // RECIPIENTS + 2):
                assert send_to_many(gateway) == b"250"
            until(lambda: dropped(gateway) > 0, what="lines that are dropped and counted")
            assert gateway.send()[0] == 250
            assert gateway.stop() == 0
        finally:
            os.close(reader)


def send_to_many(gateway: Gateway) -> bytes:
    """A mail that makes a line in the log for each of its recipients; how it was answered."""
    many = b"".join(b"RCPT TO:<u%d@example.net>\r\n" % number for number in range(RECIPIENTS))
    with contextlib.closing(socket.create_connection(("127.0.0.1", gateway.port))) as client:
        client.settimeout(PATIENCE)
        replies = client.makefile("rb")
        client.sendall(b"EHLO client.example.org\r\nMAIL FROM:<a@example.org>\r\n" + many)
        client.sendall(b"DATA\r\n")
        while not (line := replies.readline()).startswith(b"354"):
            assert line.startswith((b"2", b"250-")), line
        client.sendall(b"Subject: many\r\n\r\nmany\r\n.\r\n")
        return replies.readline()[:3]
