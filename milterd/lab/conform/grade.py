"""Run the checks: several at a time, each with a deadline, and all with one."""

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
from milterd.lab.link import MilterError
from milterd.wire.errors import WireError


@dataclass(frozen=True, slots=True)
class Graded:
    """A check and what came of it."""

    check: Check
    result: Result


async def grade(
    address: str,
    checks: Sequence[Check],
    options: Options | None = None,
    report: Callable[[Graded], None] = lambda _: None,
) -> list[Graded]:
    """The card of the milter at `address`, in the checks' order.

    `report` is told of each check as it ends.  Raises MilterError if there is no
    milter at all, ValueError for an address that is none.
    """
    options = options or Options()
    context = Context(address, options)
    async with context.connected():
        pass  # that somebody listens there
    ends = asyncio.get_running_loop().time() + options.total
    room = asyncio.Semaphore(options.jobs)

    async def run(check: Check) -> Graded:
        async with room:
            graded = Graded(check, await _result(check, context, ends))
        report(graded)
        return graded

    usual = await asyncio.gather(*[run(each) for each in checks if not each.last])
    found = [*usual, *[await run(each) for each in checks if each.last]]
    await context.close()
    order = {check.name: number for number, check in enumerate(checks)}
    return sorted(found, key=lambda each: order[each.check.name])


async def _result(check: Check, context: Context, ends: float) -> Result:
    options = context.options
    now = asyncio.get_running_loop().time()
    if now >= ends:
        return Result(Outcome.FAILED, f"not tried: the {options.total:g} s for all are over")
    patience = options.check * check.weight
    try:
        async with asyncio.timeout_at(min(now + patience, ends)):
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
