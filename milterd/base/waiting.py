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
    async with asyncio.timeout(seconds):
        return await _resumed(step, first)


@types.coroutine
def _resumed(step: Coroutine[Any, Any, T], awaited: Any) -> Generator[Any, Any, T]:
    """Go on with a step that waits for something already."""
    try:
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
