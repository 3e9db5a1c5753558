"""Asking whether an address is good: the cache, and a probe where it does not know.

Who asks waits for the probe as address_verify_poll_count and _poll_delay allow, then has "unknown"
for an answer; the probe goes on, and whoever asks later has what it found.  There is one probe at a
time for an address, and a bound on all of them; one that finds no room is left to the next who
asks.  A cache that cannot be used is StoreDown: then nothing is probed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from smtpgw.stores.shared import StoreDown
from smtpgw.verify.cache import Cache
from smtpgw.verify.rules import PROBE_TIME, Entry, Status


class Prober(Protocol):
    """Who finds out."""

    async def probe(self, address: bytes) -> Entry:
        """Status, enhanced code and text.  Raises nothing for what others can do wrong."""
        ...


@dataclass(frozen=True, slots=True)
class VerifierOptions:
    """`probes` at once."""

    probes: int = 100


@dataclass(frozen=True, slots=True)
class Polls:
    """How often the cache is asked for one answer, and the seconds between."""

    count: int = 3
    delay: float = 3.0


class Verifier:
    """One for a worker."""

    def __init__(
        self,
        cache: Cache,
        prober: Prober,
        *,
        log: FilteringBoundLogger,
        options: VerifierOptions = VerifierOptions(),
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.cache, self.prober = cache, prober
        self._log, self._options, self._pause = log, options, pause
        self._probing: dict[str, asyncio.Task[None]] = {}

    async def verify(self, address: bytes, polls: Polls) -> Entry:
        """What is known of an address within the polls.  Raises StoreDown."""
        key = _key(address)
        started = False
        for number in range(max(polls.count, 1)):
            asked = await self.cache.ask(key)
            if asked.probe and not started:
                # Without negative cache the same would be due at every poll.
                started = True
                await self._start(key, address)
            if asked.answer.status is not Status.UNKNOWN or number + 1 >= polls.count:
                return asked.answer
            await self._wait(key, polls.delay)
        raise AssertionError  # the last round returns

    async def _wait(self, key: str, delay: float) -> None:
        """For a probe of ours until it ends, for one of another worker all of the time."""
        ours = self._probing.get(key)
        pause = asyncio.ensure_future(self._pause(delay))
        try:
            waits = {pause} if ours is None else {pause, ours}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()

    async def _start(self, key: str, address: bytes) -> None:
        if key in self._probing:
            return
        if len(self._probing) >= self._options.probes:
            self._log.warning("verify", address=key, outcome="no room", probes=len(self._probing))
            await self.cache.give_back(key)
            return
        task = asyncio.ensure_future(self._probe(key, address))
        self._probing[key] = task
        task.add_done_callback(lambda _: self._probing.pop(key, None))

    async def _probe(self, key: str, address: bytes) -> None:
        try:
            async with asyncio.timeout(0.9 * PROBE_TIME):
                found = await self.prober.probe(address)
        except TimeoutError:
            found = Entry(Status.UNREACHABLE, enhanced="4.4.2", text="the probe took too long")
        except Exception as error:  # noqa: BLE001 - our fault: the log tells, and nobody is refused for it
            self._log.error("verify", address=key, outcome="error", exc_info=error)
            found = Entry(Status.DEFERRED, enhanced="4.3.0", text="internal error")
        self._log.info(
            "verify",
            address=key,
            outcome=found.status.value,
            status=found.enhanced,
            reason=found.text,
        )
        try:
            await self.cache.learn(key, found)
        except StoreDown as error:
            self._log.error("verify", address=key, outcome="not kept", reason=str(error))

    async def close(self) -> None:
        """Break off what is under way; the next who asks probes again."""
        probing = dict(self._probing)
        for each in probing.values():
            each.cancel()
        await asyncio.gather(*probing.values(), return_exceptions=True)
        for key in probing:
            with contextlib.suppress(StoreDown):
                await self.cache.give_back(key)
        await self.cache.close()


def _key(address: bytes) -> str:
    """Local parts may differ in case, domains never do."""
    local, at, domain = address.rpartition(b"@")
    return (local + at + domain.lower()).decode("utf-8", "backslashreplace")
