"""Running rules over a header, and running a rule's own examples.

Rules work on a list of fields, each in its turn seeing what the ones before it
left; the edits are then the difference between the list as it came and as it
became, from the bottom up, so that no edit moves the index of a later one.  A
renamed field is put in under the one it replaces, which is then deleted: so it
keeps its place whether or not the MTA hides a Received field of its own on top.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from milterd.core.actions import AddHeader, ChangeHeader, HeaderEdit, InsertHeader
from milterd.core.apply import apply
from milterd.core.decision import Trace, Tried
from milterd.core.mail import Direction, HeaderField, Mail, Session, split_header
from milterd.filters.ruleset import (
    Example,
    Rule,
    RuleError,
    RuleFile,
    RuleSet,
    compile_rules,
)
from milterd.filters.signatures import covers
from milterd.filters.watched import WatchedWork
from milterd.filters.work import Line, Matcher, Work


@dataclass(frozen=True, slots=True)
class Limits:
    """How long rules may take: seconds for one pattern on one field, and for a mail."""

    match: float = 0.1
    mail: float = 1.0


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
    rule_sets: Iterable[RuleSet],
    mail: Mail,
    limits: Limits,
    clock: Callable[[], float],
    trace: Trace | None = None,
) -> Outcome:
    """Apply the rules for the mail's direction.  `clock` counts seconds.

    A rule that runs out of time changes nothing; those after it still run while
    the mail's time lasts.  `trace` is told of every rule, in order.
    """
    lines = [Line(at, each) for at, each in enumerate(mail.headers) if not each.hidden]
    results, coverage, deadline = [], covers(mail), clock() + limits.mail
    direction = mail.session.direction
    kind = Work if trace is None else WatchedWork
    for rule_set in rule_sets:
        for rule in rule_set.rules:
            if rule.direction not in (None, direction):
                if trace is not None:
                    trace(Tried(_named(rule_set, rule), f"not for {direction.value} mail"))
                continue
            matcher = Matcher(rule, limits.match, clock, deadline)
            work = kind(rule, matcher, coverage if _keeps(rule, direction) else None)
            timed_out = False
            try:
                lines = work.apply(lines)
            except TimeoutError:
                timed_out = True
                results.append(RuleResult(rule_set.name, rule.name, timed_out=True))
            if not timed_out and (work.changed or work.spared):
                results.append(RuleResult(rule_set.name, rule.name, work.changed, work.spared))
            if trace is not None:
                trace(work.tried(_named(rule_set, rule), timed_out=timed_out))
    return Outcome(tuple(difference(mail.headers, lines)), tuple(results))


def _named(rule_set: RuleSet, rule: Rule) -> str:
    return f"{rule_set.name}: {rule.name}"


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
