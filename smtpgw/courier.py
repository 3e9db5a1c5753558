"""From the queue to a delivery, and from its outcomes back to the queue.

Every recipient of a mail gets one outcome an attempt.  What is delivered is committed
as soon as it is known; the end of an attempt, its DSNs and the next attempt's time are
one transaction.  If a DSN cannot be queued, the recipients it tells of stay deferred.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import structlog

from smtpgw import settling
from smtpgw.delivery import router
from smtpgw.delivery.health import Health
from smtpgw.delivery.outcome import (
    Deferred,
    Delivered,
    Deliverer,
    Destination,
    Job,
    Outcome,
    Target,
)
from smtpgw.dsn import DsnOptions
from smtpgw.intake import Intake
from smtpgw.queue.clock import QueueClock
from smtpgw.queue.manager import QueueManager
from smtpgw.queue.schedule import Schedule
from smtpgw.queue.states import IllegalMove, MailState
from smtpgw.queue.store import (
    Content,
    Damaged,
    Lease,
    NotFound,
    QueuedRecipient,
    QueueError,
    Settlement,
    StaleLease,
    Store,
    StoreFailed,
)
from smtpgw.reports import Reporter

Log = structlog.typing.FilteringBoundLogger
Observe = Callable[[str, str, float], None]


@dataclass(frozen=True, slots=True)
class CourierOptions:
    """Limits for each destination, by Postfix's names; `pause` is seconds before a full
    disk is tried again."""

    default_destination_concurrency_limit: int = 20
    default_destination_recipient_limit: int = 50
    failed_cohort_limit: int = 5
    pause: float = 1.0
    dsn: DsnOptions = field(default_factory=DsnOptions)


@dataclass(slots=True)
class _Attempt:
    """One lease at work: outcomes so far, and which of them are committed already."""

    lease: Lease
    outcomes: dict[int, tuple[Destination, Outcome]] = field(default_factory=dict)
    noted: set[int] = field(default_factory=set)


class Courier:
    """Takes leases and works on them.  `chance` gives random floats below 1, `token`
    random letters; `observe` gets transport, outcome and seconds of each delivery."""

    def __init__(
        self,
        *,
        store: Store,
        intake: Intake,
        manager: QueueManager,
        clock: QueueClock,
        schedule: Schedule,
        router: router.Router,
        deliverers: Mapping[str, Deliverer],
        chance: Callable[[], float],
        token: Callable[[], str],
        log: Log,
        options: CourierOptions | None = None,
        observe: Observe = lambda _transport, _outcome, _seconds: None,
    ) -> None:
        self._store, self._intake, self._manager, self._clock = store, intake, manager, clock
        self._schedule, self._router, self._deliverers = schedule, router, deliverers
        self._chance, self._log, self._observe = chance, log, observe
        self._options = options or CourierOptions()
        self._reporter = Reporter(
            intake, clock=clock, schedule=schedule, token=token, log=log, options=self._options.dsn
        )
        self._limits: dict[Destination, asyncio.Semaphore] = {}
        self._health = Health(
            cohort=self._options.failed_cohort_limit, rest=schedule.options.minimal_backoff_time
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
            leases = await self._manager.next(len(self._active))
            if self._manager.take_flushed():
                self._health.forget()
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

    def _start(self, lease: Lease) -> None:
        task = asyncio.ensure_future(self._attempt(lease))
        self._active.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._active.discard(task)
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
        attempt = _Attempt(lease)
        groups = router.group(
            lease.mail.open,
            lambda each: self._router.route(each.address),
            self._options.default_destination_recipient_limit,
        )
        work = [self._group(attempt, content, *each, alone=len(groups) == 1) for each in groups]
        await asyncio.gather(*work)
        settling = asyncio.ensure_future(self._settle(attempt, content))
        self._settling.add(settling)
        settling.add_done_callback(self._settling.discard)
        await asyncio.shield(settling)

    async def _group(
        self,
        attempt: _Attempt,
        content: Content,
        destination: Destination,
        recipients: tuple[QueuedRecipient, ...],
        *,
        alone: bool,
    ) -> None:
        mail = attempt.lease.mail
        targets = tuple(Target(each.number, each.address, each.args) for each in recipients)
        job = Job(
            queue_id=mail.queue_id,
            sender=mail.sender,
            sender_args=mail.sender_args,
            targets=targets,
            head=content.head,
            body=content.body,
            attempt=mail.attempts + 1,
            arrived=mail.arrived,
        )
        began = self._clock.now()
        outcomes = await self._deliver(destination, job)
        for each in outcomes:
            attempt.outcomes[each.number] = (destination, each)
            self._tell(mail.queue_id, recipients, destination, each, self._clock.now() - began)
        if not alone:
            await self._note(attempt, destination, outcomes)

    async def _deliver(self, destination: Destination, job: Job) -> Sequence[Outcome]:
        limit = self._limits.get(destination)
        if limit is None:
            limit = asyncio.Semaphore(self._options.default_destination_concurrency_limit)
            self._limits[destination] = limit
        try:
            async with asyncio.timeout(self._manager.options.lease_time), limit:
                avoid = self._health.avoid(destination, self._clock.now())
                if avoid is not None:
                    return _all_deferred(job, avoid, "4.4.1")
                outcomes = await self._deliverers[destination.transport].deliver(destination, job)
        except TimeoutError:
            return _all_deferred(job, "delivery took longer than its lease", "4.4.2")
        except Exception as error:  # noqa: BLE001 - our fault, so the mail waits and the log tells
            self._log.error("delivery", queue_id=job.queue_id, outcome="error", exc_info=error)
            return _all_deferred(job, "internal error", "4.3.0")
        first = outcomes[0] if outcomes else None
        if isinstance(first, Deferred) and first.unreachable:
            self._health.failed(destination, self._clock.now(), first.text)
        else:
            self._health.answered(destination)
        return outcomes

    async def _note(
        self, attempt: _Attempt, destination: Destination, outcomes: Sequence[Outcome]
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

    def _tell(
        self,
        queue_id: str,
        recipients: Sequence[QueuedRecipient],
        destination: Destination,
        outcome: Outcome,
        took: float,
    ) -> None:
        address = next(each.address for each in recipients if each.number == outcome.number)
        name = type(outcome).__name__.lower()
        self._observe(destination.transport, name, took)
        self._log.info(
            "delivery",
            queue_id=queue_id,
            recipient=address.decode("utf-8", "backslashreplace"),
            destination=str(destination),
            outcome=name,
            status=outcome.enhanced,
            reason=outcome.text,
            seconds=round(took, 3),
        )

    async def _settle(self, attempt: _Attempt, content: Content) -> None:
        """Commit the attempt's end; on a full disk again and again, for the outcomes are true."""
        queue_id = attempt.lease.mail.queue_id
        while True:
            for with_dsn in (True, False):
                try:
                    state = await self._settle_once(attempt, content, with_dsn)
                except (NotFound, StaleLease, IllegalMove) as error:
                    self._log.warning("queue.settle", queue_id=queue_id, reason=str(error))
                    return
                except StoreFailed as error:
                    self._log.error("queue.settle", queue_id=queue_id, reason=str(error))
                    return
                except QueueError as error:
                    self._log.error(
                        "queue.settle", queue_id=queue_id, with_dsn=with_dsn, reason=str(error)
                    )
                except Exception as error:  # noqa: BLE001 - what was delivered must be kept all the same
                    self._log.error(
                        "queue.settle", queue_id=queue_id, with_dsn=with_dsn, exc_info=error
                    )
                else:
                    if state is MailState.DONE:
                        self._log.info("queue.done", queue_id=queue_id, outcome="removed")
                    return
            if self._manager.stopping or self._clock.now() >= attempt.lease.until:
                return  # the lease ends
            await asyncio.sleep(self._options.pause)

    async def _settle_once(self, attempt: _Attempt, content: Content, with_dsn: bool) -> MailState:
        mail, now = attempt.lease.mail, self._clock.now()
        bounce = not mail.sender
        expired = self._schedule.expired(born=mail.born, now=now, bounce=bounce)
        final = {
            number: (where, settling.expire(each) if expired else each)
            for number, (where, each) in attempt.outcomes.items()
        }
        if not with_dsn:
            final = {
                number: (where, settling.spare(each)) for number, (where, each) in final.items()
            }
        waits = any(isinstance(each, Deferred) for _, each in final.values())
        warn = waits and self._schedule.warn(born=mail.born, now=now, warned=mail.warned)
        follow = self._reporter.reports(mail, content, final, warn) if with_dsn else ()
        state = await self._store.settle(
            Settlement(
                queue_id=mail.queue_id,
                token=attempt.lease.token,
                at=now,
                results=tuple(
                    settling.result(where, each)
                    for number, (where, each) in final.items()
                    if number not in attempt.noted
                ),
                due=self._schedule.next_attempt(
                    born=mail.born,
                    now=now,
                    attempts=mail.attempts + 1,
                    chance=self._chance(),
                    bounce=bounce,
                ),
                warned=warn and with_dsn,
                follow=follow,
            )
        )
        if follow:
            self._intake.wake()
        return state


def _all_deferred(job: Job, text: str, enhanced: str) -> list[Outcome]:
    return [Deferred(each.number, text, "", enhanced) for each in job.targets]
