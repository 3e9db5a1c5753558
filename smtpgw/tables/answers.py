"""Answers of servers kept for a while, at most so many of them.

Found ones and "not found" have lifetimes of their own.  Who asks what is being asked
already waits for the same answer; an answer that did not come is never kept.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from smtpgw.tables.table import Found


class Answers:
    """`size` answers, those unused for longest go first (0: none is kept and every question is
    asked); `found` and `missing` are seconds by `clock`."""

    def __init__(self, size: int, found: float, missing: float, clock: Callable[[], float]) -> None:
        self._size, self._found, self._missing, self._clock = size, found, missing, clock
        self._kept: OrderedDict[bytes, tuple[float, Found | None]] = OrderedDict()
        self._asked: dict[bytes, asyncio.Task[Found | None]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, key: bytes, ask: Callable[[], Awaitable[Found | None]]) -> Found | None:
        """The answer, a kept one or what `ask` finds."""
        if self._size <= 0:
            return await ask()
        kept = self._kept.get(key)
        if kept is not None:
            if self._clock() < kept[0]:
                self._kept.move_to_end(key)
                return kept[1]
            del self._kept[key]
        task = self._asked.get(key)
        if task is None:
            task = asyncio.ensure_future(self._ask(key, ask))
            self._asked[key] = task
            task.add_done_callback(lambda done: self._answered(key, done))
        return await asyncio.shield(task)

    async def _ask(self, key: bytes, ask: Callable[[], Awaitable[Found | None]]) -> Found | None:
        answer = await ask()
        good = self._missing if answer is None else self._found
        if good > 0:
            self._kept[key] = (self._clock() + good, answer)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return answer

    def _answered(self, key: bytes, task: asyncio.Task[Found | None]) -> None:
        self._asked.pop(key, None)
        if not task.cancelled():
            task.exception()  # who waits has it; if nobody waits any more, nobody misses it

    async def close(self) -> None:
        """Ask no further."""
        tasks = list(self._asked.values())
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
