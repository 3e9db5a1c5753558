"""A decision made while a filter waits for the facts that it expects."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from milterd.base import logs
from milterd.core.actions import AddHeader
from milterd.core.decision import Decision, Verdict
from milterd.core.filter import Need
from milterd.core.mail import Mail
from milterd.host.judge import Judge, Surroundings
from milterd.host.options import Options

GOOD = Decision(edits=(AddHeader(b"X-Good", b" yes"),))
BAD = Decision(Verdict.REJECT)


class Waiting:
    """Waits for `found`, which is usually 0, and calls for work `times` times meanwhile."""

    name, needs, usual = "waiting", Need.ADD_HEADERS, 0

    def __init__(self, found: int, times: int = 1, fault: int | None = None) -> None:
        self.found, self.times, self.fault = found, times, fault
        self.asked: list[int] = []

    def gather(self, _: Mail) -> int:
        raise AssertionError

    def gather_while(self, _: Mail, meanwhile: Callable[[], object]) -> int:
        for _ in range(self.times):
            meanwhile()
        self.asked.append(-1)
        return self.found

    def decide(self, _: Mail, facts: int) -> Decision:
        self.asked.append(facts)
        if facts == self.fault:
            raise ValueError(facts)
        return BAD if facts else GOOD


def judge(filter_: Waiting) -> Decision:
    around = Surroundings(logs.get("host"), lambda: "trace")
    return Judge(filter_, Options(), around).judge(Mail())


@pytest.mark.parametrize("times", [0, 1, 2])
def test_it_is_made_once_and_counts_where_the_facts_are_as_expected(times: int) -> None:
    filter_ = Waiting(0, times)
    assert judge(filter_) is GOOD
    assert filter_.asked == ([0, -1] if times else [-1, 0])


def test_other_facts_make_another_decision() -> None:
    filter_ = Waiting(1)
    assert judge(filter_) is BAD
    assert filter_.asked == [0, -1, 1]


@pytest.mark.parametrize(("found", "fails"), [(0, True), (1, False)])
def test_a_fault_in_it_counts_where_it_would_have_counted(
    found: int, fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL):
        decision = judge(Waiting(found, fault=0))
    assert (decision.verdict is Verdict.TEMPFAIL) is fails
    assert decision is BAD or fails
