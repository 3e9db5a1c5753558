"""The lines of regexp: and pcre: tables: /pattern/flags result, !, if, endif, $n.

What a line means and which line is skipped is as in dict_regexp.c and dict_pcre.c.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from milterd.patterns.matching import Match, Pattern, Subject

_SPACE = b" \t\r\n\v\f"
_WORD = re.compile(rb"(if|endif)(?![A-Za-z0-9])", re.IGNORECASE)
_NAME = re.compile(rb"[A-Za-z0-9_]*")


class Report(Protocol):
    """Who is told what is wrong with a line."""

    def skip(self, line: int, found: str, expected: str = "") -> None:
        """A line that cannot be used; may raise."""
        ...

    def note(self, line: int, found: str, expected: str = "") -> None:
        """A line that counts, but hardly means what it says."""
        ...


@dataclass(frozen=True, slots=True)
class Condition:
    """A pattern that has to fit, or has not to."""

    test: Pattern
    positive: bool

    def holds(self, subject: Subject) -> tuple[bool, Match | None]:
        """Whether it does, and what was found.  Raises TimeoutError."""
        match = self.test.search(subject)
        return (match is not None) is self.positive, match


@dataclass(frozen=True, slots=True)
class Rule:
    """`parts`: text and numbers of groups, in turn."""

    line: int
    conditions: tuple[Condition, ...]
    parts: tuple[bytes | int, ...]

    def answer(self, match: Match | None) -> bytes:
        """The result with what the groups took."""
        if match is None:
            return b"".join(each for each in self.parts if isinstance(each, bytes))
        return b"".join(
            each if isinstance(each, bytes) else match.group(each) for each in self.parts
        )


@dataclass(slots=True)
class Block:
    """`if`; `end`: the index of the rule behind its endif, -1 if there is none."""

    line: int
    condition: Condition
    end: int = -1


@dataclass(frozen=True, slots=True)
class Dialect:
    """What differs.  `compile(pattern, flags, wants_groups)` raises ValueError; `flags`: the
    letters that may follow a pattern, `obsolete` those among them that mean nothing; `second`:
    whether `/one/!/other/` is one rule."""

    compile: Callable[[bytes, frozenset[str], bool], Pattern]
    flags: str
    obsolete: str = ""
    second: bool = False


class RuleFile:
    """A table read from its logical lines, each with its number."""

    def __init__(
        self,
        lines: Iterable[tuple[int, bytes]],
        report: Report,
        dialect: Dialect,
        *,
        substitute: bool = True,
    ) -> None:
        self._dialect, self._report, self._substitute = dialect, report, substitute
        self._rules: list[Rule | Block] = []
        self._open: list[Block] = []
        for line, text in lines:
            try:
                self._read(line, text.strip(_SPACE))
            except ValueError as error:
                report.skip(line, repr(text[:100]), str(error))
        for each in self._open:
            report.note(each.line, "if without endif", "endif")

    def results(self) -> Iterable[tuple[int, tuple[bytes | int, ...]]]:
        """Line and parts of every rule's result."""
        return ((each.line, each.parts) for each in self._rules if isinstance(each, Rule))

    def find(self, subject: Subject) -> tuple[int, bytes] | None:
        """Line and result of the first rule that fits.  Raises TimeoutError."""
        at, rules = 0, self._rules
        while at < len(rules):
            rule = rules[at]
            at += 1
            if isinstance(rule, Block):
                if not rule.condition.holds(subject)[0]:
                    if rule.end < 0:
                        return None
                    at = rule.end
                continue
            first: Match | None = None
            for number, each in enumerate(rule.conditions):
                holds, match = each.holds(subject)
                if not holds:
                    break
                first = first if number else match
            else:
                return rule.line, rule.answer(first)
        return None

    def _read(self, line: int, text: bytes) -> None:
        word = _WORD.match(text)
        if word is None and text[:1].isalnum():
            raise ValueError("/pattern/flags result, if or endif")
        if word is None:
            self._rule(line, text)
        elif word[1].lower() == b"if":
            self._if(line, text[2:].lstrip(_SPACE))
        else:
            self._endif(line, text[5:])

    def _written(self, line: int, text: bytes) -> _Written:
        written = _Written.read(text, self._dialect)
        obsolete = written.flags & frozenset(self._dialect.obsolete)
        if obsolete:
            self._report.note(line, f"flag {', '.join(obsolete)}", "it no longer")
        return written

    def _rule(self, line: int, text: bytes) -> None:
        patterns = [self._written(line, text)]
        if self._dialect.second and patterns[0].rest.startswith(b"!"):
            patterns.append(self._written(line, patterns[0].rest))
        result = patterns[-1].rest.lstrip(_SPACE)
        if not result:
            self._report.note(line, "no result", "one")
        parts = split_result(result)
        highest = max((each for each in parts if isinstance(each, int)), default=0)
        if highest and not self._substitute:
            raise ValueError("a result without $number in this table")
        if highest and not patterns[0].positive:
            raise ValueError("no $number with a negated pattern")
        tests = [each.condition(self._dialect, wants_groups=highest > 0) for each in patterns]
        if highest > tests[0].test.groups:
            raise ValueError(f"no ${highest}: there are {tests[0].test.groups} groups")
        self._rules.append(Rule(line, tuple(tests), parts))

    def _if(self, line: int, text: bytes) -> None:
        written = self._written(line, text)
        if written.rest.strip(_SPACE):
            self._report.note(line, repr(written.rest), "nothing behind an if's pattern")
        block = Block(line, written.condition(self._dialect, wants_groups=False))
        self._rules.append(block)
        self._open.append(block)

    def _endif(self, line: int, rest: bytes) -> None:
        if not self._open:
            raise ValueError("an if before endif")
        if rest.strip(_SPACE):
            self._report.note(line, repr(rest), "nothing behind endif")
        self._open.pop().end = len(self._rules)


@dataclass(frozen=True, slots=True)
class _Written:
    """A pattern as it stands in the line, and the rest of the line."""

    pattern: bytes
    flags: frozenset[str]
    positive: bool
    rest: bytes

    @classmethod
    def read(cls, text: bytes, dialect: Dialect) -> _Written:
        """Raises ValueError saying what was expected."""
        signs = re.match(rb"[!\s]*", text)
        begin = signs.end() if signs else 0
        if begin >= len(text):
            raise ValueError("a pattern")
        delimiter, end = text[begin], begin + 1
        while end < len(text) and text[end] != delimiter:
            end += 2 if text[end] == 0x5C else 1
        if end >= len(text):
            raise ValueError(f"a second {chr(delimiter)!r} behind the pattern")
        stop = b"!" if dialect.second else b""
        flags, behind = set[str](), end + 1
        while behind < len(text) and text[behind] not in _SPACE + stop:
            flag = chr(text[behind])
            if flag not in dialect.flags:
                raise ValueError(f"no flag but {', '.join(dialect.flags)}")
            flags ^= {flag}
            behind += 1
        positive = text[:begin].count(b"!") % 2 == 0
        return cls(text[begin + 1 : end], frozenset(flags), positive, text[behind:])

    def condition(self, dialect: Dialect, *, wants_groups: bool) -> Condition:
        """Raises ValueError."""
        try:
            test = dialect.compile(self.pattern, self.flags, wants_groups)
        except RecursionError:
            raise ValueError("fewer groups inside each other") from None
        return Condition(test, self.positive)


def split_result(text: bytes) -> tuple[bytes | int, ...]:
    """Text and group numbers of a result: $1 ${1} $(1), and $$ for a dollar (mac_parse()).
    Raises ValueError saying what was expected."""
    parts: list[bytes | int] = []
    at = 0
    while True:
        dollar = text.find(b"$", at)
        if dollar < 0:
            parts.append(text[at:])
            return tuple(each for each in parts if each != b"")
        parts.append(text[at:dollar])
        following = text[dollar + 1 : dollar + 2]
        if following == b"$":
            parts.append(b"$")
            at = dollar + 2
        else:
            name, at = _macro(text, dollar + 1)
            if not name.isdigit() or int(name) < 1:
                raise ValueError("a group's number behind $")
            parts.append(int(name))


def _macro(text: bytes, start: int) -> tuple[bytes, int]:
    opening = text[start : start + 1]
    if opening not in (b"(", b"{") or not opening:
        name = _NAME.match(text, start)
        end = name.end() if name else start
        return text[start:end], end
    closing, depth, end = {b"(": b")", b"{": b"}"}[opening], 1, start
    while depth:
        end += 1
        if end >= len(text):
            raise ValueError(f"{closing.decode()} behind ${opening.decode()}")
        each = text[end : end + 1]
        depth += (each == opening) - (each == closing)
    return text[start + 1 : end], end + 1
