"""Where a worker counts its clients: with the other workers of this machine, with several
machines, or, while neither can be had, by itself.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Mapping

from milterd.base import logs
from smtpgw.config import Smtpgw
from smtpgw.rates.counts import Counts
from smtpgw.rates.local import Counters, LocalCounters, Store
from smtpgw.rates.peaks import Peaks
from smtpgw.rates.shared import SharedCounts

CHANNEL = "GATEPOST_COUNTS"
"""The environment variable with the number of the worker's end of the supervisor's counts."""


class Counting:
    """A worker's counters, by the settings of the moment."""

    def __init__(self, shared: SharedCounts | None) -> None:
        self._log = logs.get("rates")
        self._shared = shared
        self._peaks = Peaks(time.time)
        self._counts = Counts(time.monotonic, 60.0)
        self._url, self._unit = "", 60.0
        self._remote: Store | None = None
        self._status_update_time = 600.0
        self.counters = Counters(
            LocalCounters(self._counts),
            shared,
            peaks=self._peaks,
            log=self._log,
            clock=time.monotonic,
        )

    @classmethod
    def open(cls, environ: Mapping[str, str] = os.environ) -> Counting:
        """With the supervisor's counts, if there is a supervisor."""
        number = environ.get(CHANNEL, "")
        if not number.isdecimal():
            return cls(None)
        channel = socket.socket(fileno=int(number))
        channel.set_inheritable(False)
        channel.setblocking(False)
        return cls(SharedCounts(channel))

    async def apply(self, settings: Smtpgw) -> None:
        """Count by these settings from now on; connections go where they were counted."""
        wanted = settings.client_counts, settings.anvil_rate_time_unit
        changed = wanted != (self._url, self._unit)
        self._url, self._unit = wanted
        self._counts.unit = self._unit
        self._status_update_time = settings.anvil_status_update_time
        if not changed:
            return
        before = self._remote
        self._remote = self._open_remote()
        self.counters.store = self._remote or self._shared
        if before is not None:
            await before.close()

    def _open_remote(self) -> Store | None:
        if not self._url:
            return None
        # Here, for it takes a third of a second that most starts can do without.
        from smtpgw.rates.redis import RedisCounts

        return RedisCounts(self._url, secrets.token_hex(6), self._unit)

    async def report(self) -> None:
        """Tell the highest counts and rates from time to time, until cancelled."""
        while True:
            await asyncio.sleep(self._status_update_time)
            self._peaks.report(self._log, self._unit)

    async def close(self) -> None:
        """Report a last time, and count no more."""
        self._peaks.report(self._log, self._unit)
        for each in (self._remote, self._shared):
            if each is not None:
                await each.close()
