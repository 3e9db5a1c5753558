"""regexp: - rules with POSIX patterns, the first that fits counts (regexp_table(5))."""

from __future__ import annotations

import regex  # type: ignore[import-untyped]  # it carries no type information

from smtpgw.tables import posix
from smtpgw.tables.context import Context
from smtpgw.tables.matching import Pattern
from smtpgw.tables.patterns import Patterns
from smtpgw.tables.rulefile import Dialect


def compile_pattern(pattern: bytes, flags: frozenset[str], wants_groups: bool) -> Pattern:
    """Raises ValueError.  Each flag turns its default round: i and x are on, m is off."""
    ignore_case = "i" not in flags
    given = posix.Flags("x" not in flags, ignore_case, "m" in flags)
    expression = posix.translate(pattern, given)
    # Which of several matches is taken shows in $n only: POSIX has the longest.
    longest = regex.POSIX if wants_groups else 0
    return Pattern(expression, longest, folds=ignore_case)


def open(name: str, context: Context) -> Patterns:
    """Raises TableError."""
    return Patterns(name, context, Dialect(compile_pattern, "imx", second=True))
