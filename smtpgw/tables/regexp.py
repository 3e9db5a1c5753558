"""regexp: - rules with POSIX patterns, the first that fits counts (regexp_table(5))."""

from __future__ import annotations

from milterd.patterns.dialects import REGEXP
from smtpgw.tables.context import Context
from smtpgw.tables.patterns import Patterns


def open(name: str, context: Context) -> Patterns:
    """Raises TableError."""
    return Patterns(name, context, REGEXP)
