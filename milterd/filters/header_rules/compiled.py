"""Rules ready to run: parameters put in, patterns compiled once, names sorted for dispatch."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import regex  # type: ignore[import-untyped]  # it carries no type information

from milterd.core.filter import Need
from milterd.core.mail import Direction
from milterd.filters.header_rules import conditions
from milterd.filters.header_rules.conditions import Condition, glob_pattern, value_pattern
from milterd.filters.header_rules.model import ADDING, JUDGING, RuleAction, RuleFile, RuleText
from milterd.filters.header_rules.read import RuleError
from milterd.signed.keep import OnSigned

Parameters = Mapping[str, tuple[str, ...]]
"""What each `@name@` stands for: one text, or any of several."""
FOLD_WIDTH = 78
"""Columns of a line that `fold` leaves as it is (RFC 5322 section 2.1.1)."""
LOCAL_HOST = "localhost (localhost [127.0.0.1])"
"""What `mask-client` puts in place of the client unless the rule says otherwise."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, ready to run.  `text` is octets; see :class:`RuleText` for the rest.

    `exact` are the names in lower case where none is a glob, so that a header without them
    need not be looked at; it is empty where one is, or where the rule names no field.
    """

    name: str
    action: RuleAction
    header: re.Pattern[bytes]
    names: tuple[bytes, ...]
    exact: frozenset[bytes]
    direction: Direction | None
    when: Condition | None
    value: Any  # a regex.Pattern of octets, or None
    words: frozenset[bytes]
    text: bytes
    keep_last: bool
    nth: int | None
    on_top: bool
    position: int
    if_missing: bool
    width: int
    stop: str
    on_signed: OnSigned
    needs_a_name: bool = field(init=False)
    """Whether it does nothing with a header that has none of its `exact` names."""
    takes_off: bool = field(init=False)
    """Whether it takes off each field of its `exact` names, whatever it says."""

    @property
    def judges(self) -> bool:
        """Whether it is about the mail, and not about fields."""
        return self.action in JUDGING

    def __post_init__(self) -> None:
        named = bool(self.exact) and self.action not in ADDING
        chosen = (self.when, self.value, self.nth) != (None, None, None) or self.words or self.stop
        object.__setattr__(self, "needs_a_name", named)
        takes_off = named and self.action is RuleAction.REMOVE and not chosen
        object.__setattr__(self, "takes_off", takes_off)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules in their order, under the set's name.

    `names` are the field names, for mail of each direction, without which no rule does anything;
    None where one may do something with any header.
    """

    name: str
    rules: tuple[Rule, ...]
    names: Mapping[Direction, frozenset[bytes] | None]

    @classmethod
    def of(cls, name: str, rules: Sequence[Rule]) -> RuleSet:
        """These rules."""
        return cls(name, tuple(rules), {each: _names(rules, each) for each in Direction})

    def passes(self, direction: Direction, names: Collection[bytes]) -> bool:
        """Whether no rule does anything with a header of these names, in lower case."""
        wanted = self.names[direction]
        return wanted is not None and wanted.isdisjoint(names)


def compile_rules(file: RuleFile, parameters: Parameters) -> RuleSet:
    """Put the parameters in, and make patterns of texts.  Raises :class:`RuleError`."""
    rules, problems = [], []
    for each in file.rule:
        try:
            rules.append(_rule(each, parameters))
        except (KeyError, regex.error) as error:
            what = (
                f"needs the parameter {error.args[0]!r}, which is not set"
                if isinstance(error, KeyError)
                else f"the pattern in 'value', or 'with', is wrong: {error}"
            )
            problems.append(f"rule {each.name!r}: {what}")
    if problems:
        raise RuleError(f"rule set {file.name!r}", problems)
    return RuleSet.of(file.name, rules)


def _names(rules: Sequence[Rule], direction: Direction) -> frozenset[bytes] | None:
    """For :class:`RuleSet`."""
    those = [each for each in rules if each.direction in (None, direction)]
    if not all(each.needs_a_name for each in those):
        return None
    return frozenset(name for each in those for name in each.exact)


_FLAGS = regex.IGNORECASE | regex.DOTALL


def _rule(text: RuleText, parameters: Parameters) -> Rule:
    # Only with a pattern is 'with' a template, in which a backslash means something.
    form = _first if text.value is None else _first_escaped
    template = _substitute(text.text or _default(text), parameters, form)
    described = value_pattern(text.exact, text.glob, text.value)
    value = None if described is None else _pattern(described, parameters)
    if text.value is not None and text.action is RuleAction.REPLACE:
        _check_template(_substitute(text.value, parameters, _alternatives), template)
    names = text.header or ()
    globs = any(set(each) & {"*", "?"} for each in names)
    return Rule(
        name=text.name,
        action=text.action,
        header=glob_pattern(names),
        names=tuple(each.encode("ascii") for each in names),
        exact=frozenset() if globs else frozenset(each.lower().encode("ascii") for each in names),
        direction=text.direction,
        when=_when(text, parameters),
        value=value,
        words=frozenset(_words(text.word, parameters)),
        text=template.encode("utf-8"),
        keep_last=text.keep == "last",
        nth=text.nth,
        on_top=text.at == "top",
        position=text.position or 0,
        if_missing=text.if_missing,
        width=text.width or FOLD_WIDTH,
        stop=text.stop or ("all" if text.action is RuleAction.STOP else ""),
        on_signed=text.on_signed,
    )


def _default(text: RuleText) -> str:
    return LOCAL_HOST if text.action is RuleAction.MASK_CLIENT else ""


def _pattern(text: str, parameters: Parameters) -> Any:
    return regex.compile(_substitute(text, parameters, _alternatives).encode("utf-8"), _FLAGS)


def _when(text: RuleText, parameters: Parameters) -> Condition | None:
    if text.when is None:
        return None
    return conditions.condition(text.when, lambda each: _pattern(each, parameters))


_NEEDS = {
    RuleAction.HOLD: Need.QUARANTINE,
    RuleAction.REDIRECT: Need.RECIPIENTS | Need.CHANGE_RECIPIENTS,
}


def needs(file: RuleFile) -> Need:
    """What the rules of a file have to be shown and may change, besides header fields."""
    found = Need(0)
    for each in file.rule:
        found |= conditions.needs(each.when) | _NEEDS.get(each.action, Need(0))
    return found


def _check_template(pattern: str, template: str) -> None:
    """Expand the template once, over a match with nothing: raises regex.error if it is wrong."""
    anything = regex.compile(f"{pattern}\n|".encode(), _FLAGS)
    try:
        anything.match(b"").expand(template.encode("utf-8"))
    except IndexError as error:
        raise regex.error(f"in 'with', {error}") from None


_PARAMETER = re.compile(r"@([a-z][a-z0-9_]*)@")


def _substitute(text: str, parameters: Parameters, form: Any) -> str:
    """Replace each `@name@`; raises KeyError for one that has no value."""

    def value(match: re.Match[str]) -> str:
        values = tuple(each for each in parameters.get(match[1], ()) if each)
        if not values:
            raise KeyError(match[1])
        return str(form(values))

    return _PARAMETER.sub(value, text)


def _alternatives(values: tuple[str, ...]) -> str:
    return f"(?:{'|'.join(regex.escape(each) for each in values)})"


def _first(values: tuple[str, ...]) -> str:
    return values[0]


def _first_escaped(values: tuple[str, ...]) -> str:
    return values[0].replace("\\", "\\\\")


def _words(text: str | None, parameters: Parameters) -> list[bytes]:
    """The words a `word` condition takes: the parameter's values, or the text itself."""
    if text is None:
        return []
    match = _PARAMETER.fullmatch(text)
    if match is None:
        return [text.lower().encode("utf-8")]
    _substitute(text, parameters, _first)
    return [each.lower().encode("utf-8") for each in parameters[match[1]] if each]
