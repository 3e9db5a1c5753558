"""How many deliveries each destination gets at once, and which get none for now.

Postfix's scheduler (SCHEDULER_README, qmgr(8)): a destination starts with
initial_destination_concurrency, grows with each delivery that needed all of it, shrinks
with each failure to reach it, and is dead after as many failures in a row as a number
of cohorts; a dead one rests, then starts anew.  Times are seconds of the caller's clock.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class WindowOptions:
    """Postfix's parameters; their names begin with default_destination_concurrency_ there,
    but for the first.  `rest`: seconds a dead destination is left alone."""

    initial_destination_concurrency: int = 5
    limit: int = 20
    positive_feedback: float = 1.0
    negative_feedback: float = 1.0
    failed_cohort_limit: float = 1.0
    rest: float = 300.0


Turn = asyncio.Future[None]
_NEVER = float("-inf")


@dataclass(slots=True)
class Window:
    """One destination's.  `until`: when its last failure is to be forgotten, and, if it is dead,
    its rest ends."""

    options: WindowOptions
    size: float
    busy: int = 0
    cohorts: float = 0.0
    dead: bool = False
    until: float = _NEVER
    text: str = ""
    waiting: deque[Turn] = field(default_factory=deque)

    def rests(self, now: float) -> bool:
        """Whether it is to be left alone."""
        return self.dead and now < self.until

    def forget(self) -> None:
        """Know of no failure."""
        self.cohorts, self.dead, self.until, self.text = 0.0, False, _NEVER, ""


class Windows:
    """The windows of all destinations that are in use or in trouble, by name; `options_of` a
    name are those of its transport."""

    def __init__(
        self,
        options: WindowOptions = WindowOptions(),
        options_of: Callable[[str], WindowOptions] | None = None,
    ) -> None:
        self._options_of = options_of or (lambda _: options)
        self._windows: dict[str, Window] = {}

    def __len__(self) -> int:
        return len(self._windows)

    def start(self, name: str = "") -> int:
        """What a destination begins with."""
        options = self._options_of(name)
        return min(options.initial_destination_concurrency, options.limit)

    def _new(self, name: str) -> Window:
        options = self._options_of(name)
        return Window(options, min(options.initial_destination_concurrency, options.limit))

    def size(self, name: str, now: float) -> int:
        """How many deliveries it may have at once now; 0 while it rests."""
        found = self._windows.get(name)
        if found is None:
            return self.start(name)
        return 0 if found.rests(now) else int(found.size)

    def resting(self, now: float) -> list[str]:
        """The destinations that are left alone."""
        return [name for name, each in self._windows.items() if each.rests(now)]

    def avoid(self, name: str, now: float) -> str | None:
        """Why not to try it now, if so."""
        found = self._windows.get(name)
        return found.text if found is not None and found.rests(now) else None

    def slot(self, name: str) -> AbstractAsyncContextManager[None]:
        """One of its deliveries; waits, first come first served, until there is room."""
        return _Slot(self, name)

    def enter_now(self, name: str) -> Window | None:
        """A slot of the window that is returned, if there is room."""
        window = self._windows.get(name)
        if window is None:
            window = self._windows[name] = self._new(name)
        if window.waiting or window.busy >= int(window.size):
            return None
        window.busy += 1
        return window

    async def enter(self, name: str) -> Window:
        """Wait for a slot of the window that is returned; who has it gives it back by
        :meth:`leave`."""
        free = self.enter_now(name)
        if free is not None:
            return free
        window, turn = self.line_up(name)
        try:
            await turn
        except asyncio.CancelledError:
            self.give_up(name, window, turn)
            raise
        return window

    def line_up(self, name: str) -> tuple[Window, Turn]:
        """A place in the line for a slot of the window, where :meth:`enter_now` had none."""
        window = self._windows[name]
        turn: Turn = asyncio.get_running_loop().create_future()
        window.waiting.append(turn)
        return window, turn

    def give_up(self, name: str, window: Window, turn: Turn) -> None:
        """Leave the line."""
        if turn.done() and not turn.cancelled():
            self.leave(name, window)  # the turn came, and is not wanted any more
        elif turn in window.waiting:  # not if one that left has passed it by already
            window.waiting.remove(turn)

    def leave(self, name: str, window: Window) -> None:
        """Give a slot back."""
        window.busy -= 1
        self._admit(window)
        if not window.busy and not window.waiting and not window.cohorts and not window.text:
            self._windows.pop(name, None)

    def through(self, name: str, window: Window) -> None:
        """:meth:`answered` and :meth:`leave` in one step."""
        if window.until > _NEVER:
            window.forget()
        options = window.options
        grows = window.size < window.busy + options.initial_destination_concurrency
        if grows and window.size < options.limit:
            window.size = min(window.size + options.positive_feedback, float(options.limit))
        window.busy -= 1
        if window.waiting:
            self._admit(window)
        elif not window.busy:
            self._windows.pop(name, None)

    @staticmethod
    def _admit(window: Window) -> None:
        while window.waiting and window.busy < int(window.size):
            turn = window.waiting.popleft()
            if not turn.done():
                window.busy += 1
                turn.set_result(None)

    def answered(self, name: str) -> None:
        """A delivery got through to it, whatever it said; grows the window if it is used up."""
        window = self._windows.get(name)
        if window is None:
            return
        window.forget()
        options = window.options
        # As qmgr_feedback.c: no growth that nobody makes use of.
        if window.size < window.busy + options.initial_destination_concurrency:
            grown = window.size + options.positive_feedback
            window.size = min(grown, float(options.limit))
            self._admit(window)

    def failed(self, name: str, now: float, text: str) -> float | None:
        """It could not be reached.  When its rest ends, if it is dead by this failure."""
        window = self._windows.setdefault(name, self._new(name))
        if window.rests(now):
            return None  # a try that began before it was dead says nothing new
        options = window.options
        window.text, window.until, window.dead = text, now + options.rest, False
        window.cohorts += 1.0 / window.size
        window.size = max(window.size - options.negative_feedback, 1.0)
        # Tenths that do not add up to one must not cost a failure more.
        if window.cohorts < options.failed_cohort_limit - 1e-9:
            return None
        window.dead = True
        window.cohorts, window.size = 0.0, float(self.start(name))
        self._admit(window)
        return window.until

    def forget(self) -> None:
        """Try all again: somebody flushed the queue."""
        for name, window in list(self._windows.items()):
            window.forget()
            if not window.busy and not window.waiting:
                del self._windows[name]

    def tidy(self, now: float) -> None:
        """Forget destinations whose trouble is over and that nobody uses."""
        for name, window in list(self._windows.items()):
            if now >= window.until and not window.busy and not window.waiting:
                del self._windows[name]


class _Slot(AbstractAsyncContextManager[None]):
    """A slot, taken and given back."""

    __slots__ = ("_name", "_window", "_windows")

    def __init__(self, windows: Windows, name: str) -> None:
        self._windows, self._name = windows, name
        self._window: Window | None = None

    async def __aenter__(self) -> None:
        self._window = await self._windows.enter(self._name)

    async def __aexit__(self, *_: object) -> None:
        if self._window is not None:
            self._windows.leave(self._name, self._window)
