"""What sessions tell each other about their milters: which hang, which messages kill them.

One Health is shared by all sessions of a process.  It keeps two counts, both bounded.
A milter that let several connections in a row time out is not tried for a while, so
that its time-out is not every client's; unless a session of ours leaves it meanwhile,
since one that was full has room then.  A message whose content made a milter drop
the connection again and again is held instead of being refused for ever.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256

from milterd.core.mail import Mail


@dataclass(frozen=True, slots=True)
class HealthOptions:
    """`timeouts` in a row open the breaker for `pause` seconds, then one session probes.

    A message that ended a milter's connection `crashes` times within `memory`
    seconds is poison; at most `messages` of them are remembered.
    """

    timeouts: int = 5
    pause: float = 30.0
    crashes: int = 3
    memory: float = 86_400.0
    messages: int = 1_000


class Health:
    """The counts.  `clock` gives seconds that only grow."""

    def __init__(self, clock: Callable[[], float], options: HealthOptions | None = None) -> None:
        self._clock = clock
        self._options = options or HealthOptions()
        self._timeouts: dict[str, int] = {}
        self._closed_until: dict[str, float] = {}
        self._room: dict[str, int] = {}
        self._crashes: OrderedDict[tuple[str, bytes], tuple[int, float]] = OrderedDict()

    def may_try(self, milter: str) -> bool:
        """Whether to connect now.  Once the pause is over, one caller gets True; before, one for
        each that has left."""
        until = self._closed_until.get(milter)
        if until is None:
            return True
        now = self._clock()
        if now >= until:
            self._closed_until[milter] = now + self._options.pause
            return True
        room = self._room.get(milter, 0)
        if room:
            self._room[milter] = room - 1
        return room > 0

    def left(self, milter: str) -> None:
        """A session that the milter had answered has closed its connection."""
        if milter in self._closed_until:
            self._room[milter] = self._room.get(milter, 0) + 1

    def timed_out(self, milter: str) -> None:
        """A connection or negotiation timed out."""
        count = self._timeouts.get(milter, 0) + 1
        self._timeouts[milter] = count
        self._room.pop(milter, None)  # it was not for lack of that
        if count >= self._options.timeouts:
            self._closed_until[milter] = self._clock() + self._options.pause

    def answered(self, milter: str) -> None:
        """A connection was made, or refused at once: either costs no time."""
        if self._timeouts.pop(milter, None) is not None:  # else it is in none of the others
            self._closed_until.pop(milter, None)
            self._room.pop(milter, None)

    def crashed(self, milter: str, mail: Mail) -> bool:
        """The milter dropped the connection over this mail; whether the mail is poison."""
        key, now = (milter, digest(mail)), self._clock()
        count, since = self._crashes.pop(key, (0, now))
        if now - since > self._options.memory:
            count, since = 0, now
        self._crashes[key] = (count + 1, since)
        while len(self._crashes) > self._options.messages:
            self._crashes.popitem(last=False)
        return count + 1 >= self._options.crashes


def digest(mail: Mail) -> bytes:
    """What stays the same when a client sends a mail again: visible header and body."""
    state = sha256()
    for each in mail.visible():
        state.update(each.raw)
        state.update(b"\r\n")
    state.update(b"\r\n")
    for piece in mail.body.pieces():
        state.update(piece)
    return state.digest()
