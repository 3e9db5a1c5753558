"""A future whose waiter goes on at once, and a task that begins at once: not in the event loop's
next turn.

In a loop with many busy connections a turn takes milliseconds, as it reads from all of them; who
wants the disk, or has waited for it, need not wait for that too.  asyncio documents `_enter_task`
and `_leave_task` for those who run tasks' code themselves.
"""

from __future__ import annotations

import asyncio
import contextvars
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from milterd.base.waiting import resumed

T = TypeVar("T")
_Callback = Callable[["AtOnce[Any]"], object]


class AtOnce(asyncio.Future[T]):
    """One.  Whoever waits for it first is told by :meth:`now` before that returns; all others, and
    all by the usual methods, in the next turn."""

    _first: tuple[_Callback, contextvars.Context] | None = None

    def add_done_callback(
        self, fn: _Callback, *, context: contextvars.Context | None = None
    ) -> None:
        """Asyncio's: a task that waits gives its next step."""
        if self._first is None and context is not None and not self.done():
            self._first = fn, context
        else:
            super().add_done_callback(fn, context=context)

    def remove_done_callback(self, fn: _Callback, /) -> int:
        if self._first is not None and self._first[0] == fn:
            self._first = None
            return 1 + super().remove_done_callback(fn)
        return super().remove_done_callback(fn)

    def _later(self) -> None:
        """Have the first one told as all others are."""
        first, self._first = self._first, None
        if first is not None:
            super().add_done_callback(first[0], context=first[1])

    def cancel(self, msg: Any = None) -> bool:
        self._later()
        return super().cancel(msg)

    def set_result(self, result: T, /) -> None:
        self._later()
        super().set_result(result)

    def set_exception(self, exception: type | BaseException, /) -> None:
        self._later()
        super().set_exception(exception)

    def now(self, result: T | Exception) -> None:
        """Set what it comes to, an exception to be raised, and tell who waits.  To be called in
        the loop, not by who waits."""
        first, self._first = self._first, None
        if isinstance(result, Exception):
            super().set_exception(result)
        else:
            super().set_result(result)
        if first is None:
            return
        callback, context = first
        loop = self.get_loop()
        before = asyncio.current_task(loop)
        if before is None:
            context.run(callback, self)
            return
        _leave_task(loop, before)
        try:
            context.run(callback, self)
        finally:
            _enter_task(loop, before)


def started(
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
    work: Coroutine[Any, Any, None],
) -> asyncio.Task[None]:
    """The task of `work` that `spawn` makes; its first step is done when this returns."""
    first: list[Any] = []
    task = spawn(_going_on(work, first))
    loop = task.get_loop()
    before = asyncio.current_task(loop)
    if before is not None:
        _leave_task(loop, before)
    _enter_task(loop, task)
    try:
        first.append(work.send(None))
    except StopIteration:
        pass
    except BaseException as error:  # noqa: BLE001 - the task is to raise it
        first.append(error)
    finally:
        _leave_task(loop, task)
        if before is not None:
            _enter_task(loop, before)
    return task


async def _going_on(work: Coroutine[Any, Any, None], first: list[Any]) -> None:
    """What is left of `work` after a first step that waits for, or has raised, `first`."""
    if not first:
        return
    if isinstance(first[0], BaseException):
        raise first[0]
    await resumed(work, first[0])
