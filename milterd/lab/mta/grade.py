"""Run the checks against an MTA: several at a time, all within one deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from milterd.lab import server, sink
from milterd.lab.conform.check import Check, FailedError, NotApplicableError, Outcome, Result
from milterd.lab.conform.grade import Graded
from milterd.lab.mta import edits, envelope, events, faults, negotiation, replies, shown
from milterd.lab.mta.check import Ground, MtaError, Site, Trial
from milterd.lab.mta.smtp import SilentError

CHECKS: tuple[Check, ...] = (
    *negotiation.CHECKS,
    *events.CHECKS,
    *shown.CHECKS,
    *replies.CHECKS,
    *edits.CHECKS,
    *envelope.CHECKS,
    *faults.CHECKS,
)
"""Every check, in the order of the card."""


@dataclass(frozen=True, slots=True)
class Options:
    """`listen` is where the milter listens, `sink` where the MTA delivers (None: nowhere);
    `jobs` checks run at a time; `total` seconds bound them all."""

    listen: str
    sink: str | None = None
    jobs: int = 8
    total: float = 1800.0


async def grade(
    site: Site,
    options: Options,
    checks: Sequence[Check] = CHECKS,
    report: Callable[[Graded], None] = lambda _: None,
) -> list[Graded]:
    """The card of the MTA at `site`, in the checks' order.

    `report` is told of each check as it ends.  Raises ValueError for an address
    that is none, sockets.SocketError where nobody can listen, and MtaError where
    one ordinary mail does not make its way.
    """
    async with AsyncExitStack() as stack:
        milter = await stack.enter_async_context(server.serve(options.listen))
        where = options.sink
        taken = await stack.enter_async_context(sink.serve(where)) if where else None
        ground = Ground(site, milter, taken)
        await _prepared(ground, options)
        return await _Run(ground, options, report).all(checks)


async def _prepared(ground: Ground, options: Options) -> None:
    """Raise MtaError unless one mail makes its way past the milter to the sink."""
    site, trial = ground.site, Trial(ground, "first")
    try:
        async with trial.session() as session:
            told = session.greeted
            told = told if told.steps else await session.send()
            asked = session.visit.has_arrived
    except (OSError, SilentError) as error:
        what = getattr(error, "strerror", None) or error
        raise MtaError(f"no SMTP session with {site.smtp}: {what}") from error
    if not asked:
        raise MtaError(f"the MTA did not come to its milter at {options.listen}; it said {told}")
    if not told.taken:
        domain = site.domain.decode("ascii", "replace")
        raise MtaError(f"the MTA does not take mail for {domain} from here: {told}")
    if ground.sink is None:
        return
    try:
        await trial.delivered()
    except FailedError:
        what = f"within {site.delivery:g} s; the MTA has to deliver there"
        raise MtaError(f"a mail did not come to {options.sink} {what}") from None


class _Run:
    def __init__(self, ground: Ground, options: Options, report: Callable[[Graded], None]) -> None:
        self._ground, self._report = ground, report
        self._room = asyncio.Semaphore(options.jobs)
        self._total = options.total
        self._ends = asyncio.get_running_loop().time() + options.total

    async def all(self, checks: Sequence[Check]) -> list[Graded]:
        usual = [each for each in checks if not each.last]
        found = list(await asyncio.gather(*[self._one(each) for each in usual]))
        found += [await self._one(each) for each in checks if each.last]
        order = {each.name: number for number, each in enumerate(checks)}
        return sorted(found, key=lambda each: order[each.check.name])

    async def _one(self, check: Check) -> Graded:
        async with self._room:
            graded = Graded(check, await self._result(check))
        self._report(graded)
        return graded

    async def _result(self, check: Check) -> Result:
        trial = Trial(self._ground, check.name.replace("/", "."))
        try:
            async with asyncio.timeout_at(self._ends):
                return Result(Outcome.PASSED, await check.run(trial))
        except FailedError as error:
            return Result(Outcome.FAILED, error.seen, error.stage, error.octet)
        except NotApplicableError as error:
            return Result(Outcome.NOT_APPLICABLE, str(error))
        except SilentError as error:
            return Result(Outcome.FAILED, f"silent: {error}")
        except TimeoutError:
            limit = f"the {self._total:g} s for all are over, or the MTA kept its milter waiting"
            return Result(Outcome.FAILED, f"not ended: {limit}")
        except OSError as error:
            return Result(Outcome.FAILED, f"no SMTP connection: {error.strerror or error}")
