"""One attempt: a leased mail to its destinations, and an outcome for each recipient.

A mail goes to several destinations, or in several parts, at once; what is delivered is then
committed while others are still at work.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence

import structlog

from milterd.base.deadlines import Deadlines
from milterd.base.waiting import within
from smtpgw import jobs, settling
from smtpgw.delivery import router
from smtpgw.delivery.fixed import failed
from smtpgw.delivery.limits import LimitTable
from smtpgw.delivery.outcome import (
    Deferred,
    Delivered,
    Deliverer,
    Destination,
    Job,
    Outcome,
    Target,
)
from smtpgw.delivery.paces import NoTurn, Paces
from smtpgw.delivery.pool import Pool
from smtpgw.delivery.windows import Windows
from smtpgw.ending import Attempt
from smtpgw.queue.clock import QueueClock
from smtpgw.queue.store import Content, QueuedMail, QueuedRecipient, QueueError, Store
from smtpgw.routes import TOGETHER
from smtpgw.shares import Shares
from smtpgw.straight import Ended, Known, Result, Run, Straight

_SLOW = 0.1
"""Seconds that tables may take without that being counted against an attempt's lease."""
Log = structlog.typing.FilteringBoundLogger
Observe = Callable[[str, str, float], None]
Route = Callable[[bytes, bytes], Awaitable[Destination]]
"""Where mail for a recipient from a sender goes."""
Filter = Callable[[str, bytes, bytes], Awaitable[Destination]]
"""Where a content filter is, for a recipient of mail from a sender."""


class Attempts:
    """Makes them.  `routing` is seconds in which tables must say where a mail goes, `lease`
    those an attempt may take; `nowhere` is an address whose mail goes nowhere."""

    def __init__(
        self,
        store: Store,
        *,
        clock: QueueClock,
        route: Route,
        filter_of: Filter,
        known: Known,
        deliverers: Mapping[str, Deliverer],
        limits: LimitTable,
        windows: Windows,
        paces: Paces,
        shares: Shares,
        routing: float,
        lease: float,
        soft_bounce: bool,
        nowhere: bytes,
        log: Log,
        observe: Observe,
    ) -> None:
        self._store, self._clock, self._deliverers = store, clock, deliverers
        self._route_of, self._filter_of, self._known = route, filter_of, known
        self._limits, self._windows, self._paces, self._shares = limits, windows, paces, shares
        self._routing, self._soft_bounce = routing, soft_bounce
        self._deadlines, self._nowhere = Deadlines(lease), nowhere.lower()
        self._lease = lease
        self._log, self._observe = log, observe
        self._straight = Straight(
            clock=clock,
            known=known,
            begins={n: each.begin for n, each in deliverers.items() if isinstance(each, Pool)},
            somewhere_else=self._somewhere_else,
            windows=windows,
            paces=paces,
            lease=lease,
            answered=shares.answered,
            came_to=self._came_to,
            log=log,
        )

    def close(self) -> None:
        """No more of them."""
        self._deadlines.close()

    def begin(self, attempt: Attempt, content: Content, ended: Ended) -> Run | None:
        """The same without a task, for a mail that has just come in and is as most are: see
        :meth:`smtpgw.straight.Straight.begin`."""
        return self._straight.begin(attempt, content, ended)

    def _came_to(self, run: Run, result: Result) -> None:
        """Keep the outcome of a run."""
        attempt, took = run.attempt, self._clock.now() - run.began
        mail = attempt.lease.mail
        if isinstance(result, BaseException):
            result = self._excused(result, mail.queue_id, [jobs.target(mail.recipients[0])])
        elif self._soft_bounce:
            result = [*map(settling.spare, result)]
        (outcome,) = result
        self._ended(attempt, mail.recipients[0], run.destination, outcome, took)
        if not isinstance(outcome, Delivered):
            attempt.tried += settling.tried(run.destination, result, self._clock.wall(), took)

    async def make(self, attempt: Attempt, content: Content, *, new: bool) -> None:
        """An outcome for each recipient that is left.  `new`: the mail has just come in, and where
        it goes was found out then."""
        mail = attempt.lease.mail
        if mail.doomed:
            self._doom(attempt)
            return
        there = self._known(mail.site) if new and mail.site else None
        if there is not None and not self._somewhere_else(mail, there):
            await self._group(attempt, content, there, mail.open, alone=True)
            return
        began = asyncio.get_running_loop().time()
        ways = await self._ways(mail)
        if asyncio.get_running_loop().time() - began > _SLOW:
            # A lease is no longer for that: after its end another attempt may begin.
            attempt.until = attempt.until or began + self._lease
        groups = router.group(
            mail.open,
            lambda each: ways[each.number],
            lambda where: self._limits.of(where.name).recipient_limit,
        )
        if len(groups) == 1:
            await self._group(attempt, content, *groups[0], alone=True)
            return
        work = [self._group(attempt, content, *each, alone=False) for each in groups]
        await asyncio.gather(*work)

    def _somewhere_else(self, mail: QueuedMail, there: Destination) -> bool:
        """Whether not all of a new mail's recipients go there, in one delivery."""
        those = mail.recipients
        if len(those) > 1 and len(those) > self._limits.of(there.name).recipient_limit:
            return True
        return self._nowhere in [each.address.lower() for each in those]

    def _doom(self, attempt: Attempt) -> None:
        """Every open recipient is bounced: the postmaster wants it so."""
        mail = attempt.lease.mail
        for each in mail.open:
            outcome = failed(each.number, mail.doomed)
            self._ended(attempt, each, Destination("error"), outcome, 0.0)

    async def put_off(self, attempt: Attempt, reason: str) -> None:
        """Every open recipient is deferred: the mail cannot be read now."""
        mail = attempt.lease.mail
        text = f"the queue cannot be read: {reason}"
        ways = await self._ways(mail)
        for each in mail.open:
            outcome = Deferred(each.number, text, "", "4.3.0")
            self._ended(attempt, each, ways[each.number], outcome, 0.0)

    async def _ways(self, mail: QueuedMail) -> dict[int, Destination]:
        """Where each recipient that is left goes now; whom slow tables leave over waits.  Tables
        in memory answer without a pause, so others get their turn between some recipients."""
        limit = self._routing
        late = Destination("retry", f"4.3.0 tables took more than {limit:g} s for all recipients")
        ways = {each.number: late for each in mail.open}
        with contextlib.suppress(TimeoutError):
            await within(limit, self._find_ways(mail, ways))
        return ways

    async def _find_ways(self, mail: QueuedMail, ways: dict[int, Destination]) -> None:
        for number, each in enumerate(mail.open, 1):
            ways[each.number] = await self._route(each.address, mail)
            if number % TOGETHER == 0:
                await asyncio.sleep(0)

    async def _route(self, address: bytes, mail: QueuedMail) -> Destination:
        """What somebody answers to a notice to the postmaster goes nowhere, as with qmgr(8)."""
        if address.lower() == self._nowhere:
            return Destination("discard", "mail to double_bounce_sender")
        if mail.filtered:
            return await self._filter_of(mail.filtered, address, mail.sender)
        return await self._route_of(address, mail.sender)

    async def _group(
        self,
        attempt: Attempt,
        content: Content,
        destination: Destination,
        recipients: tuple[QueuedRecipient, ...],
        *,
        alone: bool,
    ) -> None:
        job = jobs.job(attempt.lease.mail, content, recipients)
        began = self._clock.now()
        outcomes = await self._deliver(destination, job, attempt.until)
        took = self._clock.now() - began
        those = {each.number: each for each in recipients}
        for each in outcomes:
            self._ended(attempt, those[each.number], destination, each, took)
        if alone and all(isinstance(each, Delivered) for each in outcomes):
            return  # nobody is left to keep a history for
        attempt.tried += settling.tried(destination, outcomes, self._clock.wall(), took)
        if not alone:
            await self._note(attempt, destination, outcomes)

    async def _deliver(
        self, destination: Destination, job: Job, until: float | None
    ) -> Sequence[Outcome]:
        try:
            if until is not None:
                async with asyncio.timeout_at(until):
                    return await self._in_turn(destination, job)
            with self._deadlines.step():
                return await self._in_turn(destination, job)
        except Exception as error:  # noqa: BLE001 - whatever it is, the mail waits
            return self._excused(error, job.queue_id, job.targets)

    def _excused(
        self, error: BaseException, queue_id: str, targets: Sequence[Target]
    ) -> Sequence[Outcome]:
        """Deferrals for a delivery that has come to nothing; the log tells of our own fault."""
        if isinstance(error, TimeoutError):
            return _all_deferred(targets, "delivery took longer than its lease", "4.4.2")
        if isinstance(error, NoTurn):
            return _all_deferred(targets, str(error), "4.4.5")
        self._log.error("delivery", queue_id=queue_id, outcome="error", exc_info=error)
        return _all_deferred(targets, "internal error", "4.3.0")

    async def _in_turn(self, destination: Destination, job: Job) -> Sequence[Outcome]:
        name = str(destination)
        if not (self._paces.paced(name) or self._paces.paced(destination.name)):
            return await self._in_window(destination, name, job)
        async with self._paces.turn(destination):
            return await self._in_window(destination, name, job)

    async def _in_window(self, destination: Destination, name: str, job: Job) -> Sequence[Outcome]:
        windows = self._windows
        window = windows.enter_now(name) or await windows.enter(name)
        try:
            avoid = windows.avoid(name, self._clock.now())
            if avoid is not None:
                return _all_deferred(job.targets, avoid, "4.4.1")
            outcomes = await self._deliverers[destination.transport].deliver(destination, job)
            await self._learn(name, outcomes)
        finally:
            windows.leave(name, window)
        return [*map(settling.spare, outcomes)] if self._soft_bounce else outcomes

    def _answered(self, name: str) -> None:
        self._windows.answered(name)
        self._shares.answered(name, self._clock.now())

    async def _learn(self, name: str, outcomes: Sequence[Outcome]) -> None:
        """Let a destination have more or less at once, or leave it alone."""
        first = outcomes[0] if outcomes else None
        if not (isinstance(first, Deferred) and first.unreachable):
            self._answered(name)
            return
        self._shares.silent(name)
        until = self._windows.failed(name, self._clock.now(), first.text)
        if until is not None:
            self._log.warning("destination", destination=name, outcome="dead", reason=first.text)
            # Without it the mails that wait are leased and put back: slower, not wrong.
            with contextlib.suppress(QueueError):
                await self._store.rest(name, until, first.text)

    async def _note(
        self, attempt: Attempt, destination: Destination, outcomes: Sequence[Outcome]
    ) -> None:
        """Commit deliveries while other groups are still at work."""
        results = [
            settling.result(destination, each) for each in outcomes if isinstance(each, Delivered)
        ]
        if not results:
            return
        lease = attempt.lease
        with contextlib.suppress(QueueError):  # the settlement will try again, and tell
            await self._store.note(lease.mail.queue_id, lease.token, self._clock.now(), results)
            attempt.noted |= {each.number for each in results}

    def _ended(
        self,
        attempt: Attempt,
        recipient: QueuedRecipient,
        destination: Destination,
        outcome: Outcome,
        took: float,
    ) -> None:
        """Keep the outcome of a recipient, and tell the log of it."""
        attempt.outcomes[outcome.number] = (destination, outcome)
        name = settling.NAMES[type(outcome)]
        self._observe(destination.transport, name, took)
        log = self._log.bind(tls=outcome.tls) if outcome.tls else self._log
        log.info(
            "delivery",
            queue_id=attempt.lease.mail.queue_id,
            recipient=recipient.address.decode("utf-8", "backslashreplace"),
            destination=str(destination),
            outcome=name,
            status=outcome.enhanced,
            reason=outcome.text,
            seconds=round(took, 3),
        )


def _all_deferred(targets: Sequence[Target], text: str, enhanced: str) -> list[Outcome]:
    return [Deferred(each.number, text, "", enhanced) for each in targets]
