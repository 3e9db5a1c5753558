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
from prometheus_client import REGISTRY, CollectorRegistry, Gauge, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from milterd.base import metrics, notify
from tests.peers.process import wait_for


@pytest.fixture
def place() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    yield path
    shutil.rmtree(path)


def get(address: object, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("localhost", timeout=5)
    family = socket.AF_INET if isinstance(address, tuple) else socket.AF_UNIX
    connection.sock = socket.socket(family)
    connection.sock.settimeout(30)
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
        manager.settimeout(30)
        assert notify.notify("READY=1", "STATUS=2 workers", environ={"NOTIFY_SOCKET": path})
        assert manager.recv(100) == b"READY=1\nSTATUS=2 workers"
        assert notify.reloading({"NOTIFY_SOCKET": path})
        assert manager.recv(100).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert not notify.notify("READY=1", environ={})
    assert not notify.notify("READY=1", environ={"NOTIFY_SOCKET": path})


_COUNTING = """
import os, sys, threading
from prometheus_client import REGISTRY
from milterd.base import metrics

def count():
    for number in range(1000):
        metrics.mails("smtpgw", "mx", "queued").inc()
        metrics.stage("chain").observe((0.0005, 0.001, 0.02, 1000)[number % 4])

several = [threading.Thread(target=count) for _ in range(4)]
for each in several: each.start()
for each in several: each.join()
if "ask" in sys.argv:
    label = {"daemon": "smtpgw", "listener": "mx", "outcome": "queued"}
    print(REGISTRY.get_sample_value("gatepost_mails_total", label))
if "fork" in sys.argv and os.fork() == 0:  # what waits is the parent's to count
    metrics.mails("smtpgw", "mx", "held").inc()
    metrics.flush()
    os._exit(0)
if "wait" in sys.argv:
    print("counted", flush=True)
    sys.stdin.read()
    os._exit(9)  # as if it were killed
"""


def shown(place: Path, *words: str) -> tuple[str, str]:
    """What a process printed that has counted, and what is served of it at once afterwards."""
    environ = {**os.environ, **metrics.prepare(place / "numbers")}
    command = [sys.executable, "-c", _COUNTING, *words]
    done = subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout, served(place)


def served(place: Path) -> str:
    source = CollectorRegistry()
    MultiProcessCollector(source, str(place / "numbers"))  # type: ignore[no-untyped-call]
    return generate_latest(source).decode()


_ALL = 'gatepost_mails_total{daemon="smtpgw",listener="mx",outcome="queued"} 4000.0'


def test_what_was_gathered_is_there_when_a_process_has_ended(place: Path) -> None:
    text = shown(place)[1]
    assert _ALL in text
    for bound, count in (("0.001", 2000), ("0.003", 2000), ("0.03", 3000), ("+Inf", 4000)):
        assert f'gatepost_stage_seconds_bucket{{le="{bound}",stage="chain"}} {count}.0' in text
    total = 1000 * (0.0005 + 0.001 + 0.02 + 1000)
    (line,) = (each for each in text.splitlines() if "stage_seconds_sum" in each)
    assert float(line.rpartition(" ")[2]) == pytest.approx(total)


def test_who_asks_a_process_for_its_own_numbers_gets_the_latest(place: Path) -> None:
    assert shown(place, "ask")[0] == "4000.0\n"


def test_a_forked_child_does_not_count_again_what_its_parent_counted(place: Path) -> None:
    text = shown(place, "fork")[1]
    assert _ALL in text
    assert 'outcome="held"} 1.0' in text


def test_what_gathers_comes_to_the_others_while_the_process_goes_on(place: Path) -> None:
    environ = {**os.environ, **metrics.prepare(place / "numbers")}
    command = [sys.executable, "-c", _COUNTING, "wait"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environ, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "counted\n"
        wait_for(lambda: _ALL in served(place), "the numbers of a process that goes on")
        process.communicate("")
    assert _ALL in served(place)
