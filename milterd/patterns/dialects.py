"""The two dialects of tables with patterns: regexp_table(5) and pcre_table(5)."""

from __future__ import annotations

import regex  # type: ignore[import-untyped]  # it carries no type information

from milterd.patterns import perl, posix
from milterd.patterns.matching import Pattern
from milterd.patterns.rulefile import Dialect


def compile_regexp(pattern: bytes, flags: frozenset[str], wants_groups: bool) -> Pattern:
    """Raises ValueError.  Each flag turns its default round: i and x are on, m is off."""
    ignore_case = "i" not in flags
    given = posix.Flags("x" not in flags, ignore_case, "m" in flags)
    expression = posix.translate(pattern, given)
    # Which of several matches is taken shows in $n only: POSIX has the longest.
    longest = regex.POSIX if wants_groups else 0
    return Pattern(expression, longest, folds=ignore_case)


def compile_pcre(pattern: bytes, flags: frozenset[str], wants_groups: bool) -> Pattern:  # noqa: ARG001 - the other dialect compiles by it
    """Raises ValueError.  Each flag turns its default round: i and s are on, the others off; X
    means nothing, as with PCRE2."""
    options = perl.Options(
        ignore_case="i" not in flags,
        multiline="m" in flags,
        dot_all="s" not in flags,
        extended="x" in flags,
        anchored="A" in flags,
        end_only="E" in flags,
        ungreedy="U" in flags,
    )
    return Pattern(perl.translate(pattern, options))


REGEXP = Dialect(compile_regexp, "imx", second=True)
PCRE = Dialect(compile_pcre, "imsxAEUX", obsolete="X")
