"""The milter under test, where a scenario starts it itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from milterd.base.sockets import SocketAddress, parse
from milterd.lab.link import open_streams
from milterd.lab.show import readable

START = 15.0
"""Seconds a milter may take until it can be reached."""
STOP = 10.0
"""Seconds a milter may take to end after SIGTERM; libmilter takes five."""
_AGAIN = 0.05
_TAIL = 2000


class StartError(Exception):
    """The milter did not start: what happened, and the end of what it printed."""


@asynccontextmanager
async def running(words: Sequence[bytes], address: str, directory: Path) -> AsyncIterator[None]:
    """Run a milter until the end of the block; it can be reached at the beginning.

    It runs in `directory`, in a session of its own, and what it prints is shown
    when it fails to start.  Raises StartError, ValueError for an address that is none.
    """
    target = parse(address)
    with tempfile.TemporaryFile() as output:
        try:
            process = await asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=directory,
                start_new_session=True,
            )
        except OSError as error:
            name = readable(words[0])
            raise StartError(f"cannot start {name}: {error.strerror or error}") from None
        try:
            if (trouble := await _reached(process, target)) is not None:
                output.seek(0)
                printed = readable(output.read()[-_TAIL:])
                raise StartError(f"{readable(words[0])} {trouble}; it printed: {printed}")
            yield
        finally:
            await _end(process)


async def _reached(process: asyncio.subprocess.Process, target: SocketAddress) -> str | None:
    """None as soon as the milter answers; else what happened instead."""
    try:
        async with asyncio.timeout(START):
            while process.returncode is None:
                with contextlib.suppress(OSError):
                    _, writer = await open_streams(target)
                    writer.close()
                    return None
                await asyncio.sleep(_AGAIN)
    except TimeoutError:
        return f"is not there at {target} after {START:g} s"
    return f"ended with {process.returncode}"


async def _end(process: asyncio.subprocess.Process) -> None:
    """SIGTERM, then SIGKILL for it and what it left in its session."""
    with contextlib.suppress(ProcessLookupError):
        if process.returncode is None:
            process.terminate()
    try:
        async with asyncio.timeout(STOP):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
