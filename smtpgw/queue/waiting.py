"""An operation that waits for its transaction, and its caller, who waits for the commit."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from milterd.base.atonce import AtOnce
from smtpgw.queue.batch import Batch
from smtpgw.queue.states import IllegalMove
from smtpgw.queue.store import QueueError


@dataclass(slots=True)
class Waiting:
    """What :meth:`smtpgw.queue.committer.Committer.do` was asked for, and what came of it."""

    run: Callable[[Batch], Any]
    weight: int
    urgent: bool
    future: AtOnce[Any]
    loop: asyncio.AbstractEventLoop
    short: bool = False
    then: Callable[[Exception | None], None] | None = None
    result: Any = None
    error: Exception | None = None


def perform(each: Waiting, batch: Batch) -> None:
    """Run it in a transaction.  Raises sqlite3.Error and what else is nobody's answer."""
    each.error = None
    try:
        each.result = each.run(batch)
    except (QueueError, IllegalMove) as error:
        each.error = error  # it wrote nothing: see rows.py


def answer(gathered: list[Waiting]) -> None:
    """Tell the callers, each in its loop; from any thread."""
    loops: dict[asyncio.AbstractEventLoop, list[Waiting]] = {}
    for each in gathered:
        loops.setdefault(each.loop, []).append(each)
    for loop, those in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, those)


def _resolve(those: list[Waiting]) -> None:
    later = []  # clients are answered first
    for each in those:
        if each.then is not None:
            each.then(each.error)
        if each.future.done():
            continue
        result = each.result if each.error is None else each.error
        if each.urgent:
            later.append((each.future, result))
        else:
            each.future.now(result)
    for future, result in later:
        future.now(result)
