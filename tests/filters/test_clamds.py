"""Several clamd as one: fail-over, rests, and one try at a time of what was down."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.mail import Mail
from milterd.ports.clamds import Clamds, Signatures, Watch
from milterd.ports.scanner import Clean, Infected, Meanwhile, ScanFact, Unavailable

DOWN = Unavailable("down", "refused")


@dataclass
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class One:
    """A clamd that answers as told, and counts."""

    name: str
    fact: ScanFact | Callable[[], ScanFact] = field(default_factory=Clean)
    asked: int = 0
    limits: list[float | None] = field(default_factory=list)
    answer: str | Unavailable = "ClamAV 1.4.3/27500/Fri Nov 20 08:10:01 2026"

    def scan(
        self, _mail: Mail, limit: float | None = None, _meanwhile: Meanwhile | None = None
    ) -> ScanFact:
        self.asked += 1
        self.limits.append(limit)
        return self.fact() if callable(self.fact) else self.fact

    def version(self) -> str | Unavailable:
        return self.answer


def made(*scanners: One, clock: Clock | None = None, timeout: float = 12.0) -> Clamds:
    return Clamds(scanners, timeout=timeout, retry=8.0, clock=clock or Clock())


def test_the_first_that_is_well_is_asked_and_no_other() -> None:
    first, second = One("a"), One("b")
    assert made(first, second).scan(Mail()) == Clean()
    assert (first.asked, second.asked) == (1, 0)


@pytest.mark.parametrize("why", ["down", "timeout", "empty", "garbled"])
def test_what_does_not_answer_is_followed_by_the_next(why: str) -> None:
    first, second = One("a", Unavailable(why)), One("b", Infected("X"))  # type: ignore[arg-type]
    assert made(first, second).scan(Mail()) == Infected("X")
    assert first.limits == [6.0]  # half of the time is left for the other
    assert second.limits == [12.0]


def test_all_attempts_share_one_time() -> None:
    clock = Clock()

    def takes(seconds: float) -> Callable[[], ScanFact]:
        def fails() -> ScanFact:
            clock.now += seconds
            return Unavailable("timeout")

        return fails

    first, second, third = One("a", takes(2)), One("b", takes(10)), One("c")
    assert made(first, second, third, clock=clock).scan(Mail()) == Unavailable("timeout")
    assert (first.limits, second.limits) == ([4.0], [5.0])  # of twelve seconds, then of ten
    assert third.asked == 0  # the time is over


def test_what_this_machine_lacks_is_asked_of_nobody_else() -> None:
    first, second = One("a", Unavailable("resources")), One("b")
    assert made(first, second).scan(Mail()) == Unavailable("resources")
    assert second.asked == 0


def test_a_clamd_that_fails_rests_longer_each_time_and_comes_back() -> None:
    clock = Clock()
    first, second = One("a", DOWN), One("b")
    clamds = made(first, second, clock=clock)
    rests = []
    for _ in range(6):
        before, began = first.asked, clock.now
        while first.asked == before:
            assert clamds.scan(Mail()) == Clean()
            clock.now += 0.25
        rests.append(clock.now - began)
    assert rests == [0.25, 1.0, 2.0, 4.0, 8.0, 8.0]
    first.fact = Clean()
    clock.now += 8
    clamds.scan(Mail())
    asked = second.asked
    clamds.scan(Mail())
    assert second.asked == asked


def test_one_that_was_well_before_its_time_does_not_hide_the_others() -> None:
    first, second = One("a", DOWN), One("b", DOWN)
    clamds = made(first, second)
    assert clamds.scan(Mail()) == DOWN
    first.fact = Clean()
    assert clamds.scan(Mail()) == Clean()  # asked although it rests: there is nobody else
    first.fact, second.fact = DOWN, Clean()
    assert clamds.scan(Mail()) == Clean()


def test_only_one_scan_tries_what_was_down() -> None:
    clock = Clock()
    waits, goes = threading.Event(), threading.Event()

    def hangs() -> ScanFact:
        waits.set()
        assert goes.wait(10)
        return DOWN

    first, second = One("a", DOWN), One("b")
    clamds = made(first, second, clock=clock)
    clamds.scan(Mail())
    clock.now += 1
    first.fact = hangs
    trying = threading.Thread(target=clamds.scan, args=(Mail(),))
    trying.start()
    assert waits.wait(10)
    for _ in range(3):
        assert clamds.scan(Mail()) == Clean()
    assert first.asked == 2
    goes.set()
    trying.join(10)


def test_if_all_rest_one_is_asked_all_the_same() -> None:
    first, second = One("a", DOWN), One("b", DOWN)
    clamds = made(first, second)
    assert clamds.scan(Mail()) == DOWN
    first.fact = second.fact = Clean()
    assert clamds.scan(Mail()) == Clean()


def test_a_scanner_that_breaks_does_not_stay_the_one_that_is_tried() -> None:
    clock = Clock()

    def breaks() -> ScanFact:
        raise RuntimeError("broken")

    first = One("a", breaks)
    clamds = made(first, One("b"), clock=clock)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            clamds.scan(Mail())
        clock.now += 10
    assert first.asked == 2


def test_versions_are_read_and_old_signatures_told_of() -> None:
    found = Signatures.parse("ClamAV 1.4.3/27500/Fri Nov 20 08:10:01 2026")
    assert (found.engine, found.number, found.made) == ("1.4.3", 27500, 1795162201.0)
    assert Signatures.parse("ClamAV 1.4.3") == Signatures("1.4.3")
    wall = lambda: found.made + 5 * 86400  # noqa: E731 - a clock
    clamds = made(One("a"), One("b", answer=DOWN), One("c", answer="ClamAV 1.4.3"))
    watch = Watch(clamds, oldest=3 * 86400, clock=Clock(), wall=wall)
    assert list(watch.troubles()) == [
        "clamd at a: its signatures are 5 days old", "clamd at b: down (refused)",
    ]  # fmt: skip
    watch.look()


@given(st.text(max_size=200))
def test_any_version_can_be_read(text: str) -> None:
    assert len(Signatures.parse(text).engine) <= max(100, len(text))
