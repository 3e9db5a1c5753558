"""A card for a reader, and for a program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import typer

from milterd.base.escaping import escape
from milterd.lab.conform.check import Check, Outcome, Result
from milterd.lab.conform.grade import Graded

_MARKS = {
    Outcome.PASSED: ("✓", typer.colors.GREEN),
    Outcome.FAILED: ("✗", typer.colors.RED),
    Outcome.NOT_APPLICABLE: ("-", None),
}
_WIDTH = 400


def as_values(graded: Graded) -> dict[str, object]:
    """One check for a program."""
    check, result = graded.check, graded.result
    return {
        "id": check.name,
        "title": check.title,
        "rule": check.rule,
        "source": check.source,
        "result": result.outcome.value,
        "seen": result.seen,
        "stage": result.stage or None,
        "octet": result.octet,
    }


def as_lines(card: Sequence[Graded]) -> Iterator[str]:
    """The card, one subject after the other, and the counts at its end."""
    subject, width = "", max((len(each.check.name) for each in card), default=0)
    for each in card:
        if each.check.subject != subject:
            subject = each.check.subject
            yield typer.style(subject, bold=True)
        yield _line(each.check, each.result, width)
        if each.result.outcome is Outcome.FAILED:
            yield from _rule(each.check, each.result)
    yield ""
    yield summary(card)


def _line(check: Check, result: Result, width: int) -> str:
    mark, colour = _MARKS[result.outcome]
    seen = escape(result.seen, _WIDTH).replace("\\\\", "\\")
    return f"  {typer.style(mark, fg=colour)} {check.name:<{width}}  {seen}"


def _rule(check: Check, result: Result) -> Iterator[str]:
    yield f"      rule: {check.rule}"
    yield f"      source: {check.source}"
    if result.octet is not None:
        yield f"      at: {result.stage}, octet {result.octet} of the milter's"


def summary(card: Sequence[Graded]) -> str:
    """How many checks ended in which way."""
    counts = Counter(each.result.outcome for each in card)
    return (
        f"{counts[Outcome.PASSED]} passed, {counts[Outcome.FAILED]} failed, "
        f"{counts[Outcome.NOT_APPLICABLE]} not applicable"
    )


def failed(card: Sequence[Graded]) -> bool:
    """Whether any check failed."""
    return any(each.result.outcome is Outcome.FAILED for each in card)
