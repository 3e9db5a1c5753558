"""From the queue to a delivery, and from its outcomes back to the queue.

Every recipient of a mail gets one outcome an attempt.  What is delivered is committed
as soon as it is known; the end of an attempt, its DSNs and the next attempt's time are
one transaction.  If a DSN cannot be queued, the recipients it tells of stay deferred.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from milterd.base.waiting import within
from milterd.core.mail import BytesBody
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
)
from smtpgw.delivery.paces import NoTurn, Paces
from smtpgw.delivery.windows import Windows
from smtpgw.dsn.report import DsnOptions
from smtpgw.ending import Attempt, Ending
from smtpgw.intake import Intake
from smtpgw.queue.clock import QueueClock
from smtpgw.queue.manager import QueueManager
from smtpgw.queue.schedule import Schedule
from smtpgw.queue.store import (
    Content,
    Damaged,
    Lease,
    NotFound,
    QueuedMail,
    QueuedRecipient,
    QueueError,
    Store,
    StoreFailed,
    Wish,
)
from smtpgw.reports import Reporter
from smtpgw.routes import TOGETHER
from smtpgw.shares import Shares

Log = structlog.typing.FilteringBoundLogger
Observe = Callable[[str, str, float], None]
Route = Callable[[bytes, bytes], Awaitable[Destination]]
"""Where mail for a recipient from a sender goes."""
Filter = Callable[[str, bytes, bytes], Awaitable[Destination]]
"""Where a content filter is, for a recipient of mail from a sender."""


@dataclass(frozen=True, slots=True)
class CourierOptions:
    """Limits for each transport's destinations; `routing` is seconds in which tables must say
    where all recipients of a mail go, `pause` those before a full disk is tried again;
    `soft_bounce` keeps mail that would come back, until its lifetime ends (postconf(5))."""

    limits: LimitTable = field(default_factory=LimitTable)
    soft_bounce: bool = False
    routing: float = 300.0
    pause: float = 1.0
    dsn: DsnOptions = field(default_factory=DsnOptions)


class Courier:
    """Takes leases and works on them.  `chance` gives random floats below 1, `token`
    random letters; `filter_of` says where a content filter is; `observe` gets transport, outcome
    and seconds of each delivery."""

    def __init__(
        self,
        *,
        store: Store,
        intake: Intake,
        manager: QueueManager,
        clock: QueueClock,
        schedule: Schedule,
        route: Route,
        deliverers: Mapping[str, Deliverer],
        chance: Callable[[], float],
        token: Callable[[], str],
        log: Log,
        options: CourierOptions | None = None,
        observe: Observe = lambda _transport, _outcome, _seconds: None,
        filter_of: Filter | None = None,
    ) -> None:
        self._store, self._intake, self._manager, self._clock = store, intake, manager, clock
        self._schedule, self._route_of, self._deliverers = schedule, route, deliverers
        self._log, self._observe = log, observe
        self._filter_of = filter_of or _no_filters
        self._options = options or CourierOptions()
        self._reporter = Reporter(
            intake, clock=clock, schedule=schedule, token=token, log=log, options=self._options.dsn
        )
        self._limits = self._options.limits
        self._windows = Windows(options_of=lambda name: self._limits.of(name).windows)
        self._paces = Paces(
            lambda name: self._limits.of(name).destination_rate_delay,
            lambda name: self._limits.of(name).transport_rate_delay,
            clock=clock.now,
            poll=manager.options.poll,
            freed=manager.freed,
        )
        self._ending = Ending(
            store,
            intake,
            reporter=self._reporter,
            clock=clock,
            schedule=schedule,
            chance=chance,
            pause=self._options.pause,
            stopping=lambda: manager.stopping,
            log=log,
        )
        self._shares = Shares(
            self._windows,
            schedule.options,
            manager.options.qmgr_message_active_limit,
            self._paces,
            {*deliverers, *self._limits.services},
        )
        self._active: set[asyncio.Task[None]] = set()
        self._settling: set[asyncio.Task[None]] = set()
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        self._closed = False

    @property
    def active(self) -> int:
        """Mails in delivery."""
        return len(self._active)

    async def run(self) -> None:
        """Deliver until :meth:`drain`.  Raises StoreFailed: outcomes could not be kept."""
        while not self._manager.stopping:
            started = await self._start_due()
            if started is None:
                await asyncio.sleep(self._options.pause)
            elif not started and self._active:
                await asyncio.wait(self._active, return_when=asyncio.FIRST_COMPLETED)

    async def _start_due(self) -> int | None:
        """Begin an attempt for each mail that is due; how many, None if the queue cannot say."""
        self._at_rest.clear()
        try:
            leases = await self._manager.next(len(self._active), self._wish)
            if self._closed:
                return 0  # the queue was too slow: these are due again at the next start
            for lease in leases:
                self._start(lease)
            return len(leases)
        except StoreFailed:
            raise
        except QueueError as error:
            self._log.error("queue.lease", outcome="error", reason=str(error))
            return None
        finally:
            self._at_rest.set()

    def _wish(self, now: float) -> Wish:
        if self._manager.take_flushed():
            self._windows.forget()
        self._windows.tidy(now)
        return self._shares.wish(now, len(self._active))

    def _start(self, lease: Lease) -> None:
        task = asyncio.ensure_future(self._attempt(lease))
        self._active.add(task)
        site = lease.mail.site
        self._shares.begin(site)
        task.add_done_callback(functools.partial(self._finished, site))

    def _finished(self, site: str, task: asyncio.Task[None]) -> None:
        self._active.discard(task)
        self._shares.end(site)
        self._manager.freed()
        if not task.cancelled() and task.exception() is not None:
            self._log.error("queue.attempt", outcome="error", exc_info=task.exception())

    async def drain(self, deadline: float) -> int:
        """Start nothing new, wait `deadline` seconds for what is under way, then break it off.

        What was broken off is due at the next start; how many mails that is.  Outcomes
        that are known are committed in any case.
        """
        self._manager.stop()
        end = self._clock.now() + deadline
        # What is being leased now is ours: its attempt begins, and is waited for.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                await self._at_rest.wait()
        self._closed = True
        if self._active:
            await asyncio.wait(self._active, timeout=max(end - self._clock.now(), 0.0))
        broken = list(self._active)
        for each in broken:
            each.cancel()
        await asyncio.gather(*broken, *self._settling, return_exceptions=True)
        for deliverer in self._deliverers.values():
            await deliverer.close()
        return len(broken)

    async def _attempt(self, lease: Lease) -> None:
        queue_id = lease.mail.queue_id
        try:
            content = await self._store.content(queue_id)
        except Damaged as error:
            self._log.error("queue.corrupt", queue_id=queue_id, reason=str(error))
            await self._store.set_aside(queue_id, str(error))
            return
        except NotFound:
            return  # deleted since it was leased
        except QueueError as error:
            self._log.error("queue.read", queue_id=queue_id, reason=str(error))
            content, trouble = Content(b"", BytesBody(b"")), str(error)
        else:
            trouble = ""
        attempt = Attempt(lease)
        if trouble:
            await self._put_off(attempt, trouble)
        elif lease.mail.doomed:
            self._doom(attempt)
        else:
            await self._try(attempt, content)
        settling = asyncio.ensure_future(self._ending.commit(attempt, content))
        self._settling.add(settling)
        settling.add_done_callback(self._settling.discard)
        await asyncio.shield(settling)

    async def _put_off(self, attempt: Attempt, reason: str) -> None:
        """Every open recipient is deferred: the mail cannot be read now."""
        mail = attempt.lease.mail
        text = f"the queue cannot be read: {reason}"
        ways = await self._ways(mail)
        for each in mail.open:
            outcome = Deferred(each.number, text, "", "4.3.0")
            self._ended(attempt, (each,), ways[each.number], outcome)

    def _doom(self, attempt: Attempt) -> None:
        """Every open recipient is bounced: the postmaster wants it so."""
        mail = attempt.lease.mail
        for each in mail.open:
            outcome = failed(each.number, mail.doomed)
            self._ended(attempt, (each,), Destination("error"), outcome)

    async def _try(self, attempt: Attempt, content: Content) -> None:
        mail = attempt.lease.mail
        ways = await self._ways(mail)
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

    async def _ways(self, mail: QueuedMail) -> dict[int, Destination]:
        """Where each recipient that is left goes now; whom slow tables leave over waits.  Tables
        in memory answer without a pause, so others get their turn between some recipients."""
        limit = self._options.routing
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
        if address.lower() == self._reporter.double_bounce.lower():
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
        outcomes = await self._deliver(destination, job)
        took = self._clock.now() - began
        for each in outcomes:
            self._ended(attempt, recipients, destination, each, took)
        attempt.tried += settling.tried(destination, outcomes, self._clock.wall(), took)
        if not alone:
            await self._note(attempt, destination, outcomes)

    async def _deliver(self, destination: Destination, job: Job) -> Sequence[Outcome]:
        name = str(destination)
        try:
            step = self._in_turn(destination, name, job)
            return await within(self._manager.options.lease_time, step)
        except TimeoutError:
            return _all_deferred(job, "delivery took longer than its lease", "4.4.2")
        except NoTurn as wait:
            return _all_deferred(job, str(wait), "4.4.5")
        except Exception as error:  # noqa: BLE001 - our fault, so the mail waits and the log tells
            self._log.error("delivery", queue_id=job.queue_id, outcome="error", exc_info=error)
            return _all_deferred(job, "internal error", "4.3.0")

    async def _in_turn(self, destination: Destination, name: str, job: Job) -> Sequence[Outcome]:
        async with self._paces.turn(destination), self._windows.slot(name):
            avoid = self._windows.avoid(name, self._clock.now())
            if avoid is not None:
                return _all_deferred(job, avoid, "4.4.1")
            outcomes = await self._deliverers[destination.transport].deliver(destination, job)
            await self._learn(name, outcomes)
            return [*map(settling.spare, outcomes)] if self._options.soft_bounce else outcomes

    async def _learn(self, name: str, outcomes: Sequence[Outcome]) -> None:
        """Let a destination have more or less at once, or leave it alone."""
        first = outcomes[0] if outcomes else None
        if not (isinstance(first, Deferred) and first.unreachable):
            self._windows.answered(name)
            self._shares.answered(name, self._clock.now())
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
        recipients: Sequence[QueuedRecipient],
        destination: Destination,
        outcome: Outcome,
        took: float = 0.0,
    ) -> None:
        """Keep the outcome of one of these, and tell the log of it."""
        attempt.outcomes[outcome.number] = (destination, outcome)
        address = next(each.address for each in recipients if each.number == outcome.number)
        name = type(outcome).__name__.lower()
        self._observe(destination.transport, name, took)
        log = self._log.bind(tls=outcome.tls) if outcome.tls else self._log
        log.info(
            "delivery",
            queue_id=attempt.lease.mail.queue_id,
            recipient=address.decode("utf-8", "backslashreplace"),
            destination=str(destination),
            outcome=name,
            status=outcome.enhanced,
            reason=outcome.text,
            seconds=round(took, 3),
        )


async def _no_filters(name: str, _address: bytes, _sender: bytes) -> Destination:
    return Destination("retry", f"4.3.5 no content filter is called {name!a}")


def _all_deferred(job: Job, text: str, enhanced: str) -> list[Outcome]:
    return [Deferred(each.number, text, "", enhanced) for each in job.targets]
