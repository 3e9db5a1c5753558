"""Hosts as processes, on sockets that the test owns, and removes."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host.mta import Mta
from tests.steady import Running

ROOT = Path(__file__).parents[2]


class Hosted:
    """One host process and its listening socket."""

    def __init__(self, kind: str, name: str, directory: Path, family: int, options: Any) -> None:
        self.kind, self.directory = kind, directory
        self._command = [sys.executable, "-m", "tests.host.serve", kind, name]
        self._options = json.dumps(options)
        self._log = (directory / "log").open("ab")
        self.log_path = directory / "log"
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        self.listener.bind(str(directory / "s") if family == socket.AF_UNIX else ("127.0.0.1", 0))
        self.listener.listen(50)
        self.address = self.listener.getsockname()
        self.start()

    def start(self) -> subprocess.Popen[bytes]:
        number = self.listener.fileno()
        command = [*self._command, str(number), self._options]
        self.process = subprocess.Popen(command, pass_fds=(number,), stderr=self._log, cwd=ROOT)
        return self.process

    def mta(self, **more: Any) -> Mta:
        return Mta(self.address, **more)

    def stop(self, number: int = signal.SIGTERM) -> float:
        """End the process; how long it took, in seconds that the machine ran."""
        with Running() as clock:
            began = clock()
            self.process.send_signal(number)
            self.process.wait(60)
            return clock() - began

    def log(self, event: str) -> list[dict[str, Any]]:
        """The log lines with that event."""
        text = self.log_path.read_text()
        lines = [json.loads(each) for each in text.splitlines() if each.startswith("{")]
        return [each for each in lines if each["event"] == event]

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self.listener.close()
        self._log.close()


Hosting = Callable[..., Hosted]


@pytest.fixture(params=["libmilter", "native"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory whose path leaves room for a UNIX socket's name."""
    path = Path(tempfile.mkdtemp(dir="/tmp", prefix="gph-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def shared_hosts() -> Iterator[dict[tuple[str, str], Hosted]]:
    """Hosts that live as long as the tests."""
    running: dict[tuple[str, str], Hosted] = {}
    yield running
    for each in running.values():
        each.close()
        shutil.rmtree(each.directory)


@pytest.fixture
def shared_hosting(kind: str, shared_hosts: dict[tuple[str, str], Hosted]) -> Hosting:
    """The host of the test's kind with a filter and no options: shared_hosting(name)."""

    def get(name: str) -> Hosted:
        if (kind, name) not in shared_hosts:
            directory = Path(tempfile.mkdtemp(dir="/tmp", prefix="gph-"))
            shared_hosts[kind, name] = Hosted(kind, name, directory, socket.AF_UNIX, {})
        return shared_hosts[kind, name]

    return get


@pytest.fixture
def hosting(kind: str, short_path: Path) -> Iterator[Hosting]:
    """Start hosts of the test's kind: hosting(filter name, **options)."""
    running: list[Hosted] = []

    def start(name: str, family: int = socket.AF_UNIX, **options: Any) -> Hosted:
        directory = short_path / str(len(running))
        directory.mkdir()
        running.append(Hosted(kind, name, directory, family, options))
        return running[-1]

    yield start
    for each in running:
        each.close()


def until(condition: Callable[[], Any], patience: float = 10.0) -> Any:
    """Wait for a condition; fail when it does not come true in time."""
    deadline = time.monotonic() + patience
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
    return found
