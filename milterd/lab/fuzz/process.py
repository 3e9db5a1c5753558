"""The milter's process: whether it lives, what memory it has, and starting it again.

Given by a number, it is only looked at; given by a command, it is started, started again
when it has died, and ended at the end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from milterd.base.sockets import SocketAddress, remove
from milterd.lab.link import open_streams

_PAGE = os.sysconf("SC_PAGE_SIZE")
_START = 30.0
"""Seconds until a milter that was started must take connections."""
_STOP = 2.0
"""Seconds it may take to end before it is killed."""
_LOOK = 0.01


class ProcessError(Exception):
    """The milter cannot be started; the message says why."""


class Watched:
    """Nothing is known of the process.

    `known`: something is.  `restarts`: it can be had anew.
    """

    known = restarts = False

    async def start(self) -> None:
        """Have it run."""

    async def stop(self) -> None:
        """End it, if it was started here."""

    def died(self) -> str:
        """How it ended; empty while it lives, or where nobody knows."""
        return ""

    def memory(self) -> int:
        """Resident octets; 0 where nobody knows."""
        return 0


class ByNumber(Watched):
    """A process that somebody else has started."""

    known = True

    def __init__(self, pid: int) -> None:
        self._pid = pid

    async def start(self) -> None:
        if self.died():
            raise ProcessError(f"there is no process {self._pid}")

    def died(self) -> str:
        try:
            state = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return f"process {self._pid} is gone"
        return f"process {self._pid} is dead" if state in "ZX" else ""

    def memory(self) -> int:
        return _resident(self._pid)


class ByCommand(Watched):
    """A process of our own, in a session of its own."""

    known = restarts = True

    def __init__(self, words: Sequence[str], target: SocketAddress) -> None:
        self._words, self._target = words, target
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start it, and wait until it takes connections.  Raises ProcessError."""
        await self.stop()
        if self._target.kind == "unix":
            remove(self._target.path)  # only if it is a dead socket of ours
        try:
            self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - as the user says, with no shell
                self._words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise ProcessError(f"cannot start {self._words[0]}: {error.strerror}") from None
        ends = asyncio.get_running_loop().time() + _START
        while not await self._answers():
            if died := self.died():
                raise ProcessError(f"{self._words[0]} {died}")
            if asyncio.get_running_loop().time() > ends:
                raise ProcessError(f"{self._words[0]} took no connection within {_START:g} s")
            await asyncio.sleep(_LOOK)

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.poll() is None:
            process.terminate()
            for _ in range(int(_STOP / _LOOK)):
                if process.poll() is not None:
                    break
                await asyncio.sleep(_LOOK)
        if process.poll() is None:
            process.kill()
        process.wait()
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return  # nothing of its session is left

    def died(self) -> str:
        status = None if self._process is None else self._process.poll()
        if status is None:
            return ""
        return f"ended with status {status}" if status >= 0 else f"ended by signal {-status}"

    def memory(self) -> int:
        return 0 if self._process is None else _resident(self._process.pid)

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(1):
                _, writer = await open_streams(self._target)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0
