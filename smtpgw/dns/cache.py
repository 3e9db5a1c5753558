"""Answers kept for as long as they are good, at most so many of them.

Whoever asks what is being asked already waits for the same answer: a hundred mails for
one domain are one query.  What nobody waits for any more is still asked to its end, so
that the next one finds it.  A TryAgain is never kept.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Cache(Generic[V]):
    """`size` answers at most, those unused for longest go first; `clock` in seconds."""

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        self._size, self._clock = size, clock
        self._kept: OrderedDict[Hashable, tuple[float, V]] = OrderedDict()
        self._asked: dict[Hashable, asyncio.Task[V]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    async def get(self, key: Hashable, ask: Callable[[], Awaitable[tuple[V, float]]]) -> V:
        """The answer; `ask` finds it, with the seconds it is good for."""
        found = self._kept.get(key)
        if found is not None:
            if self._clock() < found[0]:
                self._kept.move_to_end(key)
                return found[1]
            del self._kept[key]
        task = self._asked.get(key)
        if task is None:
            task = asyncio.ensure_future(self._ask(key, ask))
            self._asked[key] = task
            task.add_done_callback(lambda _: self._asked.pop(key, None))
        return await asyncio.shield(task)

    async def _ask(self, key: Hashable, ask: Callable[[], Awaitable[tuple[V, float]]]) -> V:
        value, good = await ask()
        if good > 0:
            self._kept[key] = (self._clock() + good, value)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        return value

    async def close(self) -> None:
        """Ask no further."""
        tasks = list(self._asked.values())
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
