"""Numbers of several processes are served as one, to those who may ask."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY, Gauge

from milterd.base import metrics, notify


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    yield path
    shutil.rmtree(path)


def get(address: object, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("localhost", timeout=5)
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    connection.sock = socket.socket(family)
    connection.sock.settimeout(5)
    connection.sock.connect(address)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


_WORKER = """
from milterd.base import metrics
metrics.MAILS.labels("smtpgw", "mx", "queued").inc(3)
metrics.QUEUE.labels("due").set(5)
metrics.STAGE_SECONDS.labels("chain").observe(0.02)
"""


def test_the_sum_over_processes_is_served_on_a_unix_socket(place: Path) -> None:
    environ = {**os.environ, **metrics.prepare(place / "numbers")}
    for _ in range(2):
        subprocess.run([sys.executable, "-c", _WORKER], env=environ, check=True)
    endpoint = metrics.serve(f"unix:{place / 's'}", metrics.registry(place / "numbers"))
    try:
        status, text = get(str(place / "s"))
        assert status == 200
        assert 'gatepost_mails_total{daemon="smtpgw",listener="mx",outcome="queued"} 6.0' in text
        assert 'gatepost_stage_seconds_count{stage="chain"} 2.0' in text
        assert 'gatepost_queue_mails{state="due"} 10.0' in text
        for each in (place / "numbers").glob("gauge_live*.db"):
            metrics.forget(int(each.stem.rpartition("_")[2]), place / "numbers")
        assert 'state="due"' not in get(str(place / "s"))[1]
        assert get(str(place / "s"), "/")[0] == 404
        assert get(str(place / "s"), method="POST")[0] == 404
    finally:
        endpoint.close()
    assert not (place / "s").exists()


def test_starting_anew_forgets_the_last_run(place: Path) -> None:
    (place / "numbers").mkdir()
    (place / "numbers" / "counter_1.db").write_bytes(b"old")
    metrics.prepare(place / "numbers")
    assert list((place / "numbers").iterdir()) == []
    assert (place / "numbers").stat().st_mode & 0o777 == 0o700


def test_only_this_machine_may_ask_unless_permitted() -> None:
    with pytest.raises(ValueError, match=r"metrics\.allow_remote"):
        metrics.serve("0.0.0.0:0")
    metrics.serve("0.0.0.0:0", allow_remote=True).close()
    endpoint = metrics.serve("127.0.0.1:0")
    assert get(endpoint.address)[0] == 200
    endpoint.close()


def test_a_client_that_breaks_off_does_no_harm() -> None:
    endpoint = metrics.serve("127.0.0.1:0")
    for octets in (
        b"",
        b"GET",
        b"\xff\xfe\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"a: b\r\n" * 300,
    ):
        with socket.create_connection(endpoint.address) as client:
            client.sendall(octets)
    assert get(endpoint.address)[0] == 200
    endpoint.close()


def test_no_label_can_hold_an_address() -> None:
    allowed = {"daemon", "listener", "outcome", "stage", "end", "state", "filter", "kind", "type"}
    allowed |= {"transport", "child", "command", "method", "limit", "clamd"}
    for each in vars(metrics).values():
        if hasattr(each, "_labelnames"):
            assert set(each._labelnames) <= allowed
            assert each._name.startswith("gatepost_")
    assert isinstance(metrics.QUEUE, Gauge)
    assert metrics.registry() is REGISTRY


def test_the_service_manager_is_told(place: Path) -> None:
    path = str(place / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(5)
        assert notify.notify("READY=1", "STATUS=2 workers", environ={"NOTIFY_SOCKET": path})
        assert manager.recv(100) == b"READY=1\nSTATUS=2 workers"
        assert notify.reloading({"NOTIFY_SOCKET": path})
        assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert not notify.notify("READY=1", environ={})
    assert not notify.notify("READY=1", environ={"NOTIFY_SOCKET": path})
