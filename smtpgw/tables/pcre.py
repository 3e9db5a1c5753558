"""pcre: - rules with Perl's patterns, the first that fits counts (pcre_table(5))."""

from __future__ import annotations

from milterd.patterns.dialects import PCRE
from smtpgw.tables.context import Context
from smtpgw.tables.patterns import Patterns


def open(name: str, context: Context) -> Patterns:
    """Raises TableError."""
    return Patterns(name, context, PCRE)
