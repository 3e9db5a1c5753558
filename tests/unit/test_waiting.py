"""A limit on a step's time: no timer where nothing waits, asyncio.timeout()'s rules elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from milterd.base.waiting import at_once, within


async def immediate() -> int:
    return 7


async def later(value: int) -> int:
    for _ in range(3):
        await asyncio.sleep(0)
    return value


def test_a_step_that_does_not_wait_makes_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(_seconds: float) -> None:
        raise AssertionError("a timer")

    monkeypatch.setattr(asyncio, "timeout", forbidden)
    assert asyncio.run(within(1.0, immediate())) == 7


def test_a_step_that_waits_ends_as_it_would() -> None:
    assert asyncio.run(within(5.0, later(3))) == 3


def test_what_a_step_raises_before_and_after_it_waited() -> None:
    async def fails(step: Coroutine[Any, Any, object]) -> int:
        await step
        raise KeyError("mine")

    for first in (immediate(), later(1)):
        with pytest.raises(KeyError, match="mine"):
            asyncio.run(within(5.0, fails(first)))


def test_a_step_that_waits_too_long_is_told_so_and_may_clean_up() -> None:
    seen: list[str] = []

    async def hangs() -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)
            seen.append("clean")
            raise

    with pytest.raises(TimeoutError):
        asyncio.run(within(0.01, hangs()))
    assert seen == ["cancelled", "clean"]


def test_cancelling_the_task_cancels_the_step() -> None:
    async def run() -> list[str]:
        seen: list[str] = []
        begun = asyncio.Event()

        async def hangs() -> None:
            begun.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                seen.append("ended")

        task = asyncio.ensure_future(within(60.0, hangs()))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return seen

    assert asyncio.run(run()) == ["ended"]


def test_a_limit_inside_a_limit() -> None:
    async def inner() -> str:
        try:
            await within(0.01, asyncio.sleep(60.0))
        except TimeoutError:
            return await within(5.0, _word())
        return "no limit"

    async def _word() -> str:
        await asyncio.sleep(0)
        return "went on"

    assert asyncio.run(within(5.0, inner())) == "went on"


def test_a_step_that_ends_all_the_same_when_its_time_is_over_leaves_no_cancellation() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return "ended"
        raise AssertionError("nobody came")

    async def outer() -> int:
        assert await within(0.01, stubborn()) == "ended"
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    assert asyncio.run(outer()) == 0


def test_who_is_cancelled_and_late_at_once_is_cancelled() -> None:
    async def outer(late: asyncio.Future[None]) -> None:
        async def hangs() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                late.set_result(None)
                await asyncio.shield(asyncio.get_running_loop().create_future())

        await within(0.01, hangs())

    async def run() -> None:
        late = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(outer(late))
        await late
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


def test_a_step_that_waits_is_given_up_at_once() -> None:
    given_up = []

    async def step(waits: bool) -> int:
        try:
            if waits:
                await asyncio.sleep(0)
        except GeneratorExit:
            given_up.append(waits)
            raise
        return 1

    assert at_once(step(False)) == 1
    assert at_once(step(True)) is None
    assert given_up == [True]
