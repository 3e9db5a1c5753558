"""The processes that look into attachments, a bounded number of them, each job with a deadline."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict

from milterd.ports.attached.found import Limits, Look, Obstacle, Thing, Trouble

_JOBS = 500
"""Jobs of a process before another takes its place: what libraries leave behind stays bounded."""
_ANSWER = 16 * 2**20


class _Worker:
    """One process."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair()
        self.jobs = 0
        with other:
            self._process = subprocess.Popen(  # noqa: S603  # our own module
                [sys.executable, "-Pm", "milterd.ports.attached.worker", str(other.fileno())],
                pass_fds=(other.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def ask(self, octets: bytes, limits: Limits, seconds: float) -> Look:
        """Raises TimeoutError, OSError or ValueError."""
        self.jobs += 1
        self._socket.settimeout(max(seconds, 0.001))
        with os.fdopen(os.memfd_create("attachment", os.MFD_CLOEXEC), "wb") as file:
            file.write(octets)
            file.flush()
            job = json.dumps({"limits": asdict(limits), "seconds": seconds}).encode()
            socket.send_fds(self._socket, [job], [file.fileno()])
        size = int.from_bytes(self._receive(4), "big")
        if size > _ANSWER:
            raise ValueError(f"an answer of {size} octets")
        return _read(json.loads(self._receive(size)))

    def _receive(self, size: int) -> bytes:
        found = b""
        while len(found) < size:
            piece = self._socket.recv(size - len(found))
            if not piece:
                raise ConnectionError("it has ended")
            found += piece
        return found

    def end(self) -> None:
        """At once, whatever it does."""
        self._socket.close()
        self._process.kill()
        self._process.wait()


class Pool:
    """At most `size` processes, started when they are first needed.  Safe for threads."""

    def __init__(self, limits: Limits, size: int, clock: Callable[[], float]) -> None:
        self._limits, self._clock = limits, clock
        self._free = threading.BoundedSemaphore(size)
        self._idle: list[_Worker] = []

    def look(self, octets: bytes, end: float) -> Look:
        """What is in an attachment; `end` is when nobody waits any longer, by the clock.  Never
        raises for what it may be."""
        if not self._free.acquire(timeout=max(end - self._clock(), 0)):
            return _hindered("too_slow", "all processes were at work")
        try:
            return self._ask(octets, end)
        finally:
            self._free.release()

    def close(self) -> None:
        """End the processes that have nothing to do."""
        while self._idle:
            self._idle.pop().end()

    def _ask(self, octets: bytes, end: float) -> Look:
        worker: _Worker | None = None
        with contextlib.suppress(IndexError):
            worker = self._idle.pop()
        try:
            worker = worker or _Worker()
            found = worker.ask(octets, self._limits, end - self._clock())
        except TimeoutError:
            found = _hindered("too_slow", "no answer in time")
        except (OSError, ValueError) as error:
            found = _hindered("unavailable", f"the process that looks: {error}")
        else:
            if worker.jobs < _JOBS:
                self._idle.append(worker)
                return found
        if worker is not None:
            worker.end()
        return found


def _hindered(trouble: Trouble, why: str) -> Look:
    return Look(obstacles=(Obstacle(trouble, why),))


def _read(answer: dict[str, list[dict[str, object]]]) -> Look:
    things = (
        Thing(*(tuple(each[key]) for key in ("path", "kinds", "marks")))  # type: ignore[arg-type]
        for each in answer["things"]
    )
    obstacles = (Obstacle(**each) for each in answer["obstacles"])  # type: ignore[arg-type]
    return Look(tuple(things), tuple(obstacles))
