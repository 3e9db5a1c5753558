"""Which processors a thread may run on (sched_setaffinity(2)).

A thread begins with those of the thread that began it.  So the threads of a process that keeps to
one processor do too, but for those that :func:`roam`: who hashes passwords or reads large bodies
for an event loop is not to take the processor from it while another one has nothing to do.
"""

from __future__ import annotations

import os
from pathlib import Path

from milterd.base.plain_structlog import FilteringBoundLogger

_whole: set[int] = set()
"""What there was to choose from when this process kept to one; empty while it does not."""


def usable() -> int:
    """How many processors this process may use, wherever it keeps to."""
    return len(_whole or os.sched_getaffinity(0))


def keep(number: int, count: int, log: FilteringBoundLogger) -> None:
    """Keep the calling thread to the processor of this number, from 0, among those that it may use,
    if `count` processes are as many as they are: where some have none of their own, or some
    processors nobody, the system knows better.  The log says where, or why not."""
    there = sorted(_whole or os.sched_getaffinity(0))
    if count != len(there):
        release(log)
        log.info("no processor of its own", workers=count, processors=len(there))
        return
    if _whole:
        return
    try:
        os.sched_setaffinity(0, {there[number]})
    except OSError as error:  # by a filter of system calls
        log.warning("no processor of its own", reason=str(error))
        return
    _whole.update(there)
    log.info("keeps to one processor", processor=there[number])


def release(log: FilteringBoundLogger) -> None:
    """Let all threads run anywhere again."""
    whole = _whole.copy()
    _whole.clear()
    if not whole:
        return
    for each in _threads():
        _let(each, whole)
    log.info("keeps to no processor")


def _threads() -> list[int]:
    """Not by native_id, which in a child that was forked is still its parent's."""
    try:
        return [int(each.name) for each in Path("/proc/self/task").iterdir()]
    except OSError:
        return [0]  # the calling one, where there is no proc(5)


def roam() -> None:
    """Let the calling thread run anywhere, whatever the others keep to."""
    if _whole:
        _let(0, _whole)


def _let(thread: int, where: set[int]) -> None:
    """Where it is the system that says no (the processors are not ours any more, or the thread has
    ended) it stays as it is."""
    try:
        os.sched_setaffinity(thread, where)
    except OSError:
        return
