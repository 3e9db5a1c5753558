"""What is counted of each client, as anvil(8) counts it.  Pure: the clock is handed in.

A client has one time window for all its rates.  It begins with the first event after the last
one ended, and at its end all rates are 0 again.  Connections are counted as long as they last,
each for its holder, so that a process that dies leaves none behind.

Bounded: at most `most` clients are known; of those who have no connection, the one not heard of
for the longest time is forgotten first.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

MOST = 100_000
"""Clients that are known at once."""

_SWEEP = 2
"""Old clients that are looked at with each event: more than one, for each event may bring one."""


class Event(Enum):
    """What a client does that has a rate."""

    CONNECTION = "connection"
    MESSAGE = "message"
    RECIPIENT = "recipient"
    NEWTLS = "newtls"
    AUTH = "auth"


_PLACES = {each: at for at, each in enumerate(Event)}
"""Where a client's rates are: a list of its own takes a third of what a dictionary would."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Connections of a client now, and how many it began in this window."""

    count: int
    rate: int


class _Client:
    __slots__ = ("count", "rates", "start")

    def __init__(self, now: float) -> None:
        self.count = 0
        self.begin(now)

    def begin(self, now: float) -> None:
        """A new window."""
        self.start = now
        self.rates = [0] * len(_PLACES)


class Counts:
    """The counts.  `clock` gives seconds that only go forward; `unit` is a window's length in
    seconds and may change.  `ident` is a client, in whatever form; `holder` who it is connected
    to."""

    def __init__(self, clock: Callable[[], float], unit: float, *, most: int = MOST) -> None:
        self.unit = unit
        self._clock, self._most = clock, most
        self._clients: OrderedDict[str, _Client] = OrderedDict()
        self._held: dict[str, Counter[str]] = {}

    def __len__(self) -> int:
        return len(self._clients)

    def connect(self, ident: str, holder: str = "") -> Usage:
        """A connection begins."""
        client = self._client(ident)
        client.count += 1
        self._held.setdefault(holder, Counter())[ident] += 1
        return Usage(client.count, self._raise(client, Event.CONNECTION))

    def disconnect(self, ident: str, holder: str = "") -> None:
        """A connection is over; nothing, if the holder has none of this client."""
        held = self._held.get(holder)
        if held is None or not held[ident]:
            return
        held[ident] -= 1
        if not held[ident]:
            del held[ident]
        client = self._clients.get(ident)
        if client is not None:
            client.count -= 1

    def drop(self, holder: str) -> None:
        """All connections of a holder are over."""
        for ident, number in self._held.pop(holder, Counter()).items():
            self._clients[ident].count -= number

    def add(self, event: Event, ident: str) -> int:
        """It happened once more; how often in this window."""
        return self._raise(self._client(ident), event)

    def rate(self, event: Event, ident: str) -> int:
        """How often it happened in this window, with nothing counted."""
        client = self._clients.get(ident)
        if client is None or self._over(client):
            return 0
        return client.rates[_PLACES[event]]

    def usage(self, ident: str) -> Usage:
        """What there is of a client, with nothing counted."""
        client = self._clients.get(ident)
        return Usage(client.count if client else 0, self.rate(Event.CONNECTION, ident))

    def _client(self, ident: str) -> _Client:
        now = self._clock()
        client = self._clients.get(ident)
        if client is None:
            self._make_room()
            client = self._clients[ident] = _Client(now)
        elif self._over(client):
            client.begin(now)
        self._clients.move_to_end(ident)
        return client

    def _raise(self, client: _Client, event: Event) -> int:
        place = _PLACES[event]
        client.rates[place] += 1
        return client.rates[place]

    def _over(self, client: _Client) -> bool:
        return client.start + self.unit <= self._clock()

    def _make_room(self) -> None:
        """Forget some who are not here and whose window is over; beyond the limit, one who is
        not here, whatever its window.  Those who are here are as many as connections."""
        for _ in range(min(_SWEEP, len(self._clients))):
            ident, client = next(iter(self._clients.items()))
            if client.count:
                self._clients.move_to_end(ident)
            elif self._over(client) or len(self._clients) >= self._most:
                del self._clients[ident]
            else:
                return
