"""Why something became of a mail, as the log and the decisions have it.

What a milter says to most mails are the same few words: they are written once.
"""

from __future__ import annotations

import functools

from milterd.base.log_json import Again
from milterd.core.decision import Reason
from smtpgw.decisions.decision import to_json

_USUAL = frozenset({"continue", "edited"})
"""Outcomes of milters, whose facts are a stage and a number (:mod:`smtpgw.chain.standing`)."""


def told(reason: Reason) -> Again:
    """What a line of the log says of it."""
    make = _usually_told if reason.outcome in _USUAL else _told
    return make(reason.source, reason.outcome, *reason.facts.items())


def _told(source: str, outcome: str, *facts: tuple[str, str]) -> Again:
    return Again({"filter": source, "outcome": outcome, "reason": dict(facts)})


def step(reason: Reason) -> dict[str, str]:
    """The step of a decision that it is."""
    return _step(reason.source, reason.outcome, *reason.facts.items())


def step_as_json(reason: Reason) -> str:
    """The same as it is written."""
    if reason.outcome in _USUAL:
        return _usual_step(reason.source, reason.outcome, *reason.facts.items())
    return to_json(step(reason))


def _step(source: str, outcome: str, *facts: tuple[str, str]) -> dict[str, str]:
    return {"list": "message", "restriction": source, "outcome": outcome, **dict(facts)}


_usually_told = functools.lru_cache(maxsize=500)(_told)


@functools.lru_cache(maxsize=500)
def _usual_step(source: str, outcome: str, *facts: tuple[str, str]) -> str:
    return to_json(_step(source, outcome, *facts))
