"""Run the checks: several at a time, each with a deadline, and all with one.

A milter that dies takes the checks of that moment with it, the innocent too.  Where the
card has started it itself, these are tried again one by one, on a milter that is started
anew, so that the one to blame is found; otherwise what is left is not tried.
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
from milterd.lab.link import MilterError
from milterd.wire.errors import WireError


@dataclass(frozen=True, slots=True)
class Graded:
    """A check and what came of it."""

    check: Check
    result: Result


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
        """Several at a time; those that a death has spoiled one by one."""
        while checks:
            room = asyncio.Semaphore(self._options.jobs)
            found = await asyncio.gather(*[self._one_of_many(each, room) for each in checks])
            if self._program is None or not self._program.death:
                return
            suspects = [each for each, result in zip(checks, found, strict=True) if _bad(result)]
            checks = [each for each, result in zip(checks, found, strict=True) if result is None]
            for each in suspects:
                await self.alone(each)
            await self._revive()

    async def _one_of_many(self, check: Check, room: asyncio.Semaphore) -> Result | None:
        async with room:
            if self._program is not None and self._program.death:
                return None
            result = await self._result(check)
            if self._program is not None:
                await self._program.died()
        self._keep(check, result)
        return result

    async def alone(self, check: Check) -> None:
        """A check with the milter for itself; if that dies, this was why."""
        await self._revive()
        result = await self._result(check)
        if self._program is not None and not check.last and (death := await self._program.died()):
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


def _bad(result: Result | None) -> bool:
    return result is not None and result.outcome is not Outcome.PASSED


async def _outcome(check: Check, context: Context, ends: float) -> Result:
    patience = context.options.check * check.weight
    deadline = asyncio.get_running_loop().time() + patience
    try:
        async with asyncio.timeout_at(min(deadline, ends)):
            return Result(Outcome.PASSED, await check.run(context))
    except TimeoutError:
        return Result(Outcome.FAILED, f"silent: the check did not end within {patience:g} s")
    except FailedError as error:
        return Result(Outcome.FAILED, error.seen, error.stage, error.octet)
    except NotApplicableError as error:
        return Result(Outcome.NOT_APPLICABLE, str(error))
    except MilterError as error:
        return Result(Outcome.FAILED, str(error), error.stage, error.octet)
    except WireError as error:
        # An answer led to where the next event may not come.
        return Result(Outcome.FAILED, f"the conversation could not go on: {error.reason}")
