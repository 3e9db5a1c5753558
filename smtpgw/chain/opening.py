"""Milters of a session that are connected to and negotiated with, all at the same time.

Whoever waits for them wakes once, when the last has answered or failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol


class Opening(Protocol):
    """A milter's connection (:class:`smtpgw.chain.link.Link`)."""

    def may_open(self) -> bool: ...

    def begin_to_open(self, heard: Callable[[], None]) -> bool: ...

    async def begin_slowly(self, heard: Callable[[], None]) -> None: ...

    def opened(self) -> bool: ...

    def do_not_open(self) -> None: ...


async def open_all(links: Sequence[Opening]) -> None:
    """Open those that are to be.  What a milter does wrong is remembered by its link."""
    due = [each for each in links if each.may_open()]
    if not due:
        return
    woken = asyncio.get_running_loop().create_future()

    def heard() -> None:
        while due and due[-1].opened():
            due.pop()
        if not (due or woken.done()):
            woken.set_result(None)

    try:
        slow = [each for each in due if not each.begin_to_open(heard)]
        if slow:
            await asyncio.gather(*(each.begin_slowly(heard) for each in slow))
        heard()
        await woken
    finally:
        for each in due:
            each.do_not_open()
