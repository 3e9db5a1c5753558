"""A rule at work with notes of all it looked at, for those who ask why.

Made beside :class:`~milterd.filters.header_rules.work.Work`, so that mail which nobody asks about
does not pay for the notes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from milterd.core.decision import Tried
from milterd.core.mail import HeaderField
from milterd.filters.header_rules.compiled import Rule
from milterd.filters.header_rules.conditions import unfolded
from milterd.filters.header_rules.lines import Line
from milterd.filters.header_rules.model import RuleAction
from milterd.filters.header_rules.shield import Shield
from milterd.filters.header_rules.work import Matcher, Work


class WatchedWork(Work):
    """The same work, with a note on every field of a name that the rule means."""

    def __init__(self, rule: Rule, matcher: Matcher, shield: Shield) -> None:
        super().__init__(rule, matcher, shield)
        self._looked: list[tuple[str, str]] = []

    def tried(self, name: str, *, timed_out: bool) -> Tried:
        found = super().tried(name, timed_out=timed_out)
        if not self._looked and not timed_out and self._rule.names:
            names = [each.decode("ascii") for each in self._rule.names]
            named = " or ".join(names) if len(names) < 4 else f"any of its {len(names)} names"
            return replace(found, outcome=f"no field is called {named}")
        return replace(found, looked=tuple(self._looked))

    def _step(self, lines: Sequence[Line], at: int, above: list[Line]) -> list[Line]:
        line, spared = lines[at], self.spared
        self._matcher.why = ""
        result = super()._step(lines, at, above)
        if not result:
            self._note(line, "removed")
        elif len(result) > 1:
            self._note(line, f"now under {_shown(result[0].field)}")
        elif result[0] is not line:
            self._note(line, f"now {_shown(result[0].field)}")
        elif self.spared > spared:
            self._note(line, self._kept())
        elif self._matcher.named(line.field):
            self._note(line, self._matcher.why or "is as it should be")
        return result

    def _kept(self) -> str:
        names = ", ".join(map(str, self.signatures))
        if self._rule.action is RuleAction.PREPEND:
            return f"a signature forbids another above it: {names}"
        return f"kept: a signature covers it: {names}"

    def _limited(self, lines: list[Line]) -> list[Line]:
        spared = self.spared
        result = super()._limited(lines)
        left = {id(each) for each in result}
        kept = "kept" if self.spared == spared else "kept, as the one or for a signature"
        for line in lines:
            if self._matcher.named(line.field):
                self._note(line, kept if id(line) in left else "removed")
        return result

    def _added(self, lines: list[Line]) -> list[Line]:
        result = super()._added(lines)
        if self.changed:
            found = "added on top" if self._rule.on_top else "added at the bottom"
        else:
            found = "a signature forbids another" if self.spared else "is there already"
        self._looked.append((self._rule.names[0].decode("ascii"), found))
        return result

    def _note(self, line: Line, found: str) -> None:
        place = "added field" if line.origin is None else f"field {line.origin + 1}"
        name = line.field.name.decode("utf-8", "backslashreplace")
        self._looked.append((f"{place}, {name}", found))


def _shown(field: HeaderField) -> str:
    return (field.name + b": " + unfolded(field.value)).decode("utf-8", "backslashreplace")
