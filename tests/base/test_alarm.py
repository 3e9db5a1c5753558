"""The alarm against a list of what it should have rung: one timer, whatever it is set to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from milterd.base.alarm import Alarm


class Timer:
    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at, self.call, self.live = at, call, True

    def cancel(self) -> None:
        self.live = False


class Loop:
    """A loop whose time goes on when it is told."""

    def __init__(self) -> None:
        self.now = 0.0
        self.made: list[Timer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, call: Callable[[], None]) -> Timer:
        self.made.append(Timer(at, call))
        return self.made[-1]

    def run_until(self, end: float) -> None:
        while due := [each for each in self.made if each.live and each.at <= end]:
            first = min(due, key=lambda each: each.at)
            self.now, first.live = max(self.now, first.at), False
            first.call()
        self.now = end


def alarm(loop: Loop) -> tuple[Alarm, list[float]]:
    rung: list[float] = []
    like_asyncio = cast(asyncio.AbstractEventLoop, cast(Any, loop))
    return Alarm(like_asyncio, lambda: rung.append(loop.now)), rung


@given(st.lists(st.tuples(st.integers(0, 20), st.none() | st.integers(0, 30)), max_size=30))
def test_it_rings_as_a_timer_a_wait_would(waits: list[tuple[int, int | None]]) -> None:
    loop = Loop()
    made, rung = alarm(loop)
    expected: list[float] = []
    due: float | None = None
    for passed, wait in waits:
        end = loop.now + passed
        if due is not None and due <= end:
            expected.append(max(due, 0.0))
            due = None
        loop.run_until(end)
        if wait is None:
            made.clear()
            due = None
        else:
            due = loop.now + wait
            made.set(due)
    made.close()
    loop.run_until(loop.now + 100)
    assert rung == expected
    assert not any(each.live for each in loop.made)


def test_many_waits_of_one_length_make_few_timers() -> None:
    loop = Loop()
    made, rung = alarm(loop)
    for number in range(1000):
        loop.run_until(float(number))
        made.set(loop.now + 300)
        made.clear()
    assert len(loop.made) <= 5
    assert rung == []
