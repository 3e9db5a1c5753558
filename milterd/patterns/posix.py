"""regex(7) patterns for the `regex` library: what glibc's regcomp(3) understands, in the C locale
as Postfix runs it, octet for octet.  Pure.

Case-insensitive patterns are brought to lower case themselves and want a key in lower case,
as glibc does it.  GNU's operators (\\<, \\>, \\b, \\w...) count.
"""

from __future__ import annotations

from dataclasses import dataclass

from milterd.patterns.expression import (
    BadPatternError,
    Expression,
    Knowledge,
    character_class,
    class_codes,
    code,
)

DUP_MAX = 0x7FFF
_WORD = "[0-9A-Za-z_]"
_EDGE = f"(?:(?<={_WORD})(?!{_WORD})|(?<!{_WORD})(?={_WORD}))"
_GNU = {
    "<": f"(?<!{_WORD})(?={_WORD})",
    ">": f"(?<={_WORD})(?!{_WORD})",
    "b": _EDGE,
    "B": f"(?!{_EDGE})",
    "`": "\\A",
    "'": "\\Z",
}
_GNU_CLASSES = {"w": "word", "W": "word", "s": "space", "S": "space"}


@dataclass(frozen=True, slots=True)
class Flags:
    """REG_EXTENDED, REG_ICASE, REG_NEWLINE."""

    extended: bool = True
    ignore_case: bool = True
    newline: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """`kind`: "char", "gnu", "reference", "end", or the operator: ( ) | * + ? { [ . ^ $"""

    kind: str
    text: str = ""


def translate(pattern: bytes, flags: Flags) -> Expression:
    """Raises BadPatternError."""
    return _Parser(pattern.decode("latin-1"), flags).parse()


class _Parser:
    def __init__(self, text: str, flags: Flags) -> None:
        # Octets beyond ASCII have no case in the C locale.
        lower = str.maketrans({chr(each): chr(each + 32) for each in range(65, 91)})
        self._raw, self._text = text, text.translate(lower) if flags.ignore_case else text
        self._flags, self._at, self._start = flags, 0, True
        self._known = Knowledge()
        self._groups, self._closed, self._depth, self._alternatives = 0, set[int](), 0, False
        self._backward = False

    def parse(self) -> Expression:
        source = self._alternation()
        if self._at < len(self._text):
            raise BadPatternError("unmatched )")
        self._known.end()
        literals = () if self._alternatives else self._known.literals()
        risky = self._known.risky or self._backward
        return Expression(source, self._groups, literals, risky)

    def _take(self) -> tuple[Token, int]:
        """The next token and where it ends."""
        if self._at >= len(self._text):
            return Token("end"), self._at
        first, after = self._text[self._at], self._at + 1
        if first == "\\":
            if after == len(self._text):
                raise BadPatternError("trailing backslash")
            return self._escaped(self._raw[after]), after + 1
        special = "()|*+?{[.^$" if self._flags.extended else "*[.^$"
        if first in special and (self._flags.extended or self._is_special(first)):
            return Token(first), after
        return Token("char", first), after

    def _escaped(self, following: str) -> Token:
        if not self._flags.extended and following in "(){|+?":
            return Token(following)
        if following in _GNU or following in _GNU_CLASSES:
            return Token("gnu", following)
        if following in "123456789":
            return Token("reference", following)
        return Token("char", following)

    def _is_special(self, character: str) -> bool:
        """In a basic expression anchors are so at the edges only, and a star nowhere first."""
        rest = self._text[self._at + 1 :]
        if character == "$":
            return not rest or rest.startswith(("\\)", "\\|"))
        if character in "*^":
            return (character == "^") is self._start
        return True

    def _alternation(self) -> str:
        before = closed = frozenset(self._closed)  # no branch sees the groups of another
        branches = [self._branch()]
        while True:
            closed |= self._closed
            token, after = self._take()
            if token.kind != "|":
                self._closed = set(closed)
                return "|".join(branches)
            self._closed = set(before)
            self._at = after
            self._alternatives = self._alternatives or not self._depth
            self._known.end()
            branches.append(self._branch())

    def _branch(self) -> str:
        parts: list[str] = []
        self._start = True
        while True:
            token, after = self._take()
            if token.kind in ("end", "|") or (token.kind == ")" and self._depth):
                return "".join(parts)
            if token.kind == ")":
                if not self._flags.extended:
                    raise BadPatternError("unmatched \\)")
                token = Token("char", ")")
            self._at = after
            parts.append(self._piece(token))
            self._start = False

    def _piece(self, token: Token) -> str:
        atom = self._atom(token)
        if token.kind in "^$" or (token.kind == "gnu" and token.text in _GNU):
            return atom  # nothing can be said about how often an anchor occurs
        while True:
            following, after = self._take_quantifier()
            if following.kind not in "*+?{":
                return atom
            self._at = after
            atom = self._quantify(atom, following, group=token.kind == "(")

    def _take_quantifier(self) -> tuple[Token, int]:
        self._start = False
        return self._take()

    def _atom(self, token: Token) -> str:
        kind = token.kind
        if kind == "char":
            if not self._depth:
                self._known.plain(token.text)
            return code(ord(token.text))
        self._known.end()
        if kind == "(":
            return self._group()
        if kind == "[":
            return self._bracket()
        if kind == ".":
            return "[^\\n]" if self._flags.newline else "[\\x00-\\xff]"
        if kind in ("^", "$"):
            return self._anchor(kind)
        if kind == "gnu":
            return self._gnu(token.text)
        if kind == "reference":
            return self._reference(int(token.text))
        raise BadPatternError("nothing that a quantifier could repeat")

    def _anchor(self, kind: str) -> str:
        if self._flags.newline:
            return "(?:\\A|(?<=\\n))" if kind == "^" else "(?=\\n|\\Z)"
        return "\\A" if kind == "^" else "\\Z"

    def _gnu(self, letter: str) -> str:
        if letter in _GNU:
            return _GNU[letter]
        return character_class(class_codes(_GNU_CLASSES[letter]), negated=letter.isupper())

    def _reference(self, number: int) -> str:
        if number not in self._closed:
            raise BadPatternError(f"\\{number} refers to no group")
        self._backward = True
        return f"(?:\\{number})"

    def _group(self) -> str:
        self._groups += 1
        number = self._groups
        self._depth += 1
        inner = self._alternation()
        self._depth -= 1
        token, after = self._take()
        if token.kind != ")":
            raise BadPatternError("unmatched (")
        self._at = after
        self._closed.add(number)
        self._known.end()
        return f"({inner})"

    def _quantify(self, atom: str, token: Token, *, group: bool) -> str:
        if token.kind == "{":
            low, high = self._interval()
        else:
            low, high = {"*": (0, None), "+": (1, None), "?": (0, 1)}[token.kind]
        if not self._depth:
            self._known.unplain()
        if high is None or high > 1:
            self._known.repeated(group=group or self._depth > 0)
        bounds = f"{{{low},{'' if high is None else high}}}"
        return f"(?:{atom}{bounds})"

    def _interval(self) -> tuple[int, int | None]:
        closing = "}" if self._flags.extended else "\\}"
        end = self._text.find(closing, self._at)
        if end < 0:
            raise BadPatternError("unmatched {")
        low, comma, high = self._text[self._at : end].partition(",")
        self._at = end + len(closing)
        if not all(each.isdecimal() or not each for each in (low, high)) or not low + comma:
            raise BadPatternError("expected {n}, {n,} or {n,m}")
        least = int(low or 0)
        most = (int(high) if high else None) if comma else least
        if max(least, most or 0) > DUP_MAX or (most is not None and most < least):
            raise BadPatternError(f"bounds of {{{low}{comma}{high}}}")
        return least, most

    def _bracket(self) -> str:
        negated = self._text.startswith("^", self._at)
        self._at += negated
        codes: set[int] = set()
        first = True
        while first or not self._text.startswith("]", self._at):
            codes |= self._element(first=first)
            first = False
        self._at += 1
        if negated:
            codes = set(range(256)) - codes - ({10} if self._flags.newline else set())
        return character_class(codes)

    def _element(self, *, first: bool) -> set[int]:
        if not first and self._text.startswith("-", self._at) and self._ahead(1) != "]":
            raise BadPatternError("a - in the middle of [...]")
        low = self._member()
        if not isinstance(low, int):
            return low
        if self._ahead(0) == "-" and self._ahead(1) not in ("]", ""):
            self._at += 1
            high = self._member()
            if not isinstance(high, int) or high < low:
                raise BadPatternError("range in [...]")
            return set(range(low, high + 1))
        return {low}

    def _member(self) -> int | set[int]:
        opening = self._text[self._at : self._at + 2]
        if opening in ("[:", "[.", "[="):
            end = self._text.find(opening[1] + "]", self._at + 2)
            if end >= 0:
                name = self._text[self._at + 2 : end]
                self._at = end + 2
                return self._named(opening[1], name)
        character = self._ahead(0)
        if not character:
            raise BadPatternError("unmatched [")
        self._at += 1
        return ord(character)

    def _named(self, kind: str, name: str) -> int | set[int]:
        if kind != ":":
            if len(name) != 1:
                raise BadPatternError(f"no character is named {name!r}")
            return ord(name) if kind == "." else {ord(name)}
        if self._flags.ignore_case and name in ("upper", "lower"):
            name = "alpha"
        if name in ("ascii", "word"):
            raise BadPatternError(f"no class is named {name!r}")
        try:
            return class_codes(name)
        except KeyError:
            raise BadPatternError(f"no class is named {name!r}") from None

    def _ahead(self, distance: int) -> str:
        return self._text[self._at + distance : self._at + distance + 1]
