"""The milter as a program that the card starts, and starts again where it died."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from milterd.lab.link import Fault, MilterError
from milterd.lab.show import readable

_LOOK = 0.02
"""Seconds between two looks whether it answers."""
_TAIL = 300
"""Octets of its output that are shown when it does not start."""


class Program:
    """A command, kept in the foreground, and whether its process still runs.

    `answers` tells whether the milter can be connected to.
    """

    def __init__(self, command: Sequence[str], answers: Callable[[], Awaitable[bool]]) -> None:
        self._command, self._answers = command, answers
        self._process: asyncio.subprocess.Process | None = None
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()

    @property
    def pid(self) -> int | None:
        """Its process, None if there is none."""
        return self._process.pid if self._process is not None else None

    @property
    def death(self) -> str:
        """How the process ended; empty while it runs."""
        status = self._process.returncode if self._process is not None else None
        if status is None:
            return ""
        return f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"

    async def start(self, within: float) -> None:
        """Start it, and wait until it answers.  Raises MilterError if it does not."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                start_new_session=True,
            )
        except OSError as error:
            message = f"cannot start {self._command[0]}: {error.strerror}"
            raise MilterError(Fault.GONE, message, "connection") from error
        try:
            async with asyncio.timeout(within):
                while not await self._answers():
                    if self.death:
                        raise self._unstarted(f"{self.death} (it must stay in the foreground)")
                    await asyncio.sleep(_LOOK)
        except TimeoutError:
            raise self._unstarted(f"does not answer within {within:g} s") from None

    async def died(self, within: float = _LOOK) -> str:
        """As `death`, after a moment for the system to say so."""
        if self._process is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), within)
            if not self.death and _has_ended(self._process.pid):  # it only was not told yet
                await self._process.wait()
        return self.death

    async def stop(self) -> None:
        """End it, and what it has started, at once."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    def close(self) -> None:
        """Give back what its output was kept in."""
        self._output.close()

    def _unstarted(self, why: str) -> MilterError:
        end = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(end - _TAIL, 0))
        said = readable(self._output.read().strip())
        text = f"{Path(self._command[0]).name} {why}" + (
            f"; its last words: {said}" if said else ""
        )
        return MilterError(Fault.GONE, text, "connection")


def _has_ended(pid: int) -> bool:
    """What the kernel says of a child; it stays to be waited for."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True
