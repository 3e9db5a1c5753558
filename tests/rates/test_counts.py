"""What is counted of clients: windows, connections, and the bound on clients that are known."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from smtpgw.rates.counts import Counts, Event, Usage


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_window_begins_with_the_first_event_and_is_one_for_all_rates() -> None:
    clock = Clock()
    counts = Counts(clock, 60)
    assert counts.connect("a") == Usage(1, 1)
    clock.now += 59
    assert counts.add(Event.MESSAGE, "a") == 1
    clock.now += 1
    assert counts.rate(Event.MESSAGE, "a") == 0
    assert counts.add(Event.MESSAGE, "a") == 1
    assert counts.connect("a") == Usage(2, 1)


def test_each_client_is_counted_alone() -> None:
    counts = Counts(Clock(), 60)
    counts.connect("a")
    assert counts.connect("b") == Usage(1, 1)
    assert counts.rate(Event.CONNECTION, "c") == 0


def test_what_a_holder_had_ends_with_it() -> None:
    counts = Counts(Clock(), 60)
    for holder in ("w1", "w1", "w2"):
        counts.connect("a", holder)
    counts.drop("w1")
    assert counts.connect("a", "w2") == Usage(2, 4)
    counts.drop("w1")
    counts.disconnect("a", "w1")  # it has none any more
    assert counts.connect("a", "w2").count == 3


def test_memory_is_bounded_whatever_the_number_of_clients() -> None:
    clock = Clock()
    counts = Counts(clock, 60, most=1000)
    counts.connect("here to stay")
    for number in range(10_000):
        counts.add(Event.AUTH, f"client {number}")
        clock.now += 0.001
    assert len(counts) <= 1001
    assert counts.connect("here to stay").count == 2
    assert counts.rate(Event.AUTH, "client 9999") == 1


def test_those_whose_window_is_over_are_forgotten() -> None:
    clock = Clock()
    counts = Counts(clock, 60)
    for number in range(1000):
        counts.disconnect(f"client {number}") if counts.connect(f"client {number}") else None
    clock.now += 61
    for number in range(1000):
        counts.add(Event.AUTH, f"other {number}")
    assert len(counts) <= 1001


@given(st.lists(st.tuples(st.sampled_from("cdx"), st.sampled_from("ab"), st.sampled_from("vw"))))
def test_connections_are_what_came_less_what_went(steps: list[tuple[str, str, str]]) -> None:
    counts, there = Counts(Clock(), 60, most=1), Counter[tuple[str, str]]()
    for what, ident, holder in steps:
        if what == "c":
            counts.connect(ident, holder)
            there[ident, holder] += 1
        elif what == "d":
            counts.disconnect(ident, holder)
            there[ident, holder] = max(0, there[ident, holder] - 1)
        else:
            counts.drop(holder)
            there["a", holder] = there["b", holder] = 0
    for ident in "ab":
        assert counts.connect(ident, "now").count == 1 + there[ident, "v"] + there[ident, "w"]
