"""pcre: - rules with Perl's patterns, the first that fits counts (pcre_table(5))."""

from __future__ import annotations

from smtpgw.tables import perl
from smtpgw.tables.context import Context
from smtpgw.tables.matching import Pattern
from smtpgw.tables.patterns import Patterns
from smtpgw.tables.rulefile import Dialect


def compile_pattern(pattern: bytes, flags: frozenset[str], wants_groups: bool) -> Pattern:  # noqa: ARG001 - another dialect compiles by it
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


def open(name: str, context: Context) -> Patterns:
    """Raises TableError."""
    return Patterns(name, context, Dialect(compile_pattern, "imsxAEUX", obsolete="X"))
