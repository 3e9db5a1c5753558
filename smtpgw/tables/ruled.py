"""What cidr:, regexp: and pcre: have in common: rules from a file or from the table's name, and
an answer that names the rule which gave it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

from smtpgw.tables.context import Context
from smtpgw.tables.sources import Report, rules
from smtpgw.tables.table import Changes, Found, Local, Unavailable

T = TypeVar("T")


class Ruled(Local, ABC, Generic[T]):
    """Rules that `load` makes of a text.  Raises TableError."""

    fixed = False

    def __init__(self, name: str, context: Context, load: Callable[[bytes, Report], T]) -> None:
        super().__init__(context.spec(name))
        self._context, self._folding = context, context.folding
        self._rules = rules(name, context, load)

    @abstractmethod
    def rule(self, content: T, key: bytes) -> tuple[int, bytes] | None:
        """Line and value of the rule that fits.  Raises Unavailable."""

    def find_now(self, key: bytes) -> Found | None:
        """Raises Unavailable."""
        found = self.rule(self._rules.get(), key)
        if found is None:
            return None
        line, value = found
        if not self._folding.allows(value):
            raise Unavailable(self.name, f"the value of {key!r} is not UTF-8")
        return Found(value, f"{self._rules.place}:{line}")

    def changes(self) -> tuple[Changes, ...]:
        """How often the file was read; rules that stand in the name never change."""
        return self._rules.changes()

    def stale(self) -> str:
        """Why an older content is in force; empty if it is not."""
        return self._rules.stale()
