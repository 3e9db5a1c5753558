"""Running rules over a header, and running a rule's own examples.

Rules work on a list of fields, each in its turn seeing what the ones before it
left; the edits are then the difference between the list as it came and as it
became, from the bottom up, so that no edit moves the index of a later one.  A
renamed field is put in under the one it replaces, which is then deleted: so it
keeps its place whether or not the MTA hides a Received field of its own on top.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from milterd.core.actions import AddHeader, ChangeHeader, HeaderEdit, InsertHeader
from milterd.core.apply import apply
from milterd.core.mail import Direction, HeaderField, Mail, Session, split_header
from milterd.filters.mailbox import AddressError, first_word
from milterd.filters.ruleset import (
    Example,
    Rule,
    RuleAction,
    RuleError,
    RuleFile,
    RuleSet,
    compile_rules,
)
from milterd.filters.signatures import Coverage, covers

COLUMNS = 76


@dataclass(frozen=True, slots=True)
class Limits:
    """How long rules may take: seconds for one pattern on one field, and for a mail."""

    match: float = 0.1
    mail: float = 1.0


@dataclass(frozen=True, slots=True)
class Line:
    """A field in the list that rules work on.

    `origin` is its place in the mail; a line without one was added, `on_top` of
    all others or at the bottom.
    """

    origin: int | None
    field: HeaderField
    on_top: bool = False


@dataclass(frozen=True, slots=True)
class RuleResult:
    """What one rule did: fields changed, fields spared for a signature, or no time left."""

    rule_set: str
    rule: str
    changed: int = 0
    spared: int = 0
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """The edits that all rules together come to, and what each rule did."""

    edits: tuple[HeaderEdit, ...] = ()
    results: tuple[RuleResult, ...] = ()


def run(
    rule_sets: Iterable[RuleSet], mail: Mail, limits: Limits, clock: Callable[[], float]
) -> Outcome:
    """Apply the rules for the mail's direction.  `clock` counts seconds.

    A rule that runs out of time changes nothing; those after it still run while
    the mail's time lasts.
    """
    lines = [Line(at, each) for at, each in enumerate(mail.headers) if not each.hidden]
    results, coverage, deadline = [], covers(mail), clock() + limits.mail
    direction = mail.session.direction
    for rule_set in rule_sets:
        for rule in rule_set.rules:
            if rule.direction not in (None, direction):
                continue
            matcher = _Matcher(rule, limits.match, clock, deadline)
            work = _Work(rule, matcher, coverage if _keeps(rule, direction) else None)
            try:
                lines = work.apply(lines)
            except TimeoutError:
                results.append(RuleResult(rule_set.name, rule.name, timed_out=True))
                continue
            if work.changed or work.spared:
                results.append(RuleResult(rule_set.name, rule.name, work.changed, work.spared))
    return Outcome(tuple(difference(mail.headers, lines)), tuple(results))


def _keeps(rule: Rule, direction: Direction) -> bool:
    if rule.keep_signatures is None:
        return direction is Direction.INBOUND
    return rule.keep_signatures


def difference(fields: Sequence[HeaderField], lines: Iterable[Line]) -> Iterator[HeaderEdit]:
    """The edits that make `lines` of `fields`; lines with an origin keep their order."""
    left: dict[int, HeaderField] = {}
    top: list[HeaderField] = []
    bottom: list[HeaderField] = []
    for line in lines:
        if line.origin is not None:
            left[line.origin] = line.field
        else:
            (top if line.on_top else bottom).append(line.field)
    for position, nth in reversed(list(_counted(fields))):
        old, new = fields[position], left.get(position)
        if new is old:
            continue
        if new is None:
            yield ChangeHeader(old.name, nth, b"")
        elif new.named(old.name):
            # A change to an empty value is a deletion: an empty field keeps its spelling.
            if new.value.strip():
                yield ChangeHeader(new.name, nth, new.value)
        else:
            yield InsertHeader(position + 1, new.name, new.value)
            yield ChangeHeader(old.name, nth, b"")
    yield from (AddHeader(each.name, each.value) for each in bottom)
    yield from (InsertHeader(0, each.name, each.value) for each in reversed(top))


def _counted(fields: Sequence[HeaderField]) -> Iterator[tuple[int, int]]:
    """Each visible field's place among all, and its number among those of its name."""
    seen: Counter[bytes] = Counter()
    for position, each in enumerate(fields):
        if not each.hidden:
            name = each.name.lower()
            seen[name] += 1
            yield position, seen[name]


class _Matcher:
    """A rule's conditions, within its time."""

    def __init__(
        self, rule: Rule, limit: float, clock: Callable[[], float], deadline: float
    ) -> None:
        self._rule, self._limit, self._clock, self._deadline = rule, limit, clock, deadline

    def matches(self, field: HeaderField) -> bool:
        """Whether the rule means this field.  Raises TimeoutError."""
        if not self._rule.header.fullmatch(field.name):
            return False
        if self._rule.words and not self._begins(field.value):
            return False
        if self._rule.value is None:
            return True
        return self._rule.value.search(unfolded(field.value), timeout=self._time()) is not None

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


class _Work:
    """One rule at work on the list; counts what it changed and what it spared."""

    def __init__(self, rule: Rule, matcher: _Matcher, coverage: Coverage | None) -> None:
        self._rule, self._matcher, self._coverage = rule, matcher, coverage
        self.changed = 0
        self.spared = 0

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


def check(file: RuleFile) -> list[str]:
    """Run every example of every rule; what is wrong, in words.  Empty when all is well."""
    parameters = {name: (value,) for name, value in file.parameters.items()}
    try:
        rules = compile_rules(file, parameters).rules
    except RuleError as error:
        return [f"{error.source}: {each}" for each in error.problems]
    problems: list[str] = []
    for text, rule in zip(file.rule, rules, strict=True):
        place = f"rule set {file.name!r}: rule {rule.name!r}"
        if all(each.before == each.after for each in text.example):
            problems.append(f"{place}: no example shows it at work")
        for number, example in enumerate(text.example, 1):
            found = _run_example(rule, example)
            if found != example.after:
                expected = list(example.after)
                problems.append(
                    f"{place}: example {number}: expected {expected}, found {list(found)}"
                )
    return problems


def _run_example(rule: Rule, example: Example) -> tuple[str, ...]:
    """The example's header after this rule alone, through edits as in real life."""
    block = "".join(f"{each}\r\n" for each in example.before).encode("utf-8")
    mail = Mail(session=Session(direction=example.direction), headers=split_header(block)[0])
    outcome = run([RuleSet("example", (rule,))], mail, Limits(10.0, 10.0), lambda: 0.0)
    return tuple(each.raw.decode("utf-8", "replace") for each in apply(mail, outcome.edits).headers)
