"""The end of an attempt: its outcomes, its DSNs and the next attempt's time, in one transaction.

If a DSN cannot be queued, the recipients it tells of stay deferred.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from structlog.typing import FilteringBoundLogger

from smtpgw import settling
from smtpgw.delivery import router
from smtpgw.delivery.outcome import Delivered, Destination, Outcome
from smtpgw.intake import Intake
from smtpgw.queue.clock import QueueClock
from smtpgw.queue.schedule import Schedule
from smtpgw.queue.states import IllegalMove, MailState
from smtpgw.queue.store import (
    Content,
    Lease,
    NotFound,
    QueueError,
    Settlement,
    StaleLease,
    Store,
    StoreFailed,
    Tried,
)
from smtpgw.reports import Reporter

PARTS = 50
"""Parts of an attempt that the history keeps."""


@dataclass(slots=True)
class Attempt:
    """One lease at work: outcomes so far, and which of them are committed already.  `until` is
    when it has to end (loop time), if it did not just begin."""

    lease: Lease
    until: float | None = None
    outcomes: dict[int, tuple[Destination, Outcome]] = field(default_factory=dict)
    noted: set[int] = field(default_factory=set)
    tried: list[Tried] = field(default_factory=list)


class Ending:
    """Ends a courier's attempts.  `pause` is seconds before a full disk is tried again; `ended` is
    called whenever fewer are :attr:`pending`; `roomy` says whether others can do without the room
    that those have for a moment."""

    def __init__(
        self,
        store: Store,
        intake: Intake,
        *,
        reporter: Reporter,
        clock: QueueClock,
        schedule: Schedule,
        chance: Callable[[], float],
        pause: float,
        stopping: Callable[[], bool],
        ended: Callable[[], None],
        roomy: Callable[[], bool],
        log: FilteringBoundLogger,
    ) -> None:
        self._store, self._intake, self._reporter = store, intake, reporter
        self._ended, self._roomy = ended, roomy
        self._clock, self._schedule, self._chance = clock, schedule, chance
        self._pause, self._stopping, self._log = pause, stopping, log
        self._delivered: list[tuple[Attempt, Content]] = []
        self._committing = False
        self._at_work: set[asyncio.Task[None]] = set()
        self.pending = 0
        """How many ends are not committed yet."""

    def end(self, attempt: Attempt, content: Content) -> None:
        """Commit an attempt's end, in a while: see :meth:`done`.  Where all were delivered and
        nobody is to hear of it, those of many attempts in one transaction."""
        if self._silent(attempt):
            if not self._delivered:
                asyncio.get_running_loop().call_soon(self._commit_delivered)
            self._delivered.append((attempt, content))
            self.pending += 1
        else:
            self._keep_alone(self.commit(attempt, content))

    def untried(self, lease: Lease) -> None:
        """Nothing was tried, or it was broken off: the mail is due again, in a while."""
        self._keep_alone(self._due_again(lease))

    async def _due_again(self, lease: Lease) -> None:
        mail, now = lease.mail, self._clock.now()
        end = Settlement(mail.queue_id, lease.token, at=now, results=(), due=now, site=mail.site)
        try:
            await self._store.settle(end)
        except (NotFound, StaleLease):
            return  # deleted, or settled before it could be broken off
        except (QueueError, IllegalMove) as error:  # it is due when its lease ends
            self._log.error("queue.settle", queue_id=mail.queue_id, reason=str(error))

    def _silent(self, attempt: Attempt) -> bool:
        """Whether this attempt ends the mail without a word to anybody."""
        mail, outcomes = attempt.lease.mail, attempt.outcomes
        if mail.warned:
            return False
        for _, outcome in outcomes.values():
            if type(outcome) is not Delivered:
                return False
        for each in mail.recipients:
            if (each.args or each.number not in outcomes) and not each.state.settled:
                return False
        return True

    def _keep_alone(self, work: Coroutine[Any, Any, None]) -> None:
        """One end, in a transaction of its own."""
        self.pending += 1
        self._keep(work, 1)

    def _keep(self, work: Coroutine[Any, Any, None], alone: int = 0) -> None:
        task = asyncio.ensure_future(work)
        self._at_work.add(task)
        task.add_done_callback(partial(self._over, alone))

    def _over(self, alone: int, task: asyncio.Task[None]) -> None:
        self.pending -= alone
        self._at_work.discard(task)
        self._ended()

    def _commit_delivered(self) -> None:
        """One transaction at a time: what ends meanwhile goes into the next."""
        if self._delivered and not self._committing:
            those, self._delivered = self._delivered, []
            self._committing = True
            self._keep(self._commit_all(those))

    async def _commit_all(self, those: Sequence[tuple[Attempt, Content]]) -> None:
        now = self._clock.now()
        ends = [
            Settlement(
                each.lease.mail.queue_id, each.lease.token, at=now, results=(), due=now, whole=True
            )
            for each, _ in those
        ]
        found: Sequence[MailState | Exception | None]
        try:
            found = await self._store.settle_all(ends, later=self._roomy())
        except Exception:  # noqa: BLE001 - whatever it is, each is tried alone, and tells
            found = [None] * len(those)
        finally:
            self._committing = False
            self.pending -= len(those)
            self._commit_delivered()
        for (attempt, content), state in zip(those, found, strict=True):
            if state is MailState.DONE:
                queue_id = attempt.lease.mail.queue_id
                self._log.info("queue.done", queue_id=queue_id, outcome="removed")
            else:
                self._keep_alone(self.commit(attempt, content))

    async def done(self) -> None:
        """Wait until all that has ended is committed, or was given up."""
        self._commit_delivered()
        while self._at_work:
            await asyncio.wait(self._at_work)

    async def commit(self, attempt: Attempt, content: Content) -> None:
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
            if self._stopping() or self._clock.now() >= attempt.lease.until:
                return  # the lease ends
            await asyncio.sleep(self._pause)

    async def _settle_once(self, attempt: Attempt, content: Content, with_dsn: bool) -> MailState:
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
        waits, hold = settling.waiting(final.values())
        tell = bool(waits) and hold is None
        warn = tell and self._schedule.warn(born=mail.born, now=now, warned=mail.warned)
        reports = self._reporter.reports(mail, content, final, warn) if with_dsn else ()
        follow = tuple([mail for each in reports for mail in await self._intake.follow(each)])
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
                site=router.site(waits),
                hold=hold,
                tried=tuple(attempt.tried[:PARTS]),
            )
        )
        if follow:
            self._intake.wake()
        return state
