"""The screens of a worker: opened with each reload, and their common cache kept clean."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping

from smtpgw.address.clients import ClientList
from smtpgw.config import Smtpgw
from smtpgw.edge.options import EdgeOptions
from smtpgw.screen.gate import Gate
from smtpgw.wiring.screen import Screens, Shared, dns, open_screens


class Screening:
    """`cleans` says that this worker cleans the cache for all."""

    def __init__(self, shared: Shared, *, cleans: bool) -> None:
        self._shared, self._cleans = shared, cleans
        self._now, self._before = Screens({}), Screens({})
        self._cleaning: asyncio.Task[None] | None = None

    async def open(
        self,
        settings: Smtpgw,
        mynetworks: ClientList,
        edges: Mapping[str, tuple[EdgeOptions, EdgeOptions]],
    ) -> None:
        """Screen by these settings from now on.  Raises ConfigError, and has changed nothing."""
        found = await open_screens(settings, mynetworks, edges, self._shared)
        self._shared.resolver.configure(dns(settings))
        # Those just replaced may be asked this moment; the ones before them are not any more.
        await self._before.close()
        self._before, self._now = self._now, found
        await self._stop()
        interval = settings.postscreen_cache_cleanup_interval
        if found.gates and self._cleans and interval:
            retention = settings.postscreen_cache_retention_time
            self._cleaning = asyncio.ensure_future(self._clean(interval, retention))

    def gate(self, listener: str) -> Gate | None:
        """A listener's screen, if it has one."""
        return self._now.gates.get(listener)

    async def _clean(self, interval: float, retention: float) -> None:
        while True:
            await self._shared.cache.clean(retention)
            await asyncio.sleep(interval)

    async def _stop(self) -> None:
        if self._cleaning is not None:
            self._cleaning.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._cleaning
            self._cleaning = None

    async def close(self) -> None:
        """Write what is not written yet, and let go of everything."""
        await self._stop()
        shared = self._shared
        await asyncio.gather(
            shared.resolver.close(), shared.cache.close(), self._before.close(), self._now.close()
        )
