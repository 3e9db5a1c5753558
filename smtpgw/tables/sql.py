"""From a query template to a statement with parameters: a key never becomes SQL.  Pure.

In `... WHERE address = '%u@%d'` the quotes belong to the template: the whole quoted string
is one parameter, built from the key's parts.  Where an expansion stands outside of quotes,
Postfix pastes the key into the statement; here it is a parameter that must be a number.
Anywhere else (in a name, in a comment, after FROM) no parameter can stand, and the template
is refused with ValueError.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from smtpgw.tables.template import Expansion, Parts, Template, expand

Unit = str | Expansion


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a server reads SQL.  `strings`: quotes of strings; `names`: quotes of names;
    `marker(n)`: the n-th parameter, from 1; `backslash`: escapes in every string (MySQL);
    `escapes`: in E'...' (PostgreSQL), which has $$...$$ too; `percent`: what stands for "%";
    `hashes`: `#` begins a comment; `first`: only the first of several statements counts."""

    marker: Callable[[int], str]
    strings: str = "'"
    names: str = '"'
    backslash: bool = False
    escapes: bool = False
    percent: str = "%"
    hashes: bool = False
    first: bool = False


SQLITE = Dialect(lambda n: f"?{n}", strings="'\"", names="`", first=True)
"""Quotes `"` round a name too; with an expansion between them they can only mean a string."""
MYSQL = Dialect(lambda _: "%s", strings="'\"", names="`", backslash=True, percent="%%", hashes=True)
POSTGRESQL = Dialect(lambda n: f"${n}", escapes=True)


class NotANumber(ValueError):  # noqa: N818 - it is no error of ours
    """The key has something else where only a number can stand."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """What to bind: a string with the key's parts in it, or a bare number."""

    template: Template
    number: bool = False

    def value(self, key: Parts) -> str | int:
        """Raises NotANumber; a key that is not UTF-8 must not come here."""
        text = expand(self.template, key.get)
        if not self.number:
            return text.decode()
        if not text.isdigit() or len(text) > 18:
            raise NotANumber
        return int(text)


@dataclass(frozen=True, slots=True)
class Statement:
    """SQL with markers, and what to bind to them in their order; `ends`: where in the text each
    marker ends."""

    text: str
    parameters: tuple[Parameter, ...]
    ends: tuple[int, ...]

    def bind(self, key: Parts) -> list[str | int]:
        """Raises NotANumber."""
        return [each.value(key) for each in self.parameters]

    def behind(self, numbers: Iterable[int], text: str) -> str:
        """The text with more behind the markers of these numbers, from 1."""
        found = self.text
        for end in sorted((self.ends[number - 1] for number in numbers), reverse=True):
            found = found[:end] + text + found[end:]
        return found


def compile_query(template: Template, dialect: Dialect) -> Statement:
    """Raises ValueError for an expansion where no parameter can stand."""
    return _Compiler(template, dialect).compile()


def _without_expansions(units: Template, where: str) -> str:
    for each in units:
        if not isinstance(each, str):
            raise ValueError(f"%{each.letter} in {where}")  # noqa: TRY004 - of the template's text
    return "".join(map(str, units))


_NO_VALUE = re.compile(r"(?i)(?:\b(?:from|join|into|update|table|call|exec|execute|by|as)\s*|[.])$")
"""Behind these stands a name (or a list of names), never a number."""
_MYSQL_ESCAPES = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a"}
_PG_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def _wordy(unit: Unit | None) -> bool:
    """Whether it can be a part of a name, or touches one."""
    return isinstance(unit, Expansion) or (
        unit is not None and (unit.isalnum() or unit in "_$@.\"'`\\" or not unit.isascii())
    )


class _Compiler:
    def __init__(self, template: Template, dialect: Dialect) -> None:
        self._units, self._dialect = template, dialect
        self._at = 0
        self._text: list[str] = []
        self._parameters: list[Parameter] = []
        self._ends: list[int] = []

    def compile(self) -> Statement:
        while (unit := self._peek()) is not None:
            if self._dialect.first and unit == ";":
                break
            if isinstance(unit, Expansion):
                self._bare(unit)
            elif not self._comment() and not self._quoted(unit):
                self._emit(unit)
                self._at += 1
        return Statement(self._said(), tuple(self._parameters), tuple(self._ends))

    def _peek(self, ahead: int = 0) -> Unit | None:
        at = self._at + ahead
        return self._units[at] if at < len(self._units) else None

    def _emit(self, text: str) -> None:
        if text == "$" and self._dialect.escapes and self._is_digit(self._peek(1)):
            raise ValueError(f"${self._peek(1)}, which means a parameter to the server")
        self._copy(text)

    def _copy(self, text: str) -> None:
        self._text.append(text.replace("%", self._dialect.percent))

    @staticmethod
    def _is_digit(unit: Unit | None) -> bool:
        return isinstance(unit, str) and unit.isdigit()

    def _bind(self, parameter: Parameter) -> None:
        self._parameters.append(parameter)
        self._text.append(self._dialect.marker(len(self._parameters)))
        self._ends.append(len(self._said()))

    def _said(self) -> str:
        return "".join(self._text)

    # Outside of quotes

    def _bare(self, unit: Expansion) -> None:
        before = self._units[self._at - 1] if self._at else None
        behind = self._peek(1)
        if _wordy(before) or _wordy(behind) or behind == "(" or _NO_VALUE.search(self._said()):
            raise ValueError(f"%{unit.letter} outside of quotes, where a name stands")
        self._at += 1
        self._bind(Parameter((unit,), number=True))

    # Comments

    def _comment(self) -> bool:
        two = "".join(str(each) for each in self._units[self._at : self._at + 2] if each)
        if two == "--" or (self._dialect.hashes and two[:1] == "#"):
            end = self._find("\n")
        elif two == "/*":
            end = self._find("*/")
        else:
            return False
        self._copy(_without_expansions(self._units[self._at : end], "a comment"))
        self._at = end
        return True

    def _find(self, end: str) -> int:
        """Behind the next `end`, or the end of all."""
        for at in range(self._at + len(end), len(self._units) + 1):
            if "".join(map(str, self._units[at - len(end) : at])) == end:
                return at
        return len(self._units)

    # Strings and names

    def _quoted(self, quote: str) -> bool:
        dialect = self._dialect
        if quote in dialect.strings:
            self._string(quote)
        elif quote in dialect.names or (quote == "[" and dialect is SQLITE):
            self._name("]" if quote == "[" else quote)
        elif quote == "$" and dialect.escapes:
            return self._dollars()
        else:
            return False
        return True

    def _name(self, quote: str) -> None:
        end = self._at + 1
        while end < len(self._units) and self._units[end] != quote:
            end += 1
        self._copy(_without_expansions(self._units[self._at : end + 1], "a quoted name"))
        self._at = end + 1

    def _dollars(self) -> bool:
        """$$...$$ or $tag$...$tag$."""
        rest = "".join(each if isinstance(each, str) else "\0" for each in self._units[self._at :])
        match = re.match(r"(?s)(\$(?:[^\W\d]\w*)?\$)(.*?)\1", rest)
        if match is None:
            return False
        content = self._units[self._at + match.start(2) : self._at + match.end(2)]
        if any(isinstance(each, Expansion) for each in content):
            self._bind(Parameter(content))
        else:
            self._copy(match[0])
        self._at += match.end()
        return True

    def _string(self, quote: str) -> None:
        """A string without expansions stays as it is; with some it becomes a parameter."""
        prefix = re.search(r"(?i)(?:\b(?:[ebnx]|_\w+)|u&)$", self._said())
        escaped = bool(prefix and prefix[0] in "eE" and self._dialect.escapes)
        start = self._at
        content = self._content(quote, backslash=self._dialect.backslash or escaped)
        if not any(isinstance(each, Expansion) for each in content):
            self._copy("".join(map(str, self._units[start : self._at])))
            return
        if escaped:
            self._text.pop()
        elif prefix and not (self._dialect.backslash and prefix[0][0] in "nN_"):
            raise ValueError(f"an expansion in {prefix[0]}{quote}...{quote}")
        self._bind(Parameter(content))

    def _content(self, quote: str, *, backslash: bool) -> Template:
        """What a string says, without its quotes and escapes; we stand behind it then."""
        found: list[Unit] = []
        self._at += 1
        while (unit := self._peek()) is not None:
            behind = self._peek(1)
            if unit == quote and behind != quote:
                self._at += 1
                return tuple(found)
            if unit == quote:
                found.append(quote)
                self._at += 2
            elif unit == "\\" and backslash:
                found.extend(self._escape(behind))
                self._at += 2
            else:
                found.append(unit)
                self._at += 1
        raise ValueError(f"a string without its closing {quote}")

    def _escape(self, letter: Unit | None) -> str:
        if letter is None or isinstance(letter, Expansion):
            raise ValueError("an expansion behind a backslash")
        if self._dialect.backslash:
            kept = "\\" + letter if letter in "%_" else letter
            return _MYSQL_ESCAPES.get(letter, kept)
        if letter in "01234567xuU":
            raise ValueError(f"\\{letter} in a string with an expansion")
        return _PG_ESCAPES.get(letter, letter)
