"""What all peers share: a private directory, a free port, a process that is awaited and stopped.

The log of every peer that runs is shown with a test that fails while it runs.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START = 30.0
"""Seconds a daemon may take until it answers."""
STOP = 10.0
"""Seconds a daemon may take to end before it is killed."""
LOG_TAIL = 20_000
"""Octets of a log shown with a failure."""

running: list[Peer] = []
"""The peers of this test process, for the report of a failure."""
_ports_given: set[int] = set()


@dataclass(eq=False)
class Peer:
    """A daemon that runs: its name, its log, and its process (None: it runs by itself)."""

    name: str
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def said(self) -> str:
        """Its log so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def pause(self) -> None:
        """Stop its clock (SIGSTOP): it keeps its sockets and answers nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self.pid, signal.SIGCONT)


def wait_for(
    condition: Callable[[], object], what: str, *, within: float = START, pause: float = 0.02
) -> None:
    """Return as soon as `condition` is true; fail with `what` after `within` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {within:g} s")
        time.sleep(pause)


def program(name: str, package: str) -> str:
    """The path of a daemon's program; fails with the Debian package it is in."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise FileNotFoundError(
            f"{name} is not installed: `make test` installs it (Debian package {package})"
        )
    return found


@contextmanager
def directory(prefix: str) -> Iterator[Path]:
    """A new directory with a short path that every user may enter, removed at the end."""
    path = Path(tempfile.mkdtemp(prefix=f"gp-{prefix}-", dir="/tmp"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def free_port() -> int:
    """A loopback TCP port below the ephemeral ones, not given to this process before, nor to
    another one of the same run."""
    share = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for _ in range(1000):
        port = random.SystemRandom().randrange(20_000 // share, 32_000 // share) * share + own
        if port in _ports_given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _ports_given.add(port)
        return port
    raise RuntimeError("no free port found")


def answers(address: Path | int, greeting: bytes = b"", *, at: str = "127.0.0.1") -> bool:
    """Whether something listens there (a port is one of the address `at`), and, if `greeting`
    is asked for, says it first."""
    family = socket.AF_INET if isinstance(address, int) else socket.AF_UNIX
    target = (at, address) if isinstance(address, int) else str(address)
    with socket.socket(family) as probe:
        probe.settimeout(2)
        try:
            probe.connect(target)
            return not greeting or probe.recv(512).startswith(greeting)
        except OSError:
            return False


@contextmanager
def daemon(
    name: str,
    command: Sequence[str],
    home: Path,
    ready: Callable[[], object],
    *,
    end: signal.Signals = signal.SIGTERM,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Peer]:
    """Run a program in the foreground, wait until `ready()`, and `end` it afterwards."""
    log = home / f"{name}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=home,
            env={**os.environ, **(environ or {})}, start_new_session=True,
        )  # fmt: skip
    peer = Peer(name, log, process)
    running.append(peer)
    try:
        _await(peer, process, ready)
        yield peer
    finally:
        running.remove(peer)
        _end(process, end)


def _await(peer: Peer, process: subprocess.Popen[bytes], ready: Callable[[], object]) -> None:
    def started() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{peer.name} ended with {process.returncode}:\n{peer.said()}")
        return bool(ready())

    try:
        wait_for(started, f"{peer.name} answers")
    except TimeoutError as error:
        raise TimeoutError(f"{error}\n{peer.said()}") from None


def _end(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """The signal, then SIGKILL for it and what it left in its session."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.send_signal(number)
    try:
        process.wait(STOP)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # nothing of its session is left, as it should be


def tails() -> Iterator[tuple[str, str]]:
    """Name and end of the log of every peer that runs."""
    for each in running:
        yield each.name, each.said()[-LOG_TAIL:]
