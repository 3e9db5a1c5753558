"""One timer for many steps that may each take the same time.

asyncio.timeout() makes a timer for each step and takes it away again; steps of a mail's road are
many and hardly ever late.  Here they stand in a row, since who began first is late first, and one
timer looks at the head of the row.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from milterd.base.alarm import Alarm


class Deadlines:
    """Steps of at most `seconds` each, by the loop's clock."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._steps: dict[Step, float] = {}
        self._alarm: Alarm | None = None

    def step(self) -> Step:
        """`with deadlines.step():` in a task: raises TimeoutError once the time is over, as
        asyncio.timeout() does."""
        return Step(self)

    def begin(self, step: Step, loop: asyncio.AbstractEventLoop) -> None:
        """Let its time run."""
        steps = self._steps
        due = loop.time() + self._seconds
        if not steps:
            if self._alarm is None:
                self._alarm = Alarm(loop, self._ring)
            self._alarm.set(due)
        steps[step] = due

    def end(self, step: Step) -> None:
        """It is over."""
        self._steps.pop(step, None)
        if not self._steps and self._alarm is not None:
            self._alarm.clear()

    def _ring(self) -> None:
        now = asyncio.get_running_loop().time()
        while self._steps:
            step, due = next(iter(self._steps.items()))
            if due > now:
                if self._alarm is not None:
                    self._alarm.set(due)
                return
            del self._steps[step]
            step.cancel()

    def close(self) -> None:
        """Keep no timer."""
        alarm, self._alarm = self._alarm, None
        if alarm is not None:
            alarm.close()


class Step:
    """One of them."""

    __slots__ = ("_cancelling", "_deadlines", "_late", "_task")

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._late = False
        self._task: asyncio.Task[object] | None = None

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        if task is None:
            raise RuntimeError("a step with a deadline has to be a task's")
        self._task, self._cancelling = task, task.cancelling()
        self._deadlines.begin(self, loop)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._deadlines.end(self)
        if not self._late or self._task is None:
            return
        late = self._task.uncancel() <= self._cancelling
        if late and kind is not None and issubclass(kind, asyncio.CancelledError):
            raise TimeoutError from error

    def cancel(self) -> None:
        """Its time is over."""
        self._late = True
        if self._task is not None:
            self._task.cancel()
