"""The quarantine at work in one shard: releases what commands have marked, deletes what expires.

A release ends in one transaction, by which the entry goes and what became of the mail is there:
mails in the queue, or an entry for what else was found.  Whatever breaks off before that, begins
again.  Milters that cannot answer now are asked later, at growing intervals; after too many tries
the mail is back in the quarantine, with the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from structlog.typing import FilteringBoundLogger

from milterd.core.decision import Reason, Verdict
from milterd.core.finding import Found
from milterd.core.mail import FileBody, Mail
from smtpgw import acting
from smtpgw.chain.results import ChainResult
from smtpgw.intake import Intake
from smtpgw.quarantine import entry
from smtpgw.quarantine.again import Again
from smtpgw.queue import quarantine
from smtpgw.queue.batch import Batch
from smtpgw.queue.caught import Caught
from smtpgw.queue.clock import QueueClock
from smtpgw.queue.codec import Prepared
from smtpgw.queue.sqlite import SqliteStore
from smtpgw.queue.states import IllegalMove, MailState
from smtpgw.queue.store import Content, Damaged, NewMail, NotFound, QueuedMail, QueueError

T = TypeVar("T")
LOOK_EVERY = 1.0
AT_ONCE = 8
"""Releases on their way at the same time."""
EXPIRED_AT_ONCE = 200
FIRST_PAUSE, LONGEST_PAUSE = 5.0, 3600.0
"""Seconds until milters that could not answer are asked again; doubled each time."""
MOST_TRIES = 48
"""About two days of them."""
AWAIT_PAUSE = 300.0
"""The longest pause for a mail that nobody has looked into yet."""
AWAIT_TRIES = 576
"""About two days of them."""


@dataclass(frozen=True, slots=True)
class KeeperOptions:
    """`lifetime`: seconds that a new entry has.  The others are for tests."""

    lifetime: float
    look_every: float = LOOK_EVERY
    first_pause: float = FIRST_PAUSE


Count = Callable[[str, int], None]
"""Told what became of how many mails."""


class Keeper:
    """See the module's contract.  Use :meth:`run`; cancelling it loses nothing."""

    def __init__(
        self,
        store: SqliteStore,
        intake: Intake,
        clock: QueueClock,
        again: Again,
        options: KeeperOptions,
        log: FilteringBoundLogger,
        count: Count,
    ) -> None:
        self._store, self._intake, self._clock = store, intake, clock
        self._again, self._options, self._log, self._count = again, options, log, count
        self._some_late = True
        """Whether mails that await a milter may be due later than now."""

    async def run(self) -> None:
        """Look again and again, until cancelled.  Raises what no queue should raise."""
        while True:
            try:
                more = await self.look()
            except QueueError as error:
                self._log.error("quarantine", outcome="failed", reason=str(error))
                more = False
            if not more:
                await asyncio.sleep(self._options.look_every)

    async def look(self) -> bool:
        """Do what is due now; whether there may be more at once."""
        now = self._clock.now()
        some = functools.partial(quarantine.expired, now=now, limit=EXPIRED_AT_ONCE)
        late = await self._store.ask(some)
        if late:
            await self._expire(late)
        due = functools.partial(quarantine.wanted, now=now, limit=AT_ONCE)
        wanted = await self._store.ask(due)
        # All end before the next look: it would find those under way again, and ask for them twice.
        ends = await asyncio.gather(*map(self._release, wanted), return_exceptions=True)
        for each in ends:
            if isinstance(each, BaseException):
                raise each
        return len(late) == EXPIRED_AT_ONCE or len(wanted) == AT_ONCE

    async def _expire(self, late: Sequence[QueuedMail]) -> None:
        damaged = [each for each in late if each.state is MailState.CORRUPT]
        for each in damaged:
            await self._set_aside(each.queue_id, each.note)
        ids = [each.queue_id for each in late if each not in damaged]
        gone = set(await self._change(lambda batch: quarantine.expire(batch, ids)))
        for each in late:
            if each.queue_id in gone:
                self._tell(each, "expired")
        self._count("expired", len(gone))

    async def _release(self, queued: QueuedMail) -> None:
        try:
            await self._try(queued)
        except (NotFound, IllegalMove):  # deleted meanwhile
            self._tell(queued, "deleted")
        except Damaged as error:
            await self._set_aside(queued.queue_id, str(error))
        except QueueError as error:
            await self._later(queued, str(error))
        except Exception as error:  # noqa: BLE001 - our fault, so the mail waits and the log tells
            self._log.error("quarantine", queue_id=queued.queue_id, outcome="error", exc_info=error)
            await self._later(queued, "internal error")

    async def _try(self, queued: QueuedMail) -> None:
        if queued.caught is None:
            raise Damaged(queued.note or "entry cannot be read")
        passing = entry.passing(queued.caught, released=not _awaits(queued))
        async with _opened(await self._store.content(queued.queue_id)) as content:
            mail = entry.mail_of(queued, queued.caught, content)
            result = await self._again.ask(
                mail,
                queued.queue_id,
                listener=queued.caught.listener,
                macros=queued.caught.macros,
                passing=passing,
            )
            unseen = [each.text for each in result.found if each.awaited]
            if unseen and _awaits(queued):
                await self._later(queued, "; ".join(unseen))
            elif result.found:
                await self._caught_again(queued, queued.caught, mail, result, passing)
            elif result.verdict in (Verdict.TEMPFAIL, Verdict.REJECT):
                # A milter that failed has found nothing, whatever its default action says.
                await self._later(queued, str(result.reply or "a milter cannot answer"))
            else:
                await self._pass(queued, queued.caught, result)

    async def _pass(self, queued: QueuedMail, caught: Caught, result: ChainResult) -> None:
        """Into the queue, or nowhere if the milters have taken every recipient away."""
        actions = entry.actions(caught)
        hold = actions.hold or (result.quarantine or b"").decode("ascii", "backslashreplace")
        mails: tuple[NewMail, ...] = ()
        if result.verdict is not Verdict.DISCARD:
            mails = await self._intake.made(
                acting.addressed(result.mail, actions),
                queue_id=self._intake.new_id(),
                decision=(*queued.reasons, _released(queued, caught), *result.reasons),
                hold=hold or None,
                filtered=acting.filtered(actions),
            )
        mails = tuple(replace(each, arrived=queued.arrived) for each in mails)
        await _to_its_end(self._let_go(queued, mails))

    async def _let_go(self, queued: QueuedMail, mails: Sequence[NewMail]) -> None:
        await self._end(queued, mails)
        self._intake.wake()
        outcome = "released" if mails else "discarded"
        self._tell(queued, outcome, queued_as=[each.queue_id for each in mails])
        self._count(outcome, 1)

    async def _caught_again(
        self,
        queued: QueuedMail,
        caught: Caught,
        mail: Mail,
        result: ChainResult,
        passing: Sequence[Found],
    ) -> None:
        """What else was found keeps the mail as it came, in an entry of its own."""
        new = self._intake.prepare(
            mail,
            queue_id=self._intake.new_id(),
            decision=(*queued.reasons, _released(queued, caught), *result.reasons),
        )
        entry_now = entry.again(
            caught, queued.queue_id, result.found, self._options.lifetime, passed=passing
        )
        kept = replace(new, arrived=queued.arrived, caught=entry_now)
        await _to_its_end(self._keep_again(queued, kept, result))

    async def _keep_again(self, queued: QueuedMail, new: NewMail, result: ChainResult) -> None:
        await self._end(queued, (new,))
        self._tell(
            queued, "caught again", entry=new.queue_id, found=[each.text for each in result.found]
        )
        self._count("caught again", 1)

    async def _end(self, queued: QueuedMail, mails: Sequence[NewMail]) -> None:
        def change(batch: Batch, follow: Sequence[Prepared]) -> None:
            quarantine.passed(batch, queued.queue_id, follow)
            if hasten:
                quarantine.hasten(batch, now)

        now, hasten = self._clock.now(), self._some_late and _awaits(queued)
        if hasten:
            self._some_late = False  # not for each of thousands: they are all due by then
        await self._store.change(change, *mails)

    async def _later(self, queued: QueuedMail, why: str) -> None:
        """Try again, unless it was tried for too long."""
        queue_id, tries = queued.queue_id, queued.attempts
        most, longest = (
            (AWAIT_TRIES, AWAIT_PAUSE) if _awaits(queued) else (MOST_TRIES, LONGEST_PAUSE)
        )
        if tries + 1 >= most:
            note = f"could not be {'judged' if _awaits(queued) else 'released'}: {why}"
            with contextlib.suppress(NotFound, IllegalMove):  # deleted meanwhile
                await self._change(lambda batch: quarantine.give_up(batch, queue_id, note))
            self._tell(queued, "not released", reason=why)
            return
        pause = min(self._options.first_pause * 2.0 ** min(tries, 20), longest)
        due = self._clock.now() + pause
        self._some_late = True
        note = f"{'awaits a milter' if _awaits(queued) else 'release waits'}: {why}"
        with contextlib.suppress(NotFound, IllegalMove):  # deleted meanwhile
            await self._change(lambda batch: quarantine.put_off(batch, queue_id, due, note))
        self._tell(queued, "put off", reason=why, seconds=round(pause))

    async def _set_aside(self, queue_id: str, why: str) -> None:
        """Where it is listed and harms nobody."""
        with contextlib.suppress(NotFound, IllegalMove):
            await self._store.set_aside(queue_id, why)
        self._log.error("quarantine", queue_id=queue_id, outcome="corrupt", reason=why)

    async def _change(self, change: Callable[[Batch], T]) -> T:
        return await self._store.change(lambda batch, _: change(batch))

    def _tell(self, queued: QueuedMail, outcome: str, **facts: object) -> None:
        found = queued.caught.findings if queued.caught is not None else ()
        self._log.info(
            "quarantine",
            queue_id=queued.queue_id,
            outcome=outcome,
            findings=[f"{each.milter}: {each.text}" for each in found],
            sender=queued.sender,
            recipients=[each.address for each in queued.recipients],
            **facts,
        )


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """What is being committed is told of, though the keeper is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise


def _awaits(queued: QueuedMail) -> bool:
    """Whether it is to be judged, and not let pass in spite of what was found."""
    return queued.state is MailState.AWAITING


def _released(queued: QueuedMail, caught: Caught) -> Reason:
    said = "; ".join(f"{each.milter}: {each.text}" for each in caught.findings)
    word = "asked again" if _awaits(queued) else "released"
    return Reason("quarantine", word, {"entry": queued.queue_id, "findings": said})


@contextlib.asynccontextmanager
async def _opened(content: Content) -> AsyncIterator[Content]:
    """The content, and its file closed behind it."""
    try:
        yield content
    finally:
        if isinstance(content.body, FileBody):
            content.body.file.close()
