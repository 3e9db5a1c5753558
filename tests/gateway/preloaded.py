"""`smtpgw` with its modules loaded, from which a test gets a run of it for a fork.

    python -m tests.gateway.preloaded NUMBER

is that process, and NUMBER its end of a pair of sockets: see milterd.base.nursery, which is how
the gateway itself starts its workers.  To load Python and the gateway anew costs most of a second
of processor time, more than most tests that need a gateway need for all the rest.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PACKET = 65536


@dataclass(eq=False)
class Forked:
    """A run, with what subprocess.Popen says of one."""

    pid: int
    descriptor: int
    house: House
    returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status, negative for a signal; None while it runs."""
        self.house.hear(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, once it has ended.  Raises subprocess.TimeoutExpired."""
        end = time.monotonic() + (3600 if timeout is None else timeout)
        while self.poll() is None:
            left = end - time.monotonic()
            if left <= 0:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
            self.house.hear(min(left, 0.1))
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.descriptor, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class House:
    """The process that is loaded, seen from the tests.  Use :func:`house`."""

    def __init__(self) -> None:
        self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.gateway.preloaded", str(theirs.fileno())]
        self._process = subprocess.Popen(
            command, cwd=_ROOT, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),)
        )
        theirs.close()
        self._lock = threading.RLock()
        self._born: Forked | str | None = None
        self._running: dict[int, Forked] = {}
        atexit.register(self._close)

    def run(self, words: Sequence[str], output: int, environ: Mapping[str, str]) -> Forked:
        """`smtpgw WORDS`, its standard output and error to this descriptor."""
        wanted = {"words": ["smtpgw", *words], "numbers": [1, 2], "environ": dict(environ)}
        with self._lock:
            self._born = None
            socket.send_fds(self._end, [json.dumps(wanted).encode()], [output, output])
            while self._born is None:
                self.hear(60)
            assert isinstance(self._born, Forked), self._born
            return self._born

    def hear(self, within: float) -> None:
        """Take what it says, if it says something within these seconds."""
        with self._lock:
            while select.select([self._end], [], [], within)[0]:
                within = 0
                packet, numbers, _flags, _ = socket.recv_fds(self._end, _PACKET, 1)
                assert packet, "the process that has the gateway loaded is gone"
                word = json.loads(packet)
                if "born" in word:
                    self._born = Forked(word["born"], numbers[0], self)
                    self._running[self._born.pid] = self._born
                elif "dead" in word:
                    one = self._running.pop(word["dead"])
                    one.returncode = word["status"]
                    os.close(one.descriptor)
                else:
                    self._born = word["failed"]

    def _close(self) -> None:
        self._end.close()
        self._process.wait(10)


@cache
def house() -> House:
    """That of this test process, from the first use to the end."""
    return House()


def _smtpgw(words: Sequence[str]) -> int:
    from smtpgw import cli

    sys.argv = ["smtpgw", *words]
    cli.main()
    return 0


def _main() -> None:
    from milterd.base import collector, nursery

    end = socket.socket(fileno=int(sys.argv[1]))
    with collector.loading():
        from smtpgw import cli, listening, supervisor  # noqa: F401 - so that they are loaded
    collector.settle()
    nursery._be_nursery(end, {"smtpgw": _smtpgw}, os.getppid())


if __name__ == "__main__":
    _main()
