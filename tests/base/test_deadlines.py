"""One timer for many steps, each as long as asyncio.timeout() would let it be."""

from __future__ import annotations

import asyncio

import pytest

from milterd.base.deadlines import Deadlines
from tests.queue.support import run


async def _step(deadlines: Deadlines, work: asyncio.Event) -> str:
    try:
        with deadlines.step():
            await work.wait()
    except TimeoutError:
        return "late"
    return "done"


def test_each_has_its_time_and_no_other_is_hit() -> None:
    async def scenario() -> None:
        deadlines, never, now = Deadlines(0.05), asyncio.Event(), asyncio.Event()
        now.set()
        slow = [asyncio.ensure_future(_step(deadlines, never)) for _ in range(3)]
        assert await _step(deadlines, now) == "done"
        await asyncio.sleep(0.03)
        later = asyncio.ensure_future(_step(deadlines, never))
        assert await asyncio.gather(*slow) == ["late"] * 3
        assert not later.done()
        assert await later == "late"
        assert all(not each.cancelled() for each in slow)
        deadlines.close()

    run(scenario())


def test_a_cancellation_from_elsewhere_stays_one() -> None:
    async def scenario() -> None:
        deadlines, never = Deadlines(60), asyncio.Event()
        step = asyncio.ensure_future(_step(deadlines, never))
        await asyncio.sleep(0)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step

    run(scenario())


def test_both_at_once_is_a_cancellation() -> None:
    async def scenario() -> None:
        deadlines, never = Deadlines(0.01), asyncio.Event()
        began = asyncio.Event()

        async def slow_to_end() -> None:
            with deadlines.step():
                began.set()
                try:
                    await never.wait()
                finally:
                    asyncio.current_task().cancel()  # type: ignore[union-attr] # there is one

        step = asyncio.ensure_future(slow_to_end())
        await began.wait()
        with pytest.raises(asyncio.CancelledError):
            await step

    run(scenario())


def test_an_error_is_raised_as_it_is() -> None:
    async def scenario() -> None:
        deadlines = Deadlines(60)
        with pytest.raises(ValueError, match="ours"), deadlines.step():
            raise ValueError("ours")

    run(scenario())
