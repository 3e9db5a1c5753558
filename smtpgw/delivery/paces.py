"""Pauses between deliveries: default_destination_rate_delay and default_transport_rate_delay.

Deliveries that have a pause come one at a time, and the next begins no sooner than the pause
after the end of the last (qmgr(8)): for each destination, or for a whole transport.  Whoever
asks the queue for mail asks here first how much there is any use for (:meth:`Paces.room`); of
what comes all the same, since it has other destinations too, a few wait here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    nullcontext,
)
from dataclasses import dataclass, field

from smtpgw.delivery.outcome import Destination

WAITING = 5
"""Deliveries that wait for a turn at once; further ones are put off."""
KNOWN = 1000
"""Names of which is kept whether they have pauses, which does not change."""


class NoTurn(Exception):  # noqa: N818 - the name says what happened
    """So many wait already; the text says for what."""


@dataclass(slots=True)
class _Gate:
    """`free` is when the next delivery may begin."""

    free: float = float("-inf")
    waiting: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class Paces:
    """The pauses in seconds by a transport's name, of each of its destinations and of itself.

    `clock` gives seconds; while a delivery waits it is asked every `poll` seconds at least.
    `freed` is called when a pause is over.
    """

    def __init__(
        self,
        destinations: Callable[[str], float],
        transports: Callable[[str], float],
        *,
        clock: Callable[[], float],
        poll: float,
        freed: Callable[[], None],
    ) -> None:
        self._destinations, self._transports = destinations, transports
        self._clock, self._poll, self._freed = clock, poll, freed
        self._gates: dict[str, _Gate] = {}
        self._paced: dict[str, bool] = {}
        self._alone: dict[str, bool] = {}

    def __len__(self) -> int:
        return len(self._gates)

    def paced(self, name: str) -> bool:
        """Whether deliveries to a destination, or by a transport if there is no colon in the
        name, come one at a time."""
        found = self._paced.get(name)
        if found is None:
            if len(self._paced) >= KNOWN:
                self._paced.clear()
            found = self._paced[name] = self._delay(name) > 0
        return found

    def alone(self, destination: str) -> bool:
        """Whether they do so for either of the two."""
        found = self._alone.get(destination)
        if found is None:
            if len(self._alone) >= KNOWN:
                self._alone.clear()
            transport = destination.partition(":")[0]
            found = self._alone[destination] = self.paced(destination) or self.paced(transport)
        return found

    def paused(self, now: float) -> list[str]:
        """All such destinations and transports; those without a pause or a delivery are
        forgotten."""
        for name, gate in list(self._gates.items()):
            if now >= gate.free and not gate.waiting and not gate.turn.locked():
                del self._gates[name]
        return [name for name, gate in self._gates.items() if now < gate.free]

    def turn(self, destination: Destination) -> AbstractAsyncContextManager[None]:
        """One delivery, when its turn has come.  Raises NoTurn."""
        names = [each for each in (str(destination), destination.name) if self.paced(each)]
        return self._turns(names) if names else nullcontext()

    @asynccontextmanager
    async def _turns(self, names: Sequence[str]) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for name in names:
                await stack.enter_async_context(self._turn(name))
            yield

    def _delay(self, name: str) -> float:
        transport, colon, _ = name.partition(":")
        return self._destinations(transport) if colon else self._transports(transport)

    @asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[None]:
        gate, delay = self._gates.setdefault(name, _Gate()), self._delay(name)
        if gate.waiting >= WAITING:
            raise NoTurn(f"deliveries by {name} have pauses of {delay:g} s, and others wait")
        gate.waiting += 1
        try:
            await gate.turn.acquire()
        finally:
            gate.waiting -= 1
        try:
            while (left := gate.free - self._clock()) > 0:  # noqa: ASYNC110 - a clock tells nobody
                await asyncio.sleep(min(left, self._poll))
            yield
        finally:
            gate.free = self._clock() + delay
            gate.turn.release()
            asyncio.get_running_loop().call_later(delay, self._freed)
