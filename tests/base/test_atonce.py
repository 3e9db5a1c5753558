"""Who waits for it goes on before it is set; who is begun has done its first step; asyncio's rules
for tasks hold all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from milterd.base.atonce import AtOnce, started


def _run(work: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(20):
            await work

    asyncio.run(bounded())


def _waiting(found: list[object]) -> tuple[AtOnce[int], asyncio.Task[None]]:
    future: AtOnce[int] = AtOnce(loop=asyncio.get_running_loop())

    async def wait() -> None:
        try:
            found.append(await future)
        except (ValueError, asyncio.CancelledError) as error:
            found.append(type(error))
        found.append(asyncio.current_task())

    return future, asyncio.ensure_future(wait())


def test_who_waits_goes_on_at_once_in_a_task_of_its_own() -> None:
    async def scenario() -> None:
        found: list[object] = []
        future, task = _waiting(found)
        await asyncio.sleep(0)
        future.now(3)
        assert found == [3, task]
        assert asyncio.current_task() is not task
        await task

    _run(scenario())


@pytest.mark.parametrize("at_once", [True, False])
def test_an_exception_is_raised_where_it_is_waited_for(at_once: bool) -> None:
    async def scenario() -> None:
        found: list[object] = []
        future, task = _waiting(found)
        await asyncio.sleep(0)
        if at_once:
            future.now(ValueError())
        else:
            future.set_exception(ValueError())
            assert not found
            await asyncio.sleep(0)
        assert found == [ValueError, task]

    _run(scenario())


def test_one_that_is_set_as_others_are_tells_in_the_next_turn() -> None:
    async def scenario() -> None:
        found: list[object] = []
        future, task = _waiting(found)
        await asyncio.sleep(0)
        future.set_result(4)
        assert not found
        await task
        assert found == [4, task]

    _run(scenario())


def test_who_is_cancelled_while_it_waits_is_told() -> None:
    async def scenario() -> None:
        found: list[object] = []
        future, task = _waiting(found)
        await asyncio.sleep(0)
        task.cancel()
        await task
        assert found == [asyncio.CancelledError, task]
        assert future.cancelled()

    _run(scenario())


def test_who_comes_late_and_who_else_waits_hear_of_it_too() -> None:
    async def scenario() -> None:
        future: AtOnce[int] = AtOnce(loop=asyncio.get_running_loop())
        told: list[asyncio.Future[int]] = []
        both = [asyncio.ensure_future(asyncio.wait_for(asyncio.shield(future), 5)) for _ in "ab"]
        await asyncio.sleep(0)
        future.add_done_callback(told.append)
        future.remove_done_callback(told.append)
        future.add_done_callback(told.append)
        future.now(5)
        assert await asyncio.gather(*both) == [5, 5]
        assert await future == 5
        assert told == [future]

    _run(scenario())


def test_who_is_begun_has_done_the_first_step_in_its_own_task() -> None:
    async def scenario() -> None:
        steps: list[object] = []
        gate = asyncio.get_running_loop().create_future()

        async def work() -> None:
            steps.append(asyncio.current_task())
            await gate
            steps.append(asyncio.current_task())

        mine = asyncio.current_task()
        task = started(asyncio.get_running_loop().create_task, work())
        assert steps == [task]
        assert asyncio.current_task() is mine
        gate.set_result(None)
        await task
        assert steps == [task, task]

    _run(scenario())


def test_a_limit_that_who_is_begun_sets_itself_ends_it_and_nobody_else() -> None:
    async def scenario() -> None:
        async def work() -> None:
            async with asyncio.timeout(0.01):
                await asyncio.get_running_loop().create_future()

        with pytest.raises(TimeoutError):
            await started(asyncio.get_running_loop().create_task, work())

    _run(scenario())


def test_who_is_begun_may_end_or_fail_at_once() -> None:
    async def scenario() -> None:
        async def done() -> None:
            pass

        async def wrong() -> None:
            raise ValueError("wrong")

        spawn = asyncio.get_running_loop().create_task
        await started(spawn, done())
        task = started(spawn, wrong())
        with pytest.raises(ValueError, match="wrong"):
            await task

    _run(scenario())
