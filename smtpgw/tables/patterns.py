"""What regexp: and pcre: have in common: matching keys with the `regex` library under a time
limit.

A lookup that takes longer than Context.regex_limit is Unavailable: Postfix has no limit for
POSIX patterns, and takes PCRE's for "does not match", so that a key made for it gets past
a rule.
"""

from __future__ import annotations

from milterd.patterns.matching import Subject
from milterd.patterns.rulefile import Dialect, RuleFile
from smtpgw.tables.context import Context
from smtpgw.tables.ruled import Ruled
from smtpgw.tables.sources import Report, logical_lines
from smtpgw.tables.table import Unavailable


class Patterns(Ruled[RuleFile]):
    """Rules with patterns."""

    def __init__(self, name: str, context: Context, dialect: Dialect) -> None:
        def load(content: bytes, report: Report) -> RuleFile:
            lines = logical_lines(content, report)
            return RuleFile(lines, report, dialect, substitute=context.substitute)

        super().__init__(name, context, load)

    def rule(self, content: RuleFile, key: bytes) -> tuple[int, bytes] | None:
        """Raises Unavailable when the time for a lookup is over."""
        if self._folding.pattern(key) is None:
            return None
        limit = self._context.regex_limit
        try:
            return content.find(Subject(key, self._context.clock, limit))
        except TimeoutError:
            raise Unavailable(self.name, f"no answer within {limit:g} s") from None
