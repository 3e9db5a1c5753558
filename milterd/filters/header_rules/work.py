"""One rule at work on the fields of a header: what it matches, and what it makes of it.

A rule works on a list of lines, which is the header as the rules before it left it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from milterd.core.decision import Tried
from milterd.core.mail import HeaderField
from milterd.filters.header_rules.compiled import Rule
from milterd.filters.header_rules.conditions import unfolded
from milterd.filters.header_rules.lines import Line, folded
from milterd.filters.header_rules.model import RuleAction
from milterd.filters.header_rules.shield import Shield
from milterd.filters.header_rules.values import masked, without_comments
from milterd.filters.mailbox import AddressError, first_word
from milterd.signed.keep import OnSigned
from milterd.signed.signature import Signature

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
        self._rule, self._matcher, self._shield = rule, matcher, shield
        self._force = rule.on_signed is OnSigned.FORCE
        self.changed = 0
        self.spared = 0
        self.signatures: list[Signature] = []
        """Those that something was spared for, or, by force, those that are broken."""

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
        done = 0
        for at in self._places(lines) if only is None else [_place(only, lines)]:
            result += lines[done:at]
            if at < len(lines):
                result += self._step(lines, at, result)
            done = at + 1
        return [*result, *lines[done:]]

    def _places(self, lines: Sequence[Line]) -> list[int]:
        """Where fields stand that bear one of the rule's names."""
        exact = self._rule.exact
        if exact:
            return [at for at, line in enumerate(lines) if line.field.name.lower() in exact]
        named = self._matcher.named
        return [at for at, line in enumerate(lines) if named(line.field)]

    def _step(self, lines: Sequence[Line], at: int, above: list[Line]) -> list[Line]:
        """What becomes of a line under those that are done."""
        line = lines[at]
        new = self._worked(line)
        if len(new) == 1 and new[0] is line:
            return new
        if not self._allowed(line, new, lambda: [*above, *new, *lines[at + 1 :]]):
            return [line]
        self.changed += 1
        return new

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
        gone = action is RuleAction.REMOVE or not (
            field.value.strip() or action is RuleAction.RENAME
        )
        return None if gone else line._replace(field=field)

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
        return [Line(None, HeaderField(name, value)), line]

    def _limited(self, lines: list[Line]) -> list[Line]:
        """Keep the first or the last of each name that matches."""
        kept: set[bytes] = set()
        gone: set[int] = set()

        def without(at: int) -> list[Line]:
            return [each for at_, each in enumerate(lines) if at_ not in gone and at_ != at]

        places = range(len(lines))
        for at in reversed(places) if self._rule.keep_last else places:
            field = lines[at].field
            if not self._matcher.matches(field):
                continue
            if field.name.lower() in kept and self._allowed(lines[at], (), lambda: without(at)):  # noqa: B023  # called at once
                gone.add(at)
            kept.add(field.name.lower())
        self.changed += len(gone)
        return [each for at, each in enumerate(lines) if at not in gone]

    def _added(self, lines: list[Line]) -> list[Line]:
        name, on_top = self._rule.names[0], self._rule.on_top
        if self._rule.if_missing and any(line.field.named(name) for line in lines):
            return lines
        at = 0 if on_top else (self._rule.position or len(lines) + 1) - 1
        new = Line(None, HeaderField(name, folded(name, self._rule.text)), on_top)
        result = [*lines[:at], new, *lines[at:]]
        if not self._allowed(None, [new], lambda: result):
            return lines
        self.changed += 1
        return result

    def _allowed(
        self, old: Line | None, new: Sequence[Line], become: Callable[[], Iterable[Line]]
    ) -> bool:
        """Whether a line may become these, after which the header is what `become` gives.  What
        that breaks, or is spared for, is noted."""
        found = self._shield.meets(old, new, become, sure=not self._force)
        self.signatures += [each for each in found if each not in self.signatures]
        if found and not self._force:
            self.spared += 1
            return False
        return True


def _place(wanted: Line, lines: Sequence[Line]) -> int:
    """Where this very line stands; beyond the last where it does not."""
    return next((at for at, line in enumerate(lines) if line is wanted), len(lines))


_NO_LINE = Line(None, HeaderField(b"-", b""))


def _refolded(field: HeaderField, width: int) -> bytes | None:
    """The value folded anew where a line of the field is wider, None where none is."""
    lines = field.raw.split(b"\r\n")
    if all(len(each) <= width for each in lines):
        return None
    value = folded(field.name, unfolded(field.value), width)
    return None if value == field.value else value
