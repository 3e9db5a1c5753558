"""What a milter's last word on a message comes to, and which of its edits count."""

from __future__ import annotations

from dataclasses import replace

from milterd.core.actions import Edit
from milterd.core.decision import Verdict
from smtpgw.chain.edits import review
from smtpgw.chain.results import StageResult
from smtpgw.chain.shared import Shared
from smtpgw.chain.showing import WENT_ON, Outcome
from smtpgw.chain.standing import Standing

Answer = tuple[StageResult, tuple[Edit, ...]]
"""A milter's result, and the edits to apply if its verdict is CONTINUE."""


def conclude(standing: Standing, shared: Shared, outcome: Outcome) -> Answer:
    """What an outcome means; edits count only where the mail goes on.

    Raises MilterFault for a reply that is none.
    """
    if outcome is WENT_ON:
        return standing.went_on, ()
    result = standing.judge(outcome.stage, outcome.reply)
    if result.verdict is not Verdict.CONTINUE:
        if outcome.edits:
            shared.log.info(
                "milter edits dropped", milter=standing.name, verdict=result.verdict.value
            )
        return _explained(result, outcome.words), ()
    checked = review(outcome.edits, shared.limits)
    refused = (*outcome.refused, *checked.refused)
    if result.reasons or refused:
        result = _told(standing, shared, outcome, result, len(checked.edits), refused)
    else:
        result = standing.content_with(outcome.stage, len(checked.edits), outcome.words)
    if checked.quarantine is not None:
        result = standing.caught(result, outcome.stage, checked.quarantine)
    return result, checked.edits


def _explained(result: StageResult, words: str) -> StageResult:
    """The result with the milter's own reasons, where it has told them."""
    if not words or not result.reasons:
        return result
    first, *others = result.reasons
    first = replace(first, facts={**first.facts, "said": words})
    return replace(result, reasons=(first, *others))


def _told(
    standing: Standing,
    shared: Shared,
    outcome: Outcome,
    result: StageResult,
    edits: int,
    refused: tuple[str, ...],
) -> StageResult:
    """The result with a reason for each thing that there is to tell."""
    reasons = list(result.reasons)
    if edits or not reasons:
        reasons += standing.content_with(outcome.stage, edits, outcome.words).reasons
    for each in refused:
        shared.log.warning("milter edit refused", milter=standing.name, edit=each)
        reasons.append(standing.reason("edit refused", outcome.stage, edit=each))
    return StageResult(reasons=tuple(reasons))
