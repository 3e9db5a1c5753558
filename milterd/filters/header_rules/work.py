"""One rule at work on the fields of a header: what it matches, and what it makes of it.

A rule works on a list of lines, which is the header as the rules before it left it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from milterd.core.decision import Tried
from milterd.core.mail import HeaderField
from milterd.filters.header_rules.compiled import Rule
from milterd.filters.header_rules.conditions import unfolded
from milterd.filters.header_rules.lines import Line, folded
from milterd.filters.header_rules.model import OnSigned, RuleAction
from milterd.filters.header_rules.shield import Shield
from milterd.filters.header_rules.values import masked, without_comments
from milterd.filters.mailbox import AddressError, first_word

_REWRITING = frozenset(
    {RuleAction.REPLACE, RuleAction.FOLD, RuleAction.STRIP_COMMENTS, RuleAction.MASK_CLIENT}
)


class Timer:
    """The time that patterns may take: seconds for one search, and until when for all."""

    __slots__ = ("_clock", "_deadline", "_limit")

    def __init__(self, limit: float, clock: Callable[[], float], deadline: float) -> None:
        self._limit, self._clock, self._deadline = limit, clock, deadline

    def left(self) -> float:
        """Seconds for the next search.  Raises TimeoutError if there are none."""
        left = self._deadline - self._clock()
        if left <= 0:
            raise TimeoutError
        return min(self._limit, left)

    def search(self, pattern: Any, value: bytes) -> bool:
        """Whether the pattern is found.  Raises TimeoutError."""
        return pattern.search(value, timeout=self.left()) is not None


class Matcher:
    """Which fields a rule means, within its time."""

    def __init__(self, rule: Rule, timer: Timer) -> None:
        self._rule, self._timer = rule, timer
        self.why = ""
        """Why the last field of a name that is meant was not."""

    def named(self, field: HeaderField) -> bool:
        """Whether the field bears one of the rule's names."""
        if self._rule.exact:
            return field.name.lower() in self._rule.exact
        return self._rule.header.fullmatch(field.name) is not None

    def matches(self, field: HeaderField) -> bool:
        """Whether the rule means this field.  Raises TimeoutError."""
        if not self.named(field):
            return False
        if self._rule.words and not self._begins(field.value):
            self.why = "begins with another word"
            return False
        if self._rule.value is None:
            return True
        if not self._timer.search(self._rule.value, unfolded(field.value)):
            self.why = "its value does not match"
            return False
        return True

    def substituted(self, field: HeaderField) -> bytes:
        """The new text of a matching field.  Raises TimeoutError."""
        if self._rule.value is None:
            return self._rule.text
        text: bytes = self._rule.value.sub(
            self._rule.text, unfolded(field.value), timeout=self._timer.left()
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


class Work:
    """One rule at work on the list; counts what it changed and what it spared."""

    def __init__(self, rule: Rule, matcher: Matcher, shield: Shield) -> None:
        self._rule, self._matcher = rule, matcher
        self._shield = None if rule.on_signed is OnSigned.FORCE else shield
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
            case RuleAction.ADD | RuleAction.INSERT:
                return self._added(lines)
            case RuleAction.LIMIT:
                return self._limited(lines)
        only = self._chosen(lines)
        result: list[Line] = []
        for line in lines:
            if only is None or line is only:
                result += self._worked(line)
            else:
                result.append(line)
        return result

    def fires(self, lines: Sequence[Line]) -> bool:
        """Whether a rule about the whole mail finds its field; one without a name always does.
        Raises TimeoutError."""
        if not self._rule.names:
            return True
        if self._rule.nth is not None:
            return self._chosen(lines) is not None
        return any(self._matcher.matches(line.field) for line in lines)

    def _chosen(self, lines: Sequence[Line]) -> Line | None:
        """The one line that `nth` means; a line of its own where there is none such."""
        nth = self._rule.nth
        if nth is None:
            return None
        found = [line for line in lines if self._matcher.matches(line.field)]
        at = nth - 1 if nth > 0 else len(found) + nth
        if 0 <= at < len(found):
            return found[at]
        return None if self._rule.judges else _NO_LINE

    def _worked(self, line: Line) -> list[Line]:
        if self._rule.action is RuleAction.PREPEND:
            return self._prepended(line)
        changed = self._changed(line)
        return [] if changed is None else [changed]

    def _changed(self, line: Line) -> Line | None:
        if not self._matcher.matches(line.field):
            return line
        field = line.field
        action = self._rule.action
        if action in _REWRITING:
            value = self._rewritten(field)
            if value is None:
                return line
            field = HeaderField(field.name, value)
        elif action is RuleAction.RENAME:
            field = HeaderField(self._rule.text, field.value)
            if field.raw == line.field.raw:
                return line
            if self._spares_addition(field.name, line.origin):
                return line
        if self._spares(line):
            return line
        self.changed += 1
        gone = action is RuleAction.REMOVE or not (
            field.value.strip() or action is RuleAction.RENAME
        )
        return None if gone else replace(line, field=field)

    def _rewritten(self, field: HeaderField) -> bytes | None:
        """The new value of a matching field, None where it is as it should be."""
        old = unfolded(field.value)
        match self._rule.action:
            case RuleAction.FOLD:
                return _refolded(field, self._rule.width)
            case RuleAction.STRIP_COMMENTS:
                text = without_comments(old)
            case RuleAction.MASK_CLIENT:
                text = masked(old, self._rule.text)
            case _:
                text = self._matcher.substituted(field)
        return None if text == old else folded(field.name, text)

    def _prepended(self, line: Line) -> list[Line]:
        if not self._matcher.matches(line.field):
            return [line]
        name, _, value = self._rule.text.partition(b":")
        if self._spares_addition(name, line.origin):
            return [line]
        self.changed += 1
        return [Line(None, HeaderField(name, value)), line]

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
        at = 0 if on_top else (self._rule.position or len(lines) + 1) - 1
        below = next((each.origin for each in lines[at:] if each.origin is not None), None)
        if self._spares_addition(name, 0 if on_top else below):
            return lines
        self.changed += 1
        new = Line(None, HeaderField(name, folded(name, self._rule.text)), on_top)
        return [*lines[:at], new, *lines[at:]]

    def _spares(self, line: Line) -> bool:
        """Whether a signature of the mail covers this line, which is then left alone."""
        if self._shield is None or line.origin is None:
            return False
        spared = self._shield.field(line.origin)
        self.spared += spared
        return spared

    def _spares_addition(self, name: bytes, position: int | None) -> bool:
        if self._shield is None:
            return False
        spared = self._shield.addition(name, position)
        self.spared += spared
        return spared


_NO_LINE = Line(None, HeaderField(b"-", b""))


def _refolded(field: HeaderField, width: int) -> bytes | None:
    """The value folded anew where a line of the field is wider, None where none is."""
    lines = field.raw.split(b"\r\n")
    if all(len(each) <= width for each in lines):
        return None
    value = folded(field.name, unfolded(field.value), width)
    return None if value == field.value else value
