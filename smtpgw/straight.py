"""Attempts without a task, for mail that has just come in and goes by an open connection.

Such a mail has one recipient and one destination, which was found out when it came in.  If the
destination has no room, it stands in its line.  What turns out to need more than that is handed
back untried, for an attempt with a task.
"""

from __future__ import annotations

import asyncio
import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from structlog.typing import FilteringBoundLogger

from smtpgw import jobs
from smtpgw.delivery.dialogue import Stale
from smtpgw.delivery.outcome import Destination, Job, Outcome
from smtpgw.delivery.paces import Paces
from smtpgw.delivery.swift import Done
from smtpgw.delivery.windows import Turn, Window, Windows
from smtpgw.ending import Attempt
from smtpgw.queue.clock import QueueClock
from smtpgw.queue.store import Content, QueuedMail

LANES = 1000
"""Destinations of which it is remembered whether they are for this."""


class Swift(Protocol):
    """A delivery under way that has no task."""

    def cancel(self) -> None:
        """Break it off."""
        ...


class Begin(Protocol):
    """How a transport begins one, if it can: see :meth:`smtpgw.delivery.pool.Pool.begin`."""

    def __call__(
        self, destination: Destination, job: Job, until: float, done: Done, /
    ) -> Swift | None: ...


class End(enum.Enum):
    """How a run ends: the mail has its outcome; nothing was tried, and a task is to; or it was
    broken off, and is due again when its lease ends."""

    SETTLED = enum.auto()
    UNTRIED = enum.auto()
    BROKEN_OFF = enum.auto()


Known = Callable[[str], Destination | None]
"""What a destination's name was just found to stand for, when a mail for it came in."""
Result = Sequence[Outcome] | BaseException


@dataclass(slots=True, eq=False)
class Run:
    """One of them, since `began` (queue time).  `window` is the
    destination's, `turn` its place in the line for that; `ended` is called once, and never before
    it was begun."""

    home: Straight
    attempt: Attempt
    content: Content
    destination: Destination
    begin: Begin
    ended: Ended
    began: float
    window: Window
    turn: Turn | None = None
    swift: Swift | None = None

    def start(self) -> bool:
        """Begin the delivery, in a slot of the window, if there is a way."""
        if self.window.rests(self.began):
            return False
        mail, until = self.attempt.lease.mail, self.attempt.until or math.inf
        try:
            job = jobs.job(mail, self.content, mail.recipients)
            self.swift = self.begin(self.destination, job, until, self.done)
        except Exception as error:  # noqa: BLE001 - ours; a task meets it again, and has an outcome
            self.home.faulty(mail, error)
        return self.swift is not None

    def come(self, turn: Turn) -> None:
        """There is room.  Whoever stood before it in the line began before it and has as long a
        lease, so that it stands there for no longer than its own."""
        if self.turn is None or turn.cancelled():
            return
        self.turn = None
        if asyncio.get_running_loop().time() >= (self.attempt.until or math.inf):
            self.home.late(self)
        elif not self.start():
            self.home.leave(self)
            self.ended(self, End.UNTRIED)

    def cancel(self) -> None:
        """Break it off."""
        if self.swift is not None:
            self.swift.cancel()
        else:
            self.home.give_up(self)
            self.ended(self, End.BROKEN_OFF)

    def done(self, result: Result) -> None:
        """The delivery has come to this."""
        self.home.finish(self, result)


Ended = Callable[[Run, End], None]


class Straight:
    """Begins them.  `lease` is seconds that one may take; `begins` are the transports' ways to do
    so, `somewhere_else` says whether a mail does not all go where its destination says;
    `answered` hears of each destination that spoke, and when, `came_to` of outcomes, or of the
    trouble there was instead."""

    def __init__(
        self,
        *,
        clock: QueueClock,
        known: Known,
        begins: Mapping[str, Begin],
        somewhere_else: Callable[[QueuedMail, Destination], bool],
        windows: Windows,
        paces: Paces,
        lease: float,
        answered: Callable[[str, float], None],
        came_to: Callable[[Run, Result], None],
        log: FilteringBoundLogger,
    ) -> None:
        self._clock, self._known, self._begins = clock, known, begins
        self._somewhere_else = somewhere_else
        self._windows, self._paces = windows, paces
        self._lease = lease
        self._answered, self._came_to, self._log = answered, came_to, log
        self._lanes: dict[str, tuple[Destination, Begin | None]] = {}

    def begin(self, attempt: Attempt, content: Content, ended: Ended) -> Run | None:
        """Begin an attempt, or have it stand in line, if this mail is for it; `ended` is called
        later."""
        mail = attempt.lease.mail
        site = mail.site
        there = self._known(site) if site else None
        if there is None or len(mail.recipients) != 1 or mail.doomed:
            return None
        begin = self._way(site, there)
        if begin is None or self._somewhere_else(mail, there):
            return None
        until = asyncio.get_running_loop().time() + self._lease
        attempt.until = until
        now, window, turn = self._clock.now(), self._windows.enter_now(site), None
        if window is None:
            window, turn = self._windows.line_up(site)
        run = Run(self, attempt, content, there, begin, ended, now, window, turn)
        if turn is not None:
            turn.add_done_callback(run.come)
        elif not run.start():
            self.leave(run)
            return None
        return run

    def _way(self, site: str, there: Destination) -> Begin | None:
        """How its transport begins a delivery there; not where there are pauses between them."""
        lane = self._lanes.get(site)
        if lane is None or lane[0] is not there:
            if len(self._lanes) >= LANES:
                self._lanes.clear()
            paced = self._paces.paced(site) or self._paces.paced(there.name)
            lane = self._lanes[site] = there, None if paced else self._begins.get(there.transport)
        return lane[1]

    def late(self, run: Run) -> None:
        """There was no room for it in time."""
        self.leave(run)
        self._keep(run, TimeoutError())

    def give_up(self, run: Run) -> None:
        """It is not to have room any more."""
        turn, run.turn = run.turn, None
        if turn is not None:
            self._windows.give_up(run.attempt.lease.mail.site, run.window, turn)

    def faulty(self, mail: QueuedMail, error: Exception) -> None:
        """One could not be begun, by a fault of ours."""
        self._log.error("delivery", queue_id=mail.queue_id, outcome="error", exc_info=error)

    def leave(self, run: Run) -> None:
        """Make room for another."""
        self._windows.leave(run.attempt.lease.mail.site, run.window)

    def finish(self, run: Run, result: Result) -> None:
        """The delivery of a run has come to this."""
        if isinstance(result, (Stale, asyncio.CancelledError)):
            self.leave(run)
            run.ended(run, End.UNTRIED if isinstance(result, Stale) else End.BROKEN_OFF)
            return
        if isinstance(result, BaseException):
            self.leave(run)
        else:
            site = run.attempt.lease.mail.site
            self._answered(site, self._clock.now())
            self._windows.through(site, run.window)
        self._keep(run, result)

    def _keep(self, run: Run, result: Result) -> None:
        end = End.SETTLED
        try:
            self._came_to(run, result)
        except Exception as error:  # noqa: BLE001 - whatever it is, the mail is due again
            self._log.error("queue.attempt", outcome="error", exc_info=error)
            end = End.BROKEN_OFF
        run.ended(run, end)
