"""Ask another process once: a text goes in, and what it says comes out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass

from milterd.base.nursery import Born, Nursery, NurseryGone


@dataclass(frozen=True, slots=True)
class Said:
    """What came of it; `status` is negative for a signal."""

    status: int
    output: bytes
    errors: bytes


async def ask(
    nursery: Nursery | None, command: Sequence[str], text: bytes, patience: float
) -> Said:
    """Run `command`, by the nursery if it knows it, with `text` as its standard input.

    Raises TimeoutError after `patience` seconds, OSError; the process has ended then.
    """
    # Files in memory rather than pipes: nobody has to read while it runs.
    papers = [os.memfd_create(name, os.MFD_CLOEXEC) for name in ("text", "output", "errors")]
    try:
        os.pwrite(papers[0], text, 0)
        process = await _begun(nursery, command, papers)
        try:
            async with asyncio.timeout(patience):
                status = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return Said(status, *map(_all, papers[1:]))
    finally:
        for each in papers:
            os.close(each)


async def _begun(
    nursery: Nursery | None, command: Sequence[str], papers: Sequence[int]
) -> asyncio.subprocess.Process | Born:
    if nursery is not None and nursery.knows(command):
        try:
            return nursery.bear(command, dict(enumerate(papers)), {})
        except NurseryGone:
            pass  # then as a program of its own
    given, output, errors = papers
    return await asyncio.create_subprocess_exec(
        *command, stdin=given, stdout=output, stderr=errors, process_group=0
    )


def _all(paper: int) -> bytes:
    return os.pread(paper, os.fstat(paper).st_size, 0)
