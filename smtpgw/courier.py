"""From the queue to a delivery, and from its outcomes back to the queue.

Every recipient of a mail gets one outcome an attempt.  What is delivered is committed
as soon as it is known; the end of an attempt, its DSNs and the next attempt's time are
one transaction.  If a DSN cannot be queued, the recipients it tells of stay deferred.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from milterd.core.mail import BytesBody
from smtpgw.attempts import Attempts, Filter, Log, Observe
from smtpgw.attempts import Route as Route
from smtpgw.delivery.limits import LimitTable
from smtpgw.delivery.outcome import Deliverer, Destination
from smtpgw.delivery.paces import Paces
from smtpgw.delivery.windows import Windows
from smtpgw.direct import Direct
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
    QueueError,
    Store,
    StoreFailed,
    Wish,
)
from smtpgw.reports import Reporter
from smtpgw.shares import Shares
from smtpgw.straight import End, Known, Run


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
    and seconds of each delivery.  `direct` is to be the store's taker."""

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
        known: Known = lambda _site: None,
    ) -> None:
        self._store, self._manager, self._clock = store, manager, clock
        self._deliverers, self._log = deliverers, log
        self._options = options or CourierOptions()
        reporter = Reporter(
            intake, clock=clock, schedule=schedule, token=token, log=log, options=self._options.dsn
        )
        limits = self._options.limits
        self._windows = Windows(options_of=lambda name: limits.of(name).windows)
        paces = Paces(
            lambda name: limits.of(name).destination_rate_delay,
            lambda name: limits.of(name).transport_rate_delay,
            clock=clock.now,
            poll=manager.options.poll,
            freed=manager.freed,
        )
        self._less = asyncio.Event()
        self._ending = Ending(
            store,
            intake,
            reporter=reporter,
            clock=clock,
            schedule=schedule,
            chance=chance,
            pause=self._options.pause,
            stopping=lambda: self._last,
            ended=self._less.set,
            roomy=lambda: self.active < manager.options.qmgr_message_active_limit // 2,
            log=log,
        )
        self._shares = Shares(
            self._windows,
            schedule.options,
            manager.options.qmgr_message_active_limit,
            paces,
            {*deliverers, *limits.services},
        )
        self._attempts = Attempts(
            store,
            clock=clock,
            route=route,
            filter_of=filter_of or _no_filters,
            known=known,
            deliverers=deliverers,
            limits=limits,
            windows=self._windows,
            paces=paces,
            shares=self._shares,
            routing=self._options.routing,
            lease=manager.options.lease_time,
            soft_bounce=self._options.soft_bounce,
            nowhere=reporter.double_bounce,
            log=log,
            observe=observe,
        )
        self.direct = Direct(
            manager, self._shares, clock, active=lambda: self.active, begin=self._start
        )
        self._active: dict[asyncio.Task[None] | Run, tuple[Lease, int]] = {}
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        self._closed = self._last = False

    @property
    def active(self) -> int:
        """Mails in delivery or about to be, and those whose outcomes are being committed: what a
        crash may have delivered twice, and so no more than qmgr_message_active_limit."""
        return len(self._active) + self.direct.promised + self._ending.pending

    async def run(self) -> None:
        """Deliver until :meth:`drain`.  Raises StoreFailed: outcomes could not be kept."""
        while not self._manager.stopping:
            started = await self._start_due()
            if started is None:
                await asyncio.sleep(self._options.pause)
            elif not started and self.active:
                self._less.clear()
                await self._less.wait()

    async def _start_due(self) -> int | None:
        """Begin an attempt for each mail that is due; how many, None if the queue cannot say."""
        self._at_rest.clear()
        try:
            leases = await self._manager.next(lambda: self.active, self._wish)
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

    def _start(self, lease: Lease, content: Content | None = None) -> None:
        """Begin an attempt; with its octets, if it is a mail that has just come in."""
        attempt, size = Attempt(lease), 0
        if content is None:
            self._shares.begin(lease.mail.site)
        else:
            size = content.body.size
        if self._closed:  # the queue was too slow
            self._ending.untried(lease)
            self._left(lease, size)
            return
        run = None if content is None else self._attempts.begin(attempt, content, self._ran)
        if run is not None:
            self._active[run] = lease, size
        else:
            self._start_task(attempt, content, size)

    def _start_task(self, attempt: Attempt, content: Content | None, size: int) -> None:
        task = asyncio.get_running_loop().create_task(self._attempt(attempt, content))
        self._active[task] = attempt.lease, size
        task.add_done_callback(self._finished)

    def _ran(self, run: Run, end: End) -> None:
        lease, size = self._active.pop(run)
        if end is End.UNTRIED and not self._closed:
            self._start_task(run.attempt, run.content, size)
            return
        if end is End.SETTLED:
            self._ending.end(run.attempt, run.content)
        elif end is End.UNTRIED:
            self._ending.untried(lease)
        self._left(lease, size)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._left(*self._active.pop(task))
        if not task.cancelled() and task.exception() is not None:
            self._log.error("queue.attempt", outcome="error", exc_info=task.exception())

    def _left(self, lease: Lease, size: int) -> None:
        """An attempt is over."""
        self._shares.end(lease.mail.site)
        self.direct.forget(size)
        self._manager.freed()
        self._less.set()

    def hurry(self) -> None:
        """The process ends: what a full disk does not take is not tried again."""
        self._last = True

    async def drain(self, deadline: float) -> int:
        """Start nothing new, wait `deadline` seconds for what is under way, then break it off.

        What was broken off is due again at once: another may deliver from this queue by other
        settings already.  How many mails that is.  Outcomes that are known are committed in any
        case, on a full disk when it has room, unless :meth:`hurry` is called.
        """
        self._manager.stop()
        end = self._clock.now() + deadline
        # What is being leased now is ours: its attempt begins, and is waited for.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                await self._at_rest.wait()
                await self.direct.at_rest()
        self._closed = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(end - self._clock.now(), 0.0)):
                while self._active:
                    self._less.clear()
                    await self._less.wait()
        broken = dict(self._active)
        for each in broken:
            each.cancel()
        await asyncio.gather(
            *[each for each in broken if isinstance(each, asyncio.Task)], return_exceptions=True
        )
        for lease, _ in broken.values():
            self._ending.untried(lease)
        await self._ending.done()
        self._attempts.close()
        for deliverer in self._deliverers.values():
            await deliverer.close()
        return len(broken)

    async def _attempt(self, attempt: Attempt, content: Content | None) -> None:
        lease, new = attempt.lease, content is not None
        if content is None:
            try:
                content = await self._store.content(lease.mail.queue_id)
            except Damaged as error:
                await self._set_aside(lease, str(error))
                return
            except NotFound:
                return  # deleted since it was leased
            except QueueError as error:
                self._log.error("queue.read", queue_id=lease.mail.queue_id, reason=str(error))
                content = Content(b"", BytesBody(b""))
                await self._attempts.put_off(attempt, str(error))
                self._ending.end(attempt, content)
                return
        await self._attempts.make(attempt, content, new=new)
        self._ending.end(attempt, content)

    async def _set_aside(self, lease: Lease, reason: str) -> None:
        queue_id = lease.mail.queue_id
        self._log.error("queue.corrupt", queue_id=queue_id, reason=reason)
        await self._store.set_aside(queue_id, reason)


async def _no_filters(name: str, _address: bytes, _sender: bytes) -> Destination:
    return Destination("retry", f"4.3.5 no content filter is called {name!a}")
