"""Good mail while others fill the place: thousands who say nothing, and those who say it slowly
(attacks E11, E12).

Short in the suite; GATEPOST_LOAD is the number of idle clients for a long version.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import trustme

from tests.gateway.gateway import Gateway
from tests.load.crowd import Result, Task

pytestmark = pytest.mark.xdist_group("load")

CROWD = int(os.environ.get("GATEPOST_LOAD", "300"))
LONG = "GATEPOST_LOAD" in os.environ
SECONDS = 30.0 if LONG else 3.0
SLOW = 1000 if LONG else 100


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    place = tmp_path_factory.mktemp("load")
    authority = trustme.CA()
    issued = authority.issue_cert("gw.example.net")
    issued.cert_chain_pems[0].write_to_path(str(place / "cert.pem"))
    issued.private_key_pem.write_to_path(str(place / "key.pem"))
    one = Gateway(place)
    one.configure(
        f'mynetworks = "192.0.2.0/24"\ndefault_process_limit = {CROWD * 2}\n'
        "smtpd_peername_lookup = false\n"
        f'smtpd_tls_cert_file = "{place}/cert.pem"\nsmtpd_tls_key_file = "{place}/key.pem"\n'
        'smtpd_tls_security_level = "may"\n'
    )
    with contextlib.ExitStack() as stack:
        stack.callback(one.kill)
        yield one.start()


@contextlib.contextmanager
def crowd(task: Task) -> Iterator[subprocess.Popen[str]]:
    """A crowd that is there meanwhile."""
    command = [sys.executable, "-m", "tests.load.crowd", json.dumps(asdict(task))]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def good_mail(port: int, rate: float, seconds: float, net: int = 2) -> Result:
    task = Task(port, "good", rate=rate, seconds=seconds, net=net)
    command = [sys.executable, "-m", "tests.load.crowd", json.dumps(asdict(task))]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=seconds + 120)
    return Result(**json.loads(done.stdout))


def memory(pid: int) -> tuple[int, int]:
    """Octets of a process in memory, now and at most."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = dict(line.split(":", 1) for line in status.splitlines())
    return tuple(int(found[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


def worker(gateway: Gateway) -> int:
    return gateway.workers()[0]


PROMISED = 1.0
"""Seconds within which 99 of 100 good mails are taken, whoever else is there."""


def told(what: str, result: Result) -> None:
    print(
        f"\n{what}: {len(result.times)} mails, {len(result.failures)} failed, "
        f"p50 {result.percentile(0.5) * 1000:.0f} ms, p99 {result.percentile(0.99) * 1000:.0f} ms, "
        f"max {max(result.times) * 1000:.0f} ms"
    )


def test_thousands_of_idle_clients(gateway: Gateway) -> None:  # E12
    rate = 50.0 if LONG else 10.0
    alone = good_mail(gateway.port, rate, SECONDS / 3)
    told("nobody else", alone)
    before, _ = memory(worker(gateway))
    with crowd(Task(gateway.port, "idle", CROWD)):
        there, _ = memory(worker(gateway))
        result = good_mail(gateway.port, rate, SECONDS)
        told(f"{CROWD} idle clients", result)
        _, most = memory(worker(gateway))
        print(
            f"memory of the worker: {before >> 20} MiB alone, {there >> 20} MiB with them "
            f"({(there - before) // CROWD} octets each), {most >> 20} MiB at most"
        )
    assert not result.failures
    assert result.percentile(0.99) < PROMISED
    assert most < 400 << 20


def test_clients_that_dribble(gateway: Gateway) -> None:  # E11
    rate = 20.0 if LONG else 10.0
    alone = good_mail(gateway.port, rate, SECONDS / 3, net=4)
    told("nobody else", alone)
    with crowd(Task(gateway.port, "slow", SLOW, pace=10.0 if LONG else 0.2, net=3)):
        result = good_mail(gateway.port, rate, SECONDS, net=5)
        told(f"{SLOW} clients that dribble", result)
    assert not result.failures
    assert result.percentile(0.99) < PROMISED
