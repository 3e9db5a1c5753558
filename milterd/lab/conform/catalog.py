"""All checks, in the order of the card."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

from milterd.lab.conform import (
    answers,
    content,
    endings,
    load,
    macros,
    messages,
    negotiation,
    octets,
    replies,
    session,
    stop,
)
from milterd.lab.conform.check import Check

CHECKS: tuple[Check, ...] = (
    *negotiation.CHECKS,
    *messages.CHECKS,
    *session.CHECKS,
    *macros.CHECKS,
    *content.CHECKS,
    *answers.CHECKS,
    *replies.CHECKS,
    *endings.CHECKS,
    *octets.CHECKS,
    *load.CHECKS,
    *stop.CHECKS,
)


def matching(
    only: Sequence[str], skip: Sequence[str], checks: Sequence[Check] = CHECKS
) -> tuple[Check, ...]:
    """Those of the checks whose id fits a pattern of `only`, or any if that is empty, and none of
    `skip`.  `*` and `?` are as in a shell; a subject stands for all its checks."""
    return tuple(
        each for each in checks if (not only or _fits(each, only)) and not _fits(each, skip)
    )


def _fits(check: Check, patterns: Sequence[str]) -> bool:
    return any(check.subject == each or fnmatch.fnmatchcase(check.name, each) for each in patterns)
