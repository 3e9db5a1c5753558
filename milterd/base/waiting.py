"""A limit on a step's time that costs nothing where the step does not wait.

Most steps of a mail's road are answered from memory, and asyncio.timeout() makes a timer for each
all the same.  Here the step is begun first: only one that has to wait gets a timer.
"""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


async def within(seconds: float, step: Coroutine[Any, Any, T]) -> T:
    """What `step` comes to.  Raises TimeoutError if it still waits after `seconds`; whatever the
    step raises is raised as it is.  To be called in a task, as asyncio.timeout() is."""
    try:
        first = step.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return] # what a coroutine ends with
    return await going_on(seconds, step, first)


def at_once(step: Coroutine[Any, Any, T]) -> T | None:
    """What `step` comes to if it waits for nothing; else it is given up, and None comes of it.
    For steps that do nothing until they know everything.  Raises what the step raises."""
    try:
        step.send(None)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return] # what a coroutine ends with
    step.close()
    return None


async def going_on(seconds: float, step: Coroutine[Any, Any, T], awaited: Any) -> T:
    """The same for a step that was begun, and waits for `awaited`."""
    task = asyncio.current_task()
    if task is None:
        raise RuntimeError("a limit outside of a task")
    before = task.cancelling()
    limit = _Limit(task)
    timer = asyncio.get_running_loop().call_later(seconds, limit.expire)
    try:
        return await resumed(step, awaited)
    except asyncio.CancelledError as error:
        # Who else has cancelled the task is not to be told of a timeout.
        if limit.expired and task.cancelling() - 1 <= before:
            raise TimeoutError from error
        raise
    finally:
        timer.cancel()
        if limit.expired:
            task.uncancel()


class _Limit:
    """Ends a wait of a task; asyncio.timeout() says how, with four times the calls."""

    __slots__ = ("_task", "expired")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self._task, self.expired = task, False

    def expire(self) -> None:
        """The time is over."""
        self.expired = True
        self._task.cancel()


@types.coroutine
def resumed(
    step: Coroutine[Any, Any, T], awaited: Any, error: BaseException | None = None
) -> Generator[Any, Any, T]:
    """Go on with a step that was begun and waits for `awaited`; first it is to see `error`."""
    try:
        if error is not None:
            awaited = step.throw(error)
        while True:
            try:
                heard = yield awaited
            except GeneratorExit:
                step.close()
                raise
            except BaseException as error:  # noqa: BLE001 - a cancellation is the step's to see
                awaited = step.throw(error)
            else:
                awaited = step.send(heard)
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
