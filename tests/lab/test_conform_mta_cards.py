"""The two cards of MTAs, made anew: they are those in docs, and every difference is explained."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.lab.cards import card as cards
from tests.lab.cards.mtas import CARDS

pytestmark = [
    pytest.mark.timeout(240),  # both cards, on a machine that does other things too
    pytest.mark.xdist_group("mta-cards"),  # made once, not by every process of the suite
]
Rows = dict[str, list[cards.Row]]


@pytest.fixture(scope="module")
def graded() -> Rows:
    """The rows of each card by its name, both made at once."""
    with ThreadPoolExecutor(len(CARDS)) as pool:
        rows = pool.map(lambda each: list(each.grade()), CARDS)
        return {each.name: found for each, found in zip(CARDS, rows, strict=True)}


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_page_is_what_is_seen(graded: Rows, card: cards.Card) -> None:
    written = (cards.CARDS / f"{card.name}.md").read_text()
    assert _rest(cards.page(card, graded[card.name])) == _rest(written)


def _rest(page: str) -> list[str]:
    """A page without the version of what was graded, which a security fix may change."""
    return [each for each in page.splitlines() if not each.startswith("- Graded: ")]


def test_the_gateway_fails_nothing(graded: Rows) -> None:
    fails = [(each.check, each.seen) for each in graded["mta-smtpgw"] if each.result != "pass"]
    assert not fails


def test_every_difference_is_explained(graded: Rows) -> None:
    differs = _differences(graded["mta-postfix"], graded["mta-smtpgw"])
    page = (cards.CARDS.parent / "conform-mta.md").read_text()
    explained = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}
    assert explained == differs


def _differences(theirs: Sequence[cards.Row], ours: Sequence[cards.Row]) -> set[str]:
    return {
        one.check
        for one, other in zip(theirs, ours, strict=True)
        if (one.result, one.seen) != (other.result, other.seen)
    }
