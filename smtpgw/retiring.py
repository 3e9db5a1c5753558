"""Tables that were replaced are closed when nobody uses them any more.

Sessions and couriers that began with them end with them.  What has ended stands in circles of
references, which only a collection finds; a worker that has little to do makes none by itself.
"""

from __future__ import annotations

import asyncio
import gc
import weakref

from smtpgw.addresses import Addresses, close_tables

SOON, SELDOM = 0.5, 600.0
"""Seconds until the first collection, and between two of them at most: each takes a while where
tables are large."""


class Retiring:
    """Those of a worker."""

    def __init__(self) -> None:
        self._old: list[weakref.ref[Addresses]] = []
        self._looking: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    def watch(self, addresses: Addresses) -> None:
        """Close the tables of these as soon as nobody refers to them."""
        loop = asyncio.get_running_loop()
        tables = addresses.tables

        def unused() -> None:
            if loop.is_running():  # if not, the process ends, and closes them by that
                loop.call_soon_threadsafe(close)

        def close() -> None:
            task = loop.create_task(close_tables(tables))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

        weakref.finalize(addresses, unused)

    def replaced(self, addresses: Addresses) -> None:
        """Look for the end of these from now on."""
        self._old.append(weakref.ref(addresses))
        if self._looking is not None:
            self._looking.cancel()
        self._looking = asyncio.ensure_future(self._look())

    async def _look(self) -> None:
        pause = SOON
        while True:
            await asyncio.sleep(pause)
            if self._none_left():
                return
            gc.collect()
            if self._none_left():
                return
            pause = min(2 * pause, SELDOM)

    def _none_left(self) -> bool:
        self._old = [each for each in self._old if each() is not None]
        return not self._old

    async def close(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
