"""Rounds against several milters in turns, so that what else the machine does hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import uvloop

from milterd.lab.bench.report import Summary
from milterd.lab.bench.run import Bench, Plan, Progress, Round

_WARMING = 0.5
"""Seconds of the round before the first, which does not count."""

Teller = Callable[[str, int], Progress | None]
"""Gives what is to be told of a round: to this milter, the number of that."""


def measure(sockets: Sequence[str], plan: Plan, rounds: int, teller: Teller) -> list[Summary]:
    """A summary for each socket.  Raises as `Bench.round` does."""
    return uvloop.run(_measure(sockets, plan, rounds, teller))


async def _measure(
    sockets: Sequence[str], plan: Plan, rounds: int, teller: Teller
) -> list[Summary]:
    bench, warming = Bench(plan), Bench(replace(plan, duration=min(plan.duration, _WARMING)))
    for each in sockets:
        await warming.round(each)
    kept: list[list[Round]] = [[] for _ in sockets]
    for number in range(1, rounds + 1):
        for each, into in zip(sockets, kept, strict=True):
            into.append(await bench.round(each, teller(each, number)))
    return [Summary(each, found) for each, found in zip(sockets, kept, strict=True)]
