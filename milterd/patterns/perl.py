"""PCRE patterns for the `regex` library, as PCRE2 10.42 reads them without UTF.  Pure.

Case, ., ^, $ and greediness are written out, so that no flag is left for the library; its
own syntax then has one meaning.  What it cannot do is refused: (*VERB)s but for FAIL,
PRUNE and SKIP, callouts, (?J), scripts in \\p{}.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from milterd.patterns import perl_class as classes
from milterd.patterns.expression import (
    BadPatternError,
    Expression,
    Knowledge,
    character_class,
    code,
)

MOST = 65535
"""The largest bound of a quantifier."""
_BOUNDS = re.compile(r"\{(\d+)(,?)(\d*)\}")
_OPTIONS = re.compile(r"(\^?)([imsxnU]*)(?:-([imsxnU]*))?([:)])")
_NAMED = re.compile(r"P?<(\w+)>|'(\w+)'")
_VERB = re.compile(r"\*([A-Z]*)\)")
_WORD = "[0-9A-Za-z_]"
_EDGE = f"(?:(?<={_WORD})(?!{_WORD})|(?<!{_WORD})(?={_WORD}))"
_SIMPLE = {
    "A": "\\A",
    "z": "\\Z",
    "Z": "(?=\\n?\\Z)",
    "G": "\\A",
    "b": _EDGE,
    "B": f"(?!{_EDGE})",
    "K": "\\K",
}
_REPEATABLE = {
    "N": "[^\\n]",
    "R": "(?>\\r\\n|[\\n-\\r\\x85])",
    "X": "(?>\\r\\n|[\\x00-\\xff])",
    "C": "[\\x00-\\xff]",
}
_LOOKS = {"?=": "(?=", "?!": "(?!", "?<=": "(?<=", "?<!": "(?<!"}


@dataclass(frozen=True, slots=True)
class Options:
    """As in Postfix's pcre_table(5); `no_groups` is (?n)."""

    ignore_case: bool = True
    multiline: bool = False
    dot_all: bool = True
    extended: bool = False
    anchored: bool = False
    end_only: bool = False
    ungreedy: bool = False
    no_groups: bool = False


_LETTERS = {
    "i": "ignore_case", "m": "multiline", "s": "dot_all", "x": "extended", "n": "no_groups",
    "U": "ungreedy",
}  # fmt: skip


def translate(pattern: bytes, options: Options) -> Expression:
    """Raises BadPatternError."""
    return _Parser(pattern.decode("latin-1"), options).parse()


class _Parser:
    def __init__(self, text: str, options: Options) -> None:
        self._reader, self._options = classes.Reader(text), options
        self._groups, self._depth, self._highest_reference = 0, 0, 0
        self._names: dict[str, int] = {}
        self._known, self._alternatives, self._backward = Knowledge(), False, False
        self._quoted = False

    def parse(self) -> Expression:
        anchored = self._options.anchored
        source = self._alternation()
        if self._reader.peek():
            raise BadPatternError("no unmatched )")
        if self._highest_reference > self._groups:
            raise BadPatternError(f"no reference to group {self._highest_reference}")
        self._known.end()
        literals = () if self._alternatives else self._known.literals()
        risky = self._known.risky or self._backward
        return Expression(f"\\A(?:{source})" if anchored else source, self._groups, literals, risky)

    def _alternation(self) -> str:
        """Up to a closing bracket or the end.  Options set inside end with it."""
        outside = self._options
        branches = [self._branch()]
        while self._reader.accept("|"):
            self._alternatives = self._alternatives or not self._depth
            self._known.end()
            branches.append(self._branch())
        self._options = outside
        return "|".join(branches)

    def _branch(self) -> str:
        parts: list[str] = []
        while self._quoting() or self._reader.peek() not in ("", "|", ")"):
            if not self._skip_blank():
                parts.append(self._piece())
        return "".join(parts)

    def _quoting(self) -> bool:
        """Whether the next character stands between \\Q and \\E, which are taken."""
        reader = self._reader
        while True:
            if self._quoted and (reader.accept("\\E") or not reader.peek()):
                self._quoted = False
            elif not self._quoted and reader.accept("\\Q"):
                self._quoted = True
            elif self._quoted or not reader.accept("\\E"):
                return self._quoted

    def _skip_blank(self) -> bool:
        """In an extended pattern, white space and comments."""
        reader = self._reader
        if not self._options.extended or self._quoted or reader.peek() not in " \t\n\r\v\f#":
            return False
        if reader.take() == "#":
            end = reader.text.find("\n", reader.at)
            reader.at = len(reader.text) if end < 0 else end + 1
        return True

    def _skip_blanks(self) -> None:
        while not self._quoting() and self._reader.peek() and self._skip_blank():
            pass

    def _piece(self) -> str:
        atom, repeatable = self._atom()
        self._skip_blanks()
        bounds = None if self._quoted else self._quantifier()
        if bounds is None:
            return atom
        if not repeatable:
            raise BadPatternError("nothing to repeat")
        return self._repeat(atom, *bounds)

    def _quantifier(self) -> tuple[int, int | None] | None:
        reader = self._reader
        simple = {"*": (0, None), "+": (1, None), "?": (0, 1)}.get(reader.peek())
        if simple:
            reader.take()
            return simple
        written = _BOUNDS.match(reader.text, reader.at)
        if not written:
            return None
        reader.at = written.end()
        low = int(written[1])
        high = (int(written[3]) if written[3] else None) if written[2] else low
        if max(low, high or 0) > MOST or (high is not None and high < low):
            raise BadPatternError(f"bounds, not {written[0]}")
        return low, high

    def _repeat(self, atom: str, low: int, high: int | None) -> str:
        if not self._depth:
            self._known.unplain()
        if high is None or high > 1:
            self._known.repeated(group=atom.startswith("(") or self._depth > 0)
        bounds = f"{{{low},{'' if high is None else high}}}"
        self._skip_blanks()
        if self._reader.accept("+"):
            return f"(?>{atom}{bounds})"
        lazy = self._reader.accept("?") is not self._options.ungreedy
        return f"{atom}{bounds}{'?' if lazy else ''}"

    def _atom(self) -> tuple[str, bool]:
        """Source, and whether a quantifier may follow."""
        each = self._reader.take()
        if self._quoted:
            return self._plain(ord(each)), True
        if each == "\\":
            return self._escape()
        if each == "{" and _BOUNDS.match(self._reader.text, self._reader.at - 1):
            raise BadPatternError("nothing to repeat")
        if each not in "([.^$*+?":
            return self._plain(ord(each)), True
        self._known.end()
        if each == "(":
            return self._group()
        if each == "[":
            found = classes.bracket(self._reader, ignore_case=self._options.ignore_case)
            return character_class(set(found)), True
        if each == ".":
            return "[\\x00-\\xff]" if self._options.dot_all else "[^\\n]", True
        if each in "^$":
            return self._anchor(each), False
        raise BadPatternError("nothing to repeat")

    def _plain(self, number: int) -> str:
        """A character that stands for itself."""
        if not self._depth:
            self._known.plain(chr(number))
        if not self._options.ignore_case:
            return code(number)
        both = classes.other_case(frozenset((number,)))
        return code(number) if len(both) == 1 else character_class(set(both))

    def _anchor(self, each: str) -> str:
        options = self._options
        if each == "^":
            return "(?:\\A|(?<=\\n)(?!\\Z))" if options.multiline else "\\A"
        if options.multiline:
            return "(?=\\n|\\Z)"
        return "\\Z" if options.end_only else "(?=\\n?\\Z)"

    def _escape(self) -> tuple[str, bool]:
        reader = self._reader
        letter = reader.take()
        if letter in "123456789":
            return self._digits(letter)
        number = classes.character(reader, letter)
        if number is not None:
            return self._plain(number), True
        self._known.end()
        found = classes.named_set(reader, letter)
        if found is not None:
            return character_class(set(found)), True
        if letter in _SIMPLE:
            return _SIMPLE[letter], False
        if letter in _REPEATABLE:
            return _REPEATABLE[letter], True
        if letter in "gk":
            return self._reference_escape(letter), True
        raise BadPatternError(f"no escape \\{letter}")

    def _digits(self, first: str) -> tuple[str, bool]:
        reader = self._reader
        start = reader.at
        digits = first + reader.span(frozenset("0123456789"), 9)
        if int(digits) < 10 or first in "89" or int(digits) <= self._groups:
            self._known.end()
            return self._refer(int(digits)), True
        reader.at = start
        return self._plain(classes.octal(reader, first)), True

    def _refer(self, number: int) -> str:
        if number < 1:
            raise BadPatternError("a group to refer to")
        self._highest_reference = max(self._highest_reference, number)
        self._backward = True
        return f"(?:(?i:\\{number}))" if self._options.ignore_case else f"(?:\\{number})"

    def _reference_escape(self, letter: str) -> str:
        reader = self._reader
        for opening, closing in (("{", "}"), ("<", ">"), ("'", "'")):
            if reader.accept(opening):
                name = reader.until(closing).strip()
                if letter == "g" and opening != "{":
                    return self._call(name)
                return self._refer(self._number(name))
        if letter == "k":
            raise BadPatternError("a name behind \\k")
        sign = "-" if reader.accept("-") else "+" if reader.accept("+") else ""
        return self._refer(self._number(sign + reader.span(frozenset("0123456789"), 5)))

    def _number(self, name: str) -> int:
        """Of a group: by number, relative number or name.  Raises BadPatternError."""
        if name[:1] in ("-", "+") and name[1:].isdecimal():
            step = int(name[1:])
            return self._groups + 1 - step if name[0] == "-" else self._groups + step
        if name.isdecimal():
            return int(name)
        if name not in self._names:
            raise BadPatternError(f"a group named {name!r}")
        return self._names[name]

    def _call(self, name: str) -> str:
        """A subroutine."""
        self._backward = True
        number = 0 if name in ("R", "0") else self._number(name)
        self._highest_reference = max(self._highest_reference, number)
        return f"(?:(?{number or 'R'}))"

    def _group(self) -> tuple[str, bool]:
        reader = self._reader
        if reader.peek() == "*":
            return self._verb(), False
        if not reader.accept("?"):
            if self._options.no_groups:
                return self._inside("(?:"), True
            return self._capture("("), True
        if reader.accept("#"):
            reader.until(")")
            return "", False
        for opening, written in _LOOKS.items():
            if reader.accept(opening[1:]):
                return f"(?:{self._inside(written)})", True
        if reader.accept(">"):
            return self._inside("(?>"), True
        if reader.accept("|"):
            return self._reset(), True
        if reader.accept("("):
            return self._conditional(), True
        named = _NAMED.match(reader.text, reader.at)
        if named:
            reader.at = named.end()
            return self._capture("(", named[1] or named[2]), True
        return self._special()

    def _special(self) -> tuple[str, bool]:
        reader = self._reader
        if reader.accept("P="):
            return self._refer(self._number(reader.until(")"))), True
        if reader.accept("P>") or reader.accept("&"):
            return self._call(reader.until(")")), True
        if reader.peek() in ("R", "+") or reader.peek().isdecimal() or self._is_relative():
            return self._call(reader.until(")")), True
        options = _OPTIONS.match(reader.text, reader.at)
        if not options:
            raise BadPatternError("a kind of group that is known here")
        reader.at = options.end()
        return self._set_options(options)

    def _is_relative(self) -> bool:
        return self._reader.peek() == "-" and self._reader.peek(2)[1:].isdecimal()

    def _set_options(self, written: re.Match[str]) -> tuple[str, bool]:
        outside = self._options
        changes = dict.fromkeys((_LETTERS[each] for each in written[2]), True)
        if written[1]:
            unset = dict.fromkeys(("ignore_case", "multiline", "dot_all", "extended"), False)
            changes = {**unset, "no_groups": False, **changes}
        changes.update(dict.fromkeys((_LETTERS[each] for each in written[3] or ""), False))
        self._options = dataclasses.replace(self._options, **changes)
        if written[4] == ")":
            return "", False  # in force until the group around it ends
        source = self._inside("(?:")
        self._options = outside
        return source, True

    def _inside(self, opening: str) -> str:
        """The rest of a group."""
        self._depth += 1
        inner = self._alternation()
        self._depth -= 1
        if not self._reader.accept(")"):
            raise BadPatternError("a missing )")
        self._known.end()
        return f"{opening}{inner})"

    def _capture(self, opening: str, name: str = "") -> str:
        self._groups += 1
        if name:
            if name in self._names or name[0].isdecimal():
                raise BadPatternError(f"another name than {name!r}")
            self._names[name] = self._groups
        return self._inside(opening)

    def _reset(self) -> str:
        """(?|...): each alternative counts its groups from the same number."""
        outside, first, highest = self._options, self._groups, self._groups
        self._depth += 1
        branches = []
        while True:
            self._groups = first
            branches.append(self._branch())
            highest = max(highest, self._groups)
            if not self._reader.accept("|"):
                break
        self._depth -= 1
        self._groups, self._options = highest, outside
        if not self._reader.accept(")"):
            raise BadPatternError("a missing )")
        return f"(?|{'|'.join(branches)})"

    def _conditional(self) -> str:
        reader = self._reader
        if reader.peek() == "?":
            for opening, written in _LOOKS.items():
                if reader.accept(opening):
                    condition = self._inside(written)
                    return self._branches(f"(?{condition}")
            raise BadPatternError("a condition")
        name = reader.until(")").strip("<>'")
        if name == "DEFINE":
            return self._branches("(?(DEFINE)")
        number = self._number(name)
        self._highest_reference = max(self._highest_reference, number)
        return self._branches(f"(?({number})")

    def _branches(self, opening: str) -> str:
        source = self._inside("")[:-1]
        return f"(?:{opening}{source}))"

    def _verb(self) -> str:
        written = _VERB.match(self._reader.text, self._reader.at)
        if written and written[1] in ("F", "FAIL", "PRUNE", "SKIP"):
            self._reader.at = written.end()
            return "(?!)" if written[1] in ("F", "FAIL") else f"(*{written[1]})"
        raise BadPatternError("a (*VERB) that is known here")
