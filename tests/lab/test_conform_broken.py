"""Each broken milter makes the checks of its rule fail, and no others; a good one none."""

from __future__ import annotations

import asyncio
import fnmatch

import pytest

from milterd.lab.conform import context
from milterd.lab.conform.catalog import CHECKS
from milterd.lab.conform.check import Outcome
from milterd.lab.conform.context import Options
from milterd.lab.conform.grade import Graded, grade
from tests.lab.breakages import ALL
from tests.lab.broken import Milter, serving

SLOW = (
    *("load/*", "slow/*", "stream/fragments", "order/bystander"),
    *("header/1000-fields", "envelope/many-recipients"),
)
"""Checks that cost much, and are tried only with the milters that break their rule."""


@pytest.fixture(autouse=True)
def _no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of these says the time, as a signature does: one judgement need not be a second after
    another to show what differs from one to the next."""
    monkeypatch.setattr(context, "_TICK", 0.05)


def card(milter: type[Milter], fails: tuple[str, ...] = (), jobs: int = 24) -> list[Graded]:
    """The card of a milter in this process."""
    checks = [each for each in CHECKS if not _fits(each.name, SLOW) or _fits(each.name, fails)]
    options = Options(answer=1.0, quiet=0.05, check=30.0, jobs=jobs)

    async def run() -> list[Graded]:
        async with serving(milter) as address:
            return await grade(address, checks, options)

    return asyncio.run(run())


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, each) for each in patterns)


def failed(found: list[Graded]) -> dict[str, str]:
    """What failed, and what was seen."""
    outcome = Outcome.FAILED
    return {each.check.name: each.result.seen for each in found if each.result.outcome is outcome}


def test_a_good_milter_fails_nothing() -> None:
    assert failed(card(Milter, tuple(each.name for each in CHECKS))) == {}


@pytest.mark.parametrize("name", ALL)
def test_a_broken_milter_fails_its_checks_and_no_others(name: str) -> None:
    breakage = ALL[name]
    found = failed(card(breakage.milter, breakage.fails, breakage.jobs))
    expected = {each.name for each in CHECKS if _fits(each.name, breakage.fails)}
    assert set(found) - set(breakage.perhaps) == expected, found
