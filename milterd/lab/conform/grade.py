"""Run the checks: several at a time, each with a deadline, and all with one.

A milter that dies, or a part of it, takes the checks of that moment with it, the innocent
too.  So whoever lost a connection beside others is tried again alone, and that counts.
Where the card has started the milter itself, it starts it again for that; otherwise what
is left is not tried.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from milterd.lab.conform.check import (
    Check,
    FailedError,
    NotApplicableError,
    Outcome,
    Result,
)
from milterd.lab.conform.context import Context, Options
from milterd.lab.conform.program import Program
from milterd.lab.link import Fault, MilterError
from milterd.wire.errors import WireError


@dataclass(frozen=True, slots=True)
class Graded:
    """A check and what came of it."""

    check: Check
    result: Result


_DYING = 0.3
"""Seconds from a lost connection to the end of the process that lost it, core and all."""
_DEAD = 0.05
"""Seconds for the system to tell of a process that has ended."""
Report = Callable[[Graded], None]


async def grade(
    address: str,
    checks: Sequence[Check],
    options: Options | None = None,
    report: Report = lambda _: None,
) -> list[Graded]:
    """The card of the milter at `address`, in the checks' order.

    `report` is told of each check as it ends.  Raises MilterError if there is no
    milter at all, ValueError for an address that is none.
    """
    context = Context(address, options or Options())
    grading = _Grading(context, report)
    try:
        await grading.begin()
        await grading.all_of([each for each in checks if not each.last and not each.apart])
        for each in sorted(checks, key=lambda each: each.last):
            if each.last or each.apart:
                await grading.alone(each)
    finally:
        await context.close()
        await grading.end()
    return [Graded(each, grading.results[each.name]) for each in checks]


class _Grading:
    """One card in the making."""

    def __init__(self, context: Context, report: Report) -> None:
        self.results: dict[str, Result] = {}
        self._done: list[Check] = []
        self._context, self._options, self._report = context, context.options, report
        self._ends = asyncio.get_running_loop().time() + self._options.total
        command = self._options.command
        self._program = Program(command, context.answers) if command else None

    async def begin(self) -> None:
        """See that there is a milter."""
        if self._program is not None:
            await self._start(self._program)
        async with self._context.connected():
            pass
        await self._context.judge_alone()

    async def end(self) -> None:
        if self._program is not None:
            await self._program.stop()
            self._program.close()

    async def all_of(self, checks: list[Check]) -> None:
        """Several at a time; those that a death may have spoiled one by one."""
        while checks:
            room, self._done = asyncio.Semaphore(self._options.jobs), []
            await asyncio.gather(*[self._one_of_many(each, room) for each in checks])
            dead = self._program is not None and bool(self._program.death)
            last = self._done[-2 * self._options.jobs :] if dead else []
            for check in list(self._done):
                result = self.results[check.name]
                spoilt = result.lost or (dead and (check in last or _bad(result)))
                if spoilt and (dead or await self._context.answers()):
                    await self.alone(check)
            checks = [each for each in checks if each.name not in self.results]
            await self._revive()

    async def _one_of_many(self, check: Check, room: asyncio.Semaphore) -> None:
        async with room:
            if self._program is not None and self._program.death:
                return  # its turn comes again
            result = await self._result(check)
            await self._death(result, 0.0)
        self._done.append(check)
        self._keep(check, result)

    async def _death(self, result: Result, within: float) -> str:
        """How the milter died, if it did and that can be known; empty if it lives."""
        within = _DYING if result.lost else within
        if self._program is not None:
            return await self._program.died(within)
        await asyncio.sleep(within)
        return ""

    async def alone(self, check: Check) -> None:
        """A check with the milter for itself; if that dies, this was why."""
        await self._revive()
        result = await self._result(check)
        death = await self._death(result, _DEAD)
        if death and not check.last:
            result = Result(Outcome.FAILED, f"the milter's process {death}", result.stage)
        self._keep(check, result)

    def _keep(self, check: Check, result: Result) -> None:
        self.results[check.name] = result
        self._report(Graded(check, result))

    async def _revive(self) -> None:
        if self._program is not None and await self._program.died():
            await self._start(self._program)

    async def _start(self, program: Program) -> None:
        await program.start(self._options.start)
        self._context.pid = program.pid

    async def _result(self, check: Check) -> Result:
        options = self._options
        if asyncio.get_running_loop().time() >= self._ends:
            return Result(Outcome.FAILED, f"not tried: the {options.total:g} s for all are over")
        if not await self._context.answers():
            why = "not tried: nobody listens there any more (--command starts it again)"
            return Result(Outcome.NOT_APPLICABLE, why)
        return await _outcome(check, self._context, self._ends)


def _bad(result: Result) -> bool:
    return result.outcome is not Outcome.PASSED


async def _outcome(check: Check, context: Context, ends: float) -> Result:
    patience = context.options.check * check.weight
    deadline = asyncio.get_running_loop().time() + patience
    try:
        async with asyncio.timeout_at(min(deadline, ends)):
            return Result(Outcome.PASSED, await check.run(context))
    except TimeoutError:
        return Result(Outcome.FAILED, f"silent: the check did not end within {patience:g} s")
    except FailedError as error:
        lost = _lost(error.__context__)
        return Result(Outcome.FAILED, error.seen, error.stage, error.octet, lost)
    except NotApplicableError as error:
        return Result(Outcome.NOT_APPLICABLE, str(error))
    except MilterError as error:
        return Result(Outcome.FAILED, str(error), error.stage, error.octet, _lost(error))
    except WireError as error:
        # An answer led to where the next event may not come.
        return Result(Outcome.FAILED, f"the conversation could not go on: {error.reason}")


def _lost(error: BaseException | None) -> bool:
    return isinstance(error, MilterError) and error.fault is Fault.GONE
