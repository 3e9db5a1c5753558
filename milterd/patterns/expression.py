"""What both translators of patterns make: source text for the `regex` library, and what is known
of it.  Pure.

`literals` are texts that every match has, in lower case, so that a key without one of them
need not be matched at all; `risky` says that matching may take more than a moment.
"""

from __future__ import annotations

from dataclasses import dataclass, field


class BadPatternError(ValueError):
    """What is wrong with a pattern."""


LITERALS = 3
"""Texts that are looked for in a key before a pattern is."""


@dataclass(frozen=True, slots=True)
class Expression:
    """`groups`: how many there are to refer to."""

    source: str
    groups: int
    literals: tuple[str, ...] = ()
    risky: bool = False


@dataclass(slots=True)
class Knowledge:
    """Collected while a pattern is read: runs of plain characters outside of every group, and
    how many quantifiers without a bound there are."""

    runs: list[str] = field(default_factory=list)
    unbounded: int = 0
    nested: bool = False
    _run: list[str] = field(default_factory=list)

    def plain(self, character: str) -> None:
        """A character that stands for itself, once."""
        self._run.append(character)

    def unplain(self) -> None:
        """The last character was not for once: a quantifier follows."""
        if self._run:
            self._run.pop()
        self.end()

    def end(self) -> None:
        """Something else: the run is over."""
        if self._run:
            self.runs.append("".join(self._run).lower())
        self._run.clear()

    def literals(self) -> tuple[str, ...]:
        """The texts that say most; beyond ASCII a letter's case is not known here."""
        plain = [each for each in self.runs if each.isascii()]
        return tuple(sorted(plain, key=len, reverse=True)[:LITERALS])

    def repeated(self, *, group: bool) -> None:
        """A quantifier without a bound."""
        self.unbounded += 1
        self.nested = self.nested or group

    @property
    def risky(self) -> bool:
        """Two quantifiers in a row at most, and no group repeated, take a cubic time at worst."""
        return self.nested or self.unbounded > 2


def character_class(codes: set[int], *, negated: bool = False) -> str:
    """A class of characters by their codes, in ranges.  The empty class matches nothing."""
    if not codes:
        return "[\\x00-\\U0010ffff]" if negated else "(?!)"
    parts, ordered = [], sorted(codes)
    first = last = ordered[0]
    for each in [*ordered[1:], -1]:
        if each != last + 1:
            parts.append(code(first) + (f"-{code(last)}" if last != first else ""))
            first = each
        last = each
    return f"[{'^' if negated else ''}{''.join(parts)}]"


def code(number: int) -> str:
    """A character by its code, in a class or outside."""
    return f"\\x{number:02x}" if number < 256 else f"\\U{number:08x}"


POSIX_CLASSES = {
    "alnum": "0-9A-Za-z",
    "alpha": "A-Za-z",
    "ascii": "\0-\x7f",
    "blank": "\t\t  ",
    "cntrl": "\0-\x1f\x7f-\x7f",
    "digit": "0-9",
    "graph": "!-~",
    "lower": "a-z",
    "print": " -~",
    "punct": "!-/:-@[-`{-~",
    "space": "\t-\r  ",
    "upper": "A-Z",
    "word": "0-9A-Z_-_a-z",
    "xdigit": "0-9A-Fa-f",
}


def class_codes(name: str) -> set[int]:
    """The characters of [:name:], as the C locale has them.  Raises KeyError."""
    text, found = POSIX_CLASSES[name], set[int]()
    while text:
        if text[1:2] == "-":
            found.update(range(ord(text[0]), ord(text[2]) + 1))
            text = text[3:]
        else:
            found.update(map(ord, text[:2]))
            text = text[2:]
    return found
