"""A worker has the open files that its settings may need, as far as the hard limit goes."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys

import pytest
import structlog
from structlog.testing import capture_logs

from milterd.base import logs, openfiles
from tests.gateway.gateway import Gateway, until

FEW = 256
MILTERS = "".join(
    f'[[smtpgw.milter]]\nname = "{each}"\naddress = "unix:/nowhere/{each}"\n' for each in "ab"
)


def test_a_worker_raises_its_limit_for_its_clients_and_their_milters(gateway: Gateway) -> None:
    """A quarter is kept back from clients (docs/limits.md); a reload may raise it further."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    gateway.configure("default_process_limit = 300", tables=MILTERS)
    gateway.start(prefix=["prlimit", f"--nofile={FEW}:{limit}"])
    (worker,) = gateway.workers()
    had = resource.prlimit(worker, resource.RLIMIT_NOFILE)[0]
    assert had * 3 // 4 >= 300 * 4 + 500 * 2
    gateway.configure("default_process_limit = 600", tables=MILTERS)
    assert gateway.process is not None
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: resource.prlimit(worker, resource.RLIMIT_NOFILE)[0] >= had + 300 * 4)


def test_what_the_hard_limit_forbids_is_told_by_check(gateway: Gateway) -> None:
    command = [sys.executable, "-m", "smtpgw", "check", "-c", str(gateway.file)]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    assert "open files" not in said
    limited = ["prlimit", f"--nofile={FEW}:{FEW}", *command]
    said = subprocess.run(limited, capture_output=True, text=True, check=False).stdout
    said = " ".join(said.split())
    assert "default_process_limit: found 1000, for which a worker may need" in said
    assert f"the hard limit is {FEW}; or raise that: LimitNOFILE=" in said


def test_a_limit_that_is_high_enough_stays() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    openfiles.raise_to(1, logs.get("test"))
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


@pytest.mark.parametrize("error", [ValueError("not allowed"), OSError(1, "not allowed")])
@pytest.mark.parametrize("hard", [4096, resource.RLIM_INFINITY])
def test_where_raising_is_refused_work_goes_on_with_what_there_is(
    error: Exception, hard: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a service's SystemCallFilter, or where fs.nr_open is below the hard limit."""

    def refuse(_limit: int, wanted: tuple[int, int]) -> None:
        assert wanted == (2000, hard)
        raise error

    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, hard))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    with capture_logs() as said:
        openfiles.raise_to(2000, structlog.get_logger())
    (line,) = said
    assert line.pop("reason") == str(error)
    assert line == {
        "event": "open files not raised", "log_level": "warning", "limit": 1024, "wanted": 2000
    }  # fmt: skip
