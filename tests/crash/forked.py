"""Runs of the gateway's programs that cost a fork and no start of Python."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_ROOT = Path(__file__).parents[2]
_PACKET = 65536


@dataclass
class Child:
    """A program, from its birth on; `gone` is its wait status, once it has ended."""

    pid: int
    gone: asyncio.Future[int]
    _gate: int = -1

    def go(self) -> None:
        """Let it begin."""
        os.write(self._gate, b"!")
        os.close(self._gate)
        self._gate = -1

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it is there yet."""
        if not self.gone.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def ended(self, within: float) -> int:
        """Its exit status, or minus the signal that killed it.  Raises TimeoutError."""
        status = await asyncio.wait_for(asyncio.shield(self.gone), within)
        return os.waitstatus_to_exitcode(status)

    def stands(self) -> bool:
        """Whether no thread of it runs: all are stopped, or it is gone."""
        try:
            tasks = list(Path(f"/proc/{self.pid}/task").iterdir())
            stats = [(each / "stat").read_text() for each in tasks]
        except OSError:
            return self.gone.done()
        return all(stat.rpartition(")")[2].split()[0] in "TZX" for stat in stats)


@dataclass
class Nursery:
    """The fork server, and who it bore.  Use :func:`nursery`."""

    end: socket.socket
    process: subprocess.Popen[bytes]
    children: dict[int, Child] = field(default_factory=dict)
    _births: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    _one: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def bear(
        self,
        kind: str,
        given: int,
        output: Path,
        words: Sequence[str] = (),
        *,
        fault: str = "",
        user: int = 0,
    ) -> Child:
        """A child that waits for :meth:`Child.go`.  `given` is its channel or its input; what
        it says is added to `output`.  It runs as `user`, if that is not 0."""
        wanted = {"kind": kind, "words": list(words), "fault": fault, "user": user}
        ear, gate = os.pipe2(os.O_CLOEXEC)
        log = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            async with self._one:
                socket.send_fds(self.end, [json.dumps(wanted).encode()], [ear, log, given])
                pid = await self._births.get()
        finally:
            os.close(ear)
            os.close(log)
        child = self.children[pid]
        child._gate = gate
        return child

    def heard(self) -> None:
        """Take one word of the server's."""
        packet = self.end.recv(_PACKET)
        if not packet:
            asyncio.get_running_loop().remove_reader(self.end)
            return
        word = json.loads(packet)
        if "born" in word:
            pid = word["born"]
            self.children[pid] = Child(pid, asyncio.get_running_loop().create_future())
            self._births.put_nowait(pid)
        else:
            self.children.pop(word["dead"]).gone.set_result(word["status"])


@contextlib.asynccontextmanager
async def nursery() -> AsyncIterator[Nursery]:
    """A fork server; whoever it bore is killed at the end."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.crash.forkserver", str(theirs.fileno())]
    with ours:
        process = subprocess.Popen(  # noqa: ASYNC220 - it is started once, and not waited for
            command, cwd=_ROOT, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),)
        )
        theirs.close()
        ours.setblocking(False)
        one = Nursery(ours, process)
        loop = asyncio.get_running_loop()
        loop.add_reader(ours, one.heard)
        try:
            yield one
        finally:
            loop.remove_reader(ours)
            for pid in one.children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            ours.close()
            await asyncio.to_thread(process.wait, 20)
