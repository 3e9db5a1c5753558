"""The parts of a running site: started one after the other, awaited, watched, stopped together.

A part is a child process in a session of its own, so that a terminal's Ctrl-C reaches
only us; should we be killed, the kernel ends it too.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

GRACE = 2.5
"""Seconds that all parts have to end before they are killed."""


class PartError(Exception):
    """A part did not start, or ended: which, and why."""


@dataclass(frozen=True, slots=True)
class Part:
    """A program, and whether it answers by now (None: it says READY=1, sd_notify(3))."""

    name: str
    command: Sequence[str]
    log: Path | None = None
    answers: Callable[[], bool] | None = None
    start_within: float = 60.0


@dataclass
class Parts:
    """What runs.  Use :meth:`start` for each part in order, then :meth:`watch`, then
    :meth:`stop` in any case."""

    environ: Mapping[str, str] = field(default_factory=dict)
    running: list[tuple[Part, subprocess.Popen[bytes]]] = field(default_factory=list)

    def start(self, part: Part, interrupted: Callable[[], bool]) -> None:
        """Run a part and return when it answers or we are interrupted.  Raises PartError."""
        with _Notices() as notices:
            process = self._spawn(part, notices.path)
            deadline = time.monotonic() + part.start_within
            while not interrupted():
                if process.poll() is not None:
                    raise PartError(f"{part.name} did not start: {_end(process)}{_tail(part)}")
                if part.answers() if part.answers else notices.ready(0.02):
                    return
                if time.monotonic() > deadline:
                    silence = f"silent for {part.start_within:g} s"
                    raise PartError(f"{part.name} did not start: {silence}{_tail(part)}")
                if part.answers:
                    time.sleep(0.02)

    def _spawn(self, part: Part, notify: str) -> subprocess.Popen[bytes]:
        setpriv = shutil.which("setpriv")
        command = [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []
        out = None if part.log is None else part.log.open("ab")
        try:
            process = subprocess.Popen(  # noqa: S603 - our own programs, no shell
                [*command, *part.command], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env={**os.environ, **self.environ, "NOTIFY_SOCKET": notify},
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise PartError(f"{part.name} did not start: {error}") from error
        finally:
            if out is not None:
                out.close()
        self.running.append((part, process))
        return process

    def watch(self, interrupted: Callable[[], bool]) -> None:
        """Return when interrupted.  Raises PartError as soon as a part ends by itself."""
        while not interrupted():
            for part, process in self.running:
                if process.poll() is not None:
                    raise PartError(f"{part.name} ended: {_end(process)}{_tail(part)}")
            time.sleep(0.1)

    def stop(self) -> list[str]:
        """End all parts; the names of those that had to be killed."""
        for _, process in self.running:
            if process.poll() is None:
                process.terminate()
        deadline = time.monotonic() + GRACE
        late = []
        for part, process in self.running:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                late.append(part.name)
            _kill_group(process)
        self.running.clear()
        return late


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """End whatever the part left behind in its session."""
    with contextlib.suppress(ProcessLookupError):  # nothing was left, as it should be
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Notices:
    """A socket on which a part says that it is ready, as systemd would have it."""

    def __enter__(self) -> _Notices:
        self._directory = tempfile.TemporaryDirectory(prefix="gatepost-")
        self.path = f"{self._directory.name}/notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)
        return self

    def ready(self, timeout: float) -> bool:
        """Whether READY=1 came within so many seconds."""
        if not self._selector.select(timeout):
            return False
        return b"READY=1" in self._socket.recv(4096).split(b"\n")

    def __exit__(self, *_: object) -> None:
        self._selector.close()
        self._socket.close()
        self._directory.cleanup()


def _end(process: subprocess.Popen[bytes]) -> str:
    status = process.returncode
    if status >= 0:
        return f"exit status {status}"
    return f"ended by {signal.Signals(-status).name}"


def _tail(part: Part) -> str:
    """The last lines of its log, or where else to look."""
    if part.log is None:
        return " (its own words are above)"
    lines = part.log.read_text(errors="replace").splitlines()[-5:]
    return "".join(f"\n    {each}" for each in [f"{part.log}:", *lines])
