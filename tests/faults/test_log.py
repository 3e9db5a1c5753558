"""A log that cannot be written (F06): mail goes on, and what was not written is counted."""

from __future__ import annotations

import contextlib
import json
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
STEP = 500


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
        assert all(_whole(each) for each in lines if queue_id in each), "torn by what filled up"
        gateway.log_file = home / "nothing more to read"


def _whole(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


class _Unread(Gateway):
    """Its log is not read by the test either."""

    def log(self) -> list[dict[str, Any]]:
        return []


def test_a_reader_that_has_stopped(home: Path) -> None:
    """As a journal that hangs: the pipe is full, then the lines that wait are too many."""
    top = 'mynetworks = ["192.0.2.0/24"]\nsmtpd_soft_error_limit = 100000\n'
    top += "smtpd_hard_error_limit = 100000\nsmtpd_junk_command_limit = 100000\n"
    with place.gateway(home, top, kind=_Unread) as gateway:
        os.mkfifo(gateway.log_file)
        reader = os.open(gateway.log_file, os.O_RDWR)
        try:
            gateway.start(wait=False)
            until(lambda: answers(gateway.port, b"220"), what="the gateway")
            make_lines(gateway, MAX_WAITING + 2000)
            until(lambda: dropped(gateway) > 0, what="lines that are dropped and counted")
            assert gateway.send()[0] == 250
            gateway.delivered()
            assert gateway.stop() == 0
        finally:
            os.close(reader)


def make_lines(gateway: Gateway, count: int) -> None:
    """Be refused so often, in one session, that it makes more than `count` lines in the log."""
    with contextlib.closing(socket.create_connection(("127.0.0.1", gateway.port))) as client:
        client.settimeout(PATIENCE)
        client.sendall(b"EHLO client.example.org\r\nMAIL FROM:<a@example.org>\r\n")
        replies = client.makefile("rb")
        while not replies.readline().startswith(b"250 2.1.0"):
            pass
        done = 0
        while done < count:
            client.sendall(b"RCPT TO:<u@elsewhere.example>\r\n" * STEP)
            for _ in range(STEP):
                assert replies.readline().startswith(b"554 ")
            done += STEP
