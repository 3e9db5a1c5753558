"""The clock of the tests' loops: what a stall counts, and that time goes on without one."""

from __future__ import annotations

import asyncio
import socket
import threading
import time

import pytest

from tests.steady import LONGEST, Clock, Running, SteadyLoop


def test_a_stall_counts_as_a_moment() -> None:
    now = [100.0]
    clock = Clock(lambda: now[0])
    seen = []
    for later in (0.01, 0.01, 5.0, 0.01, 0.0):
        now[0] += later
        seen.append(clock() - 100.0)
    assert seen == pytest.approx([0.01, 0.02, 0.02 + LONGEST, 0.03 + LONGEST, 0.03 + LONGEST])


def test_the_loops_of_the_suite_go_by_it() -> None:
    """What comes after a stall is heard before the limit that passed meanwhile by the machine's
    clock; a limit that nothing comes in runs out, not before its time."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, SteadyLoop)
        heard = asyncio.Event()
        read, write = socket.socketpair()
        loop.add_reader(read, lambda: (loop.remove_reader(read), loop.call_soon(heard.set)))
        async with asyncio.timeout(0.2):
            began = time.monotonic()
            write.send(b"x")
            while time.monotonic() < began + 0.3:  # a stall
                pass
            await heard.wait()
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await asyncio.Event().wait()
        assert time.monotonic() - began >= 0.1 - loop._clock_resolution  # type: ignore[attr-defined]
        read.close()
        write.close()

    asyncio.run(scenario())


def test_what_something_took_is_never_more_than_the_machine_says() -> None:
    began = time.monotonic()
    with Running() as clock:
        before = clock()
        threading.Event().wait(0.2)
        took = clock() - before
    assert 0 < took <= time.monotonic() - began
