"""How many mails of each destination may be in delivery or wait for it, the queue's leases.

A destination gets some mails more than it takes at once, so that the next one is at hand
when one is done.  The more of what may be active is used, the less that is, and those that
did not answer lately give way first: hosts that never answer, however many, leave room for
those that do.  What has to wait between two deliveries gets one, and none during the pause.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from smtpgw.delivery.paces import Paces
from smtpgw.delivery.windows import Windows
from smtpgw.queue.schedule import ScheduleOptions
from smtpgw.queue.store import Wish

AHEAD = 5.0
"""How many times a destination's window is leased, so that its deliveries never wait for the
queue's next commit."""
SOME = 2.0
"""The same for one that answers, when most of what may be active is used."""
LATELY = 60.0
"""Seconds for which a destination counts as one that answers."""
KNOWN = 200
"""Destinations that are remembered as such."""
LOOK = 1.0
"""Seconds between two looks for mails that are overdue, whatever their destination does."""

_NEVER = float("-inf")


def _service(site: str) -> str:
    return site.partition(":")[0]


class Shares:
    """The shares of one courier; `limit` mails are active at most.  Times are queue time.

    `services` are the names of all transports.
    """

    def __init__(
        self,
        windows: Windows,
        schedule: ScheduleOptions,
        limit: int,
        paces: Paces | None = None,
        services: Iterable[str] = (),
    ) -> None:
        self._windows, self._schedule, self._limit = windows, schedule, limit
        self._paces, self._services = paces, tuple(services)
        self._leased: Counter[str] = Counter()
        self._answered: dict[str, float] = {}
        self._next_look = _NEVER

    def begin(self, site: str) -> None:
        """A mail that waits for this destination alone is leased."""
        if site:
            self._leased[site] += 1

    def end(self, site: str) -> None:
        """Its attempt is over."""
        if site:
            left = self._leased[site] - 1
            if left:
                self._leased[site] = left
            else:
                del self._leased[site]

    def admits(self, site: str, now: float) -> bool:
        """Whether one more mail for it may be leased at once, no older one being due."""
        if not site:
            return True
        if self._paces is not None and self._paces.alone(site):
            return False
        return self._leased[site] < int(AHEAD * self._windows.size(site, now))

    def answered(self, site: str, now: float) -> None:
        """It got through to somebody."""
        self._answered.pop(site, None)
        self._answered[site] = now
        if len(self._answered) > KNOWN:
            del self._answered[next(iter(self._answered))]

    def silent(self, site: str) -> None:
        """It did not."""
        self._answered.pop(site, None)

    def wish(self, now: float, active: int) -> Wish:
        """What can be used while so many mails are active; nothing for destinations at rest."""
        used = active / self._limit
        few, more = (AHEAD, AHEAD) if used < 1 / 2 else (1.0, AHEAD) if used < 3 / 4 else (0, SOME)
        alive = self._alive(now) if few != more else frozenset()
        room = {
            site: self._size(site, now, more if site in alive else few) - self._leased[site]
            for site in {*self._leased, *alive}
        }
        room |= dict.fromkeys(self._windows.resting(now), 0)
        each = {name: self._first(name, few) for name in self._services}
        together: dict[str, int] = {}
        for name in self._services:
            if self._paced(name):
                leased = (n for site, n in self._leased.items() if _service(site) == name)
                together[name] = 1 - sum(leased)
        for name in self._paces.paused(now) if self._paces is not None else ():
            (room if ":" in name else together)[name] = 0
        expired, expired_null, late = self._overdue(now)
        return Wish(
            each=self._first("", few),
            room=room,
            each_of=each,
            together=together,
            expired=expired,
            expired_null=expired_null,
            late=late,
        )

    def _size(self, site: str, now: float, ahead: float) -> int:
        return 1 if self._paced(site) else max(int(ahead * self._windows.size(site, now)), 1)

    def _first(self, service: str, ahead: float) -> int:
        """For a site of which nothing is known."""
        site = f"{service}:"
        return 1 if self._paced(site) else max(int(ahead * self._windows.start(site)), 1)

    def _paced(self, name: str) -> bool:
        return self._paces is not None and self._paces.paced(name)

    def _alive(self, now: float) -> frozenset[str]:
        """Those that answered lately."""
        return frozenset(site for site, at in self._answered.items() if now - at < LATELY)

    def _overdue(self, now: float) -> tuple[float, float, float]:
        """Born before when a mail is expired, one of the null sender is, one is late.

        Each look may pass by many that are late and wait for their next attempt, so it is
        not for every lease.
        """
        if now < self._next_look:
            return _NEVER, _NEVER, _NEVER
        self._next_look = now + LOOK
        late = self._schedule.delay_warning_time
        return (
            now - self._schedule.maximal_queue_lifetime,
            now - self._schedule.bounce_queue_lifetime,
            now - late if late > 0 else _NEVER,
        )
