"""The cards of all milters, made anew: those in docs are what is so today, ours fail nothing,
and each fail of another is reproduced by a scenario, which ours pass."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from milterd.lab import status
from tests.lab.cards import card as cards
from tests.lab.cards.milters import SUBJECTS, Subject
from tests.lab.cards.reproduce import line_that_fails, play_all, scenarios

pytestmark = pytest.mark.timeout(400)  # all cards are made for the first test
Rows = dict[str, list[cards.Row]]
made_once = pytest.mark.xdist_group("milter-cards")  # not by every process of the suite
WORKERS = 3
"""Cards at a time: what is waited for is mostly time."""
OURS = [each for each in SUBJECTS if not each.package]
OTHERS = [each for each in SUBJECTS if each.package]


@pytest.fixture(scope="module")
def graded() -> Rows:
    """The rows of each card by its name."""
    with ThreadPoolExecutor(WORKERS) as pool:
        # The longest first.
        rows = pool.map(lambda each: each.grade(), reversed(SUBJECTS))
        return dict(zip([each.name for each in reversed(SUBJECTS)], rows, strict=True))


_STALLED = frozenset({"slow/half-packet", "slow/never-negotiate"})


def _unserved(subject: Subject, row: cards.Row) -> bool:
    """Whether this is libmilter's pool of threads (8.17): while clients stall another one may wait
    for as long as they do (docs/hosts.md).  Where many checks run at once that is rare, so a card
    has it now and then; on no other host it is excused."""
    silent = "silent at negotiate, octet 0" in row.seen
    return subject.on_libmilter and row.check in _STALLED and silent


def _committed(subject: Subject) -> dict[str, str]:
    return cards.results((cards.CARDS / f"{subject.name}.md").read_text())


@made_once
@pytest.mark.parametrize("subject", OURS, ids=lambda each: each.name)
def test_ours_fail_nothing(graded: Rows, subject: Subject) -> None:
    failed = [each for each in graded[subject.name] if each.result == "fail"]
    assert [each for each in failed if not _unserved(subject, each)] == []


@made_once
@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda each: each.name)
def test_the_page_says_what_is_so(graded: Rows, subject: Subject) -> None:
    written = _committed(subject)
    assert list(written) == [each.check for each in graded[subject.name]]
    other = [each for each in graded[subject.name] if each.result != written[each.check]]
    assert [each for each in other if not _unserved(subject, each)] == []


@pytest.mark.parametrize("subject", OTHERS, ids=lambda each: each.name)
def test_every_fail_is_reproduced(subject: Subject) -> None:
    fails = [name for name, result in _committed(subject).items() if result == "fail"]
    assert {cards.scenario(subject.name, each) for each in fails} == set(scenarios(subject.name))
    with subject.ready() as program:
        for path, outcome in play_all(scenarios(subject.name), program, dies=subject.dies):
            assert [each.line for each in outcome.failures] == [line_that_fails(path)], outcome
            assert outcome.status in (status.BAD, status.BROKEN, status.SILENT, status.GONE)


@pytest.mark.parametrize("subject", OURS, ids=lambda each: each.name)
def test_ours_do_what_is_right(subject: Subject) -> None:
    passed = [name for name, result in _committed(subject).items() if result == "pass"]
    right = {each.replace("/", "-") for each in passed}
    applicable = [each for each in scenarios() if each.stem in right]
    assert len(applicable) > len(scenarios()) // 2
    with subject.ready() as program:
        for _, outcome in play_all(applicable, program):
            assert outcome.passed, outcome


def test_the_index_counts_what_the_pages_say() -> None:
    index = (cards.CARDS / "README.md").read_text()
    for subject in SUBJECTS:
        assert f"]({subject.name}.md) |" in index


def test_every_scenario_belongs_to_a_card() -> None:
    known = {each.name for each in OTHERS}
    assert {Path(each).parent.name for each in scenarios()} <= known
