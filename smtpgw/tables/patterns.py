"""What regexp: and pcre: have in common: matching keys with the `regex` library under a time
limit.

A lookup that takes longer than Context.regex_limit is Unavailable: Postfix has no limit for
POSIX patterns, and takes PCRE's for "does not match", so that a key made for it gets past
a rule.
"""

from __future__ import annotations

from smtpgw.tables.context import Context
from smtpgw.tables.matching import Subject
from smtpgw.tables.rulefile import Dialect, RuleFile
from smtpgw.tables.sources import Report, rules
from smtpgw.tables.table import Found, Local, Unavailable


class Patterns(Local):
    """Rules with patterns."""

    def __init__(self, name: str, context: Context, dialect: Dialect) -> None:
        super().__init__(context.spec(name))
        self._context, self._folding = context, context.folding

        def load(content: bytes, report: Report) -> RuleFile:
            return RuleFile(content, report, dialect)

        self._rules = rules(name, context, load)

    def find_now(self, key: bytes) -> Found | None:
        """Raises Unavailable, also when the time for a lookup is over."""
        if self._folding.pattern(key) is None:
            return None
        limit = self._context.regex_limit
        try:
            found = self._rules.get().find(Subject(key, self._context.clock, limit))
        except TimeoutError:
            raise Unavailable(self.name, f"no answer within {limit:g} s") from None
        if found is None:
            return None
        line, value = found
        if not self._folding.allows(value):
            raise Unavailable(self.name, f"the value of {key!r} is not UTF-8")
        return Found(value, f"{self._rules.place}:{line}")

    def stale(self) -> str:
        """Why an older content is in force; empty if it is not."""
        return self._rules.stale()
