"""The end of an attempt: its outcomes, its DSNs and the next attempt's time, in one transaction.

If a DSN cannot be queued, the recipients it tells of stay deferred.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from structlog.typing import FilteringBoundLogger

from smtpgw import settling
from smtpgw.delivery import router
from smtpgw.delivery.outcome import Destination, Outcome
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
    """One lease at work: outcomes so far, and which of them are committed already."""

    lease: Lease
    outcomes: dict[int, tuple[Destination, Outcome]] = field(default_factory=dict)
    noted: set[int] = field(default_factory=set)
    tried: list[Tried] = field(default_factory=list)


class Ending:
    """Ends a courier's attempts.  `pause` is seconds before a full disk is tried again."""

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
        log: FilteringBoundLogger,
    ) -> None:
        self._store, self._intake, self._reporter = store, intake, reporter
        self._clock, self._schedule, self._chance = clock, schedule, chance
        self._pause, self._stopping, self._log = pause, stopping, log

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
