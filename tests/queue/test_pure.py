"""Ids, schedule, clock: the pure parts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpgw.queue import ids
from smtpgw.queue.clock import QueueClock, resumed
from smtpgw.queue.ids import IdMaker
from smtpgw.queue.schedule import Schedule, ScheduleOptions
from tests.queue.support import FakeClock

_SCHEDULE = Schedule()


def _maker(times: list[float], floor: int = 0, chance: int = 0) -> IdMaker:
    moments = iter(times)
    return IdMaker(shard=3, floor=floor, clock=lambda: next(moments), randbelow=lambda _: chance)


@given(st.lists(st.floats(-1e9, 4e9), min_size=2, max_size=30))
def test_ids_grow_whatever_the_clock_does(times: list[float]) -> None:
    maker = _maker(times)
    made = [maker.new() for _ in times]
    assert made == sorted(set(made))
    assert all(ids.valid(each) for each in made)


@given(st.integers(0, 62**9 - 2), st.floats(0, 4e9))
def test_ids_after_a_restart_are_above_the_floor(floor: int, now: float) -> None:
    made = _maker([now], floor).new()
    assert ids.moment(made) > floor


@given(st.integers(0, 62**9 - 1))
def test_the_time_of_an_id_is_the_one_it_was_made_at(moment: int) -> None:
    assert ids.moment(ids.encode(moment, 9) + "00abc") == moment


@given(st.integers(1, 62**9 - 1), st.integers(0, 62**3 - 1))
def test_an_id_is_its_time_its_shard_and_its_chance(moment: int, chance: int) -> None:
    made = _maker([0.0], floor=moment - 1, chance=chance).new()
    assert made == ids.encode(moment, 9) + ids.encode(3, 2) + ids.encode(chance, 3)


@pytest.mark.parametrize(
    "bad", ["", "a" * 9, "a" * 17, "../../etc/pw", "abcdefghi\n", "abcdefghi\0", "١٢٣٤٥٦٧٨٩٠"]
)
def test_what_is_no_id_is_refused(bad: str) -> None:
    assert not ids.valid(bad)


@given(st.integers(1, 500), st.floats(0, 1, exclude_max=True))
def test_backoff_stays_within_its_limits(attempts: int, chance: float) -> None:
    assert 300 <= _SCHEDULE.backoff(attempts, chance) <= 4000


def test_backoff_doubles_then_stays() -> None:
    middle = [_SCHEDULE.backoff(n, 0.5) for n in range(1, 8)]
    assert middle[:4] == [330.0, 600.0, 1200.0, 2400.0]
    assert middle[4:] == [3600.0] * 3


def test_backoff_is_spread() -> None:
    chance = random.Random(1)
    waits = [_SCHEDULE.backoff(9, chance.random()) for _ in range(200)]
    assert max(waits) - min(waits) > 600


@given(st.floats(0, 1e6), st.integers(1, 100), st.floats(0, 1, exclude_max=True))
def test_the_last_attempt_comes_as_life_ends(age: float, attempts: int, chance: float) -> None:
    due = _SCHEDULE.next_attempt(born=0, now=age, attempts=attempts, chance=chance, bounce=False)
    assert age + 300 <= due
    assert due <= max(5 * 86400, age + 300) or due <= age + 4000
    assert due <= max(5 * 86400, age + 300)


def test_expiry_and_warning() -> None:
    schedule = Schedule(ScheduleOptions(bounce_queue_lifetime=10.0, delay_warning_time=100.0))
    assert not schedule.expired(born=0, now=431_999, bounce=False)
    assert schedule.expired(born=0, now=432_000, bounce=False)
    assert schedule.expired(born=0, now=10, bounce=True)
    assert not schedule.warn(born=0, now=99, warned=False)
    assert schedule.warn(born=0, now=100, warned=False)
    assert not schedule.warn(born=0, now=100, warned=True)
    assert not _SCHEDULE.warn(born=0, now=1e9, warned=False)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="minimal_backoff_time"):
        ScheduleOptions(minimal_backoff_time=5000)


@given(st.floats(-1e10, 1e10))
def test_a_jump_of_the_wall_clock_does_not_move_queue_time(jump: float) -> None:
    clock = FakeClock()
    queue = QueueClock(clock)
    before = queue.now()
    clock.wall_time += jump
    clock.monotonic_time += 5
    assert queue.now() == before + 5


@pytest.mark.parametrize(
    ("seen", "wall", "now", "then"),
    [
        (100, 100, 100, 100),
        (100, 100, 3700, 3700),
        (1e9, 1e9, 1e9 + 4e7, 1e9 + 86400),
        (1e9, 1e9, 0, 1e9),
        (1e9, 5e9, 5e9 + 60, 1e9 + 60),
        (1e9, 1e9 + 0.9, 1e9 + 60, 1e9 + 60),
    ],
)
def test_time_nobody_watched_counts_a_day_at_most(
    seen: float, wall: float, now: float, then: float
) -> None:
    assert resumed(seen, wall, now) == then
    clock = FakeClock()
    clock.wall_time = now
    queue = QueueClock(clock)
    queue.resume(seen, wall)
    clock.go(5)
    assert queue.now() == pytest.approx(then + 5)
