"""Both daemons as a postmaster runs them, to be killed at will."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Daemon:
    """One of our daemons as a child of the test, started again when somebody killed it."""

    command: Sequence[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0

    def start(self, environ: Mapping[str, str] | None = None) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.command], stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, **(environ or {})},
            )  # fmt: skip
        self.starts += 1

    def keep_up(self) -> None:
        """Start it again if it is gone, as systemd would."""
        if self.process is None or self.process.poll() is not None:
            self.start()

    def tree(self) -> list[int]:
        """Its process ids, its own first."""
        if self.process is None or self.process.poll() is not None:
            return []
        return [self.process.pid, *descendants(self.process.pid)]

    def stop(self, patience: float = 10.0) -> int:
        """Ask it to end, and say how it ended."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(patience)


def descendants(pid: int) -> list[int]:
    """Every child, grandchild and so on of a process, from /proc."""
    parents: dict[int, list[int]] = {}
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            try:
                stat = (each / "stat").read_text()
            except OSError:
                continue  # it ended while we looked
            fields = stat.rpartition(")")[2].split()
            if fields[0] != "Z":
                parents.setdefault(int(fields[1]), []).append(int(each.name))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


@dataclass
class Killer:
    """Kills processes and writes down what it killed and when."""

    daemons: Sequence[Daemon]
    killed: dict[str, int] = field(default_factory=dict)
    gateway_kills: list[float] = field(default_factory=list)
    """When (time.monotonic) a process of the gateway was killed that takes or delivers mail, or
    keeps those that do."""

    def kill(self, daemon: Daemon, pid: int) -> bool:
        """SIGKILL one process of a daemon; False if it was gone already."""
        place = _place(daemon, pid)
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        if daemon.process and pid == daemon.process.pid:
            daemon.process.wait(10)
        what = f"{daemon.command[1]} {place}"
        self.killed[what] = self.killed.get(what, 0) + 1
        if daemon.command[1] == "smtpgw" and place != "nursery":
            self.gateway_kills.append(time.monotonic())
        return True


def _place(daemon: Daemon, pid: int) -> str:
    if daemon.process and pid == daemon.process.pid:
        return "supervisor"
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "child"
    return "nursery" if title.startswith(b"nursery of ") else "child"
