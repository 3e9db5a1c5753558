"""One rule at work on the fields of a header: what it matches, and what it makes of it.

A rule works on a list of lines, which is the header as the rules before it left it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from milterd.core.decision import Tried
from milterd.core.mail import HeaderField
from milterd.filters.mailbox import AddressError, first_word
from milterd.filters.ruleset import Rule, RuleAction
from milterd.filters.signatures import Coverage

COLUMNS = 76


@dataclass(frozen=True, slots=True)
class Line:
    """A field in the list that rules work on.

    `origin` is its place in the mail; a line without one was added, `on_top` of
    all others or at the bottom.
    """

    origin: int | None
    field: HeaderField
    on_top: bool = False


class Matcher:
    """A rule's conditions, within its time."""

    def __init__(
        self, rule: Rule, limit: float, clock: Callable[[], float], deadline: float
    ) -> None:
        self._rule, self._limit, self._clock, self._deadline = rule, limit, clock, deadline
        self.why = ""
        """Why the last field of a name that is meant was not."""

    def matches(self, field: HeaderField) -> bool:
        """Whether the rule means this field.  Raises TimeoutError."""
        if not self._rule.header.fullmatch(field.name):
            return False
        if self._rule.words and not self._begins(field.value):
            self.why = "begins with another word"
            return False
        if self._rule.value is None:
            return True
        if self._rule.value.search(unfolded(field.value), timeout=self._time()) is None:
            self.why = "its value does not match"
            return False
        return True

    def substituted(self, field: HeaderField) -> bytes:
        """The new text of a matching field.  Raises TimeoutError."""
        if self._rule.value is None:
            return self._rule.text
        text: bytes = self._rule.value.sub(
            self._rule.text, unfolded(field.value), timeout=self._time()
        )
        # What the pattern took over from the mail may hold a bare line end or NUL.
        return text.translate(None, b"\r\n\0")

    def _begins(self, value: bytes) -> bool:
        """Whether the first word is one of those meant; an unreadable value always is."""
        try:
            word = first_word(value)
        except AddressError:
            return True
        return word.lower().rstrip(b".") in self._rule.words

    def _time(self) -> float:
        left = self._deadline - self._clock()
        if left <= 0:
            raise TimeoutError
        return min(self._limit, left)


class Work:
    """One rule at work on the list; counts what it changed and what it spared."""

    def __init__(self, rule: Rule, matcher: Matcher, coverage: Coverage | None) -> None:
        self._rule, self._matcher, self._coverage = rule, matcher, coverage
        self.changed = 0
        self.spared = 0

    def tried(self, name: str, *, timed_out: bool) -> Tried:
        """What came of the rule, in words."""
        if timed_out:
            return Tried(name, "its time ran out: nothing changed")
        counts = {"changed": self.changed, "kept for a signature": self.spared}
        found = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        return Tried(name, found or "nothing to do")

    def apply(self, lines: list[Line]) -> list[Line]:
        """The list after the rule.  Raises TimeoutError; the list is then as it was."""
        match self._rule.action:
            case RuleAction.ADD:
                return self._added(lines)
            case RuleAction.LIMIT:
                return self._limited(lines)
        changed = (self._changed(line) for line in lines)
        return [line for line in changed if line is not None]

    def _changed(self, line: Line) -> Line | None:
        if not self._matcher.matches(line.field):
            return line
        field = line.field
        match self._rule.action:
            case RuleAction.REPLACE:
                text = self._matcher.substituted(field)
                if text == unfolded(field.value):
                    return line
                field = HeaderField(field.name, folded(field.name, text))
            case RuleAction.RENAME:
                field = HeaderField(self._rule.text, field.value)
                if field.raw == line.field.raw:
                    return line
                if self._spares_addition(field.name, on_top=False):
                    return line
        if self._spares(line):
            return line
        self.changed += 1
        gone = self._rule.action is RuleAction.REMOVE or not (
            field.value.strip() or self._rule.action is RuleAction.RENAME
        )
        return None if gone else replace(line, field=field)

    def _limited(self, lines: list[Line]) -> list[Line]:
        """Keep the first or the last of each name that matches."""
        kept: set[bytes] = set()
        result: list[Line] = []
        for line in reversed(lines) if self._rule.keep_last else lines:
            name = line.field.name.lower()
            if self._matcher.matches(line.field):
                if name in kept and not self._spares(line):
                    self.changed += 1
                    continue
                kept.add(name)
            result.append(line)
        return result[::-1] if self._rule.keep_last else result

    def _added(self, lines: list[Line]) -> list[Line]:
        name, on_top = self._rule.names[0], self._rule.on_top
        if self._rule.if_missing and any(line.field.named(name) for line in lines):
            return lines
        if self._spares_addition(name, on_top=on_top):
            return lines
        self.changed += 1
        new = Line(None, HeaderField(name, folded(name, self._rule.text)), on_top)
        return [new, *lines] if on_top else [*lines, new]

    def _spares(self, line: Line) -> bool:
        """Whether a signature of the mail covers this line, which is then left alone."""
        if self._coverage is None or line.origin is None:
            return False
        spared = self._coverage.covers_field(line.origin)
        self.spared += spared
        return spared

    def _spares_addition(self, name: bytes, *, on_top: bool) -> bool:
        if self._coverage is None:
            return False
        position = 0 if on_top else len(self._coverage.fields)
        spared = self._coverage.covers_addition(name, position)
        self.spared += spared
        return spared


def unfolded(value: bytes) -> bytes:
    """A field's value on one line, without white space at its ends (RFC 5322 section 2.2.3)."""
    return value.replace(b"\r\n", b"").strip(b" \t")


_CHUNK = re.compile(rb"[ \t]*[^ \t]+")


def folded(name: bytes, text: bytes) -> bytes:
    """A value for the field `name`: a space and the text, folded at its own white space."""
    value, column = b" ", len(name) + 2
    for chunk in _CHUNK.findall(text.strip(b" \t")):
        if column + len(chunk) > COLUMNS and chunk[:1] in b" \t" and not value.isspace():
            value += b"\r\n"
            column = 0
        value += chunk
        column += len(chunk)
    return value
