"""Escapes and classes of PCRE patterns as sets of octets: PCRE2 as Postfix runs it, without UTF,
in the C locale.  Pure."""

from __future__ import annotations

import unicodedata

from milterd.patterns.expression import BadPatternError, class_codes

ALL = frozenset(range(256))
_CONTROLS = {"a": 7, "e": 27, "f": 12, "n": 10, "r": 13, "t": 9}
SETS = {
    "d": frozenset(class_codes("digit")),
    "w": frozenset(class_codes("word")),
    "s": frozenset(class_codes("space")),
    "h": frozenset((9, 32, 0xA0)),
    "v": frozenset((10, 11, 12, 13, 0x85)),
}
_HEX = frozenset("0123456789abcdefABCDEF")
_OCTAL = frozenset("01234567")


class Reader:
    """A pattern and a place in it."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0

    def peek(self, count: int = 1) -> str:
        """What comes next."""
        return self.text[self.at : self.at + count]

    def accept(self, wanted: str) -> bool:
        """Take it if it comes next."""
        if self.text.startswith(wanted, self.at):
            self.at += len(wanted)
            return True
        return False

    def take(self) -> str:
        """One character.  Raises BadPatternError at the end."""
        if self.at >= len(self.text):
            raise BadPatternError("more of the pattern")
        self.at += 1
        return self.text[self.at - 1]

    def until(self, end: str) -> str:
        """What stands before `end`, which is taken too.  Raises BadPatternError."""
        stop = self.text.find(end, self.at)
        if stop < 0:
            raise BadPatternError(f"a missing {end}")
        found, self.at = self.text[self.at : stop], stop + len(end)
        return found

    def span(self, wanted: frozenset[str], most: int) -> str:
        """As many of these characters as there are, `most` at most."""
        start = self.at
        while self.at < len(self.text) and self.at - start < most and self.peek() in wanted:
            self.at += 1
        return self.text[start : self.at]


def other_case(codes: frozenset[int]) -> frozenset[int]:
    """With the letters' other case."""
    return codes | {each ^ 32 for each in codes if chr(each).isalpha() and each < 128}


def character(reader: Reader, letter: str) -> int | None:
    """The octet that an escape names whose letter has been taken, None if it names none.
    Raises BadPatternError."""
    if letter in _CONTROLS:
        return _CONTROLS[letter]
    if letter == "c":
        following = reader.take()
        if not " " <= following <= "~":
            raise BadPatternError("a printable character behind \\c")
        return ord(following.upper()) ^ 64
    if letter == "x":
        return _hexadecimal(reader)
    if letter == "o":
        if not reader.accept("{"):
            raise BadPatternError("{ behind \\o")
        return _octet(reader.until("}"), 8)
    if letter == "0":
        return int("0" + reader.span(_OCTAL, 2), 8)
    if not (letter.isalnum() and letter.isascii()):
        return ord(letter)
    return None


def _hexadecimal(reader: Reader) -> int:
    if reader.peek() == "{":
        end = reader.text.find("}", reader.at)
        digits = reader.text[reader.at + 1 : end] if end > 0 else ""
        if digits and _HEX.issuperset(digits):
            reader.at = end + 1
            return _octet(digits, 16)
        raise BadPatternError("digits in \\x{}")
    return int("0" + reader.span(_HEX, 2), 16)


def octal(reader: Reader, first: str) -> int:
    """\\ddd, where it refers to no group.  Raises BadPatternError."""
    return _octet(first + reader.span(_OCTAL, 3 - len(first)), 8)


def _octet(digits: str, base: int) -> int:
    try:
        number = int(digits, base)
    except ValueError:
        raise BadPatternError(f"digits, not {digits!r}") from None
    if number > 255:
        raise BadPatternError("an octet, not more than 255")
    return number


def named_set(reader: Reader, letter: str) -> frozenset[int] | None:
    """The octets of \\d, \\W, \\p{Lu}...; None: it names none.  Raises BadPatternError."""
    if letter.lower() in SETS:
        found = SETS[letter.lower()]
    elif letter in "pP":
        found = _property(reader)
    else:
        return None
    return ALL - found if letter.isupper() else found


def _property(reader: Reader) -> frozenset[int]:
    name = reader.until("}") if reader.accept("{") else reader.take()
    negated = name.startswith("^")
    name = name.removeprefix("^").strip()
    if name == "Any":
        found = ALL
    elif name in ("L&", "LC"):
        found = _category("Lu") | _category("Ll") | _category("Lt")
    else:
        found = _category(name)
    if not found:
        raise BadPatternError(f"a general category, not {name!r}")
    return ALL - found if negated else found


def _category(name: str) -> frozenset[int]:
    return frozenset(each for each in ALL if unicodedata.category(chr(each)).startswith(name))


def bracket(reader: Reader, *, ignore_case: bool) -> frozenset[int]:
    """The octets of [...], whose first character has been taken.  Raises BadPatternError."""
    negated = reader.accept("^")
    found: set[int] = set()
    first, quoting = True, False
    while first or quoting or reader.peek() != "]":
        if quoting and reader.accept("\\E"):
            quoting = False
            continue
        if not quoting and reader.accept("\\Q"):
            quoting = True
            continue
        if not quoting and reader.accept("\\E"):
            continue
        low = ord(reader.take()) if quoting else _member(reader, ignore_case=ignore_case)
        first = False
        if isinstance(low, int) and not quoting and _is_range(reader):
            found |= _range(reader, low, ignore_case=ignore_case)
        elif isinstance(low, int):
            found.add(low)
        else:
            found |= low
            if _is_range(reader) and not quoting:
                raise BadPatternError("a range in [...]")
    reader.take()
    closed = other_case(frozenset(found)) if ignore_case else frozenset(found)
    return ALL - closed if negated else closed


def _is_range(reader: Reader) -> bool:
    return reader.peek() == "-" and reader.peek(2) not in ("-", "-]")


def _range(reader: Reader, low: int, *, ignore_case: bool) -> set[int]:
    reader.take()
    high = _member(reader, ignore_case=ignore_case)
    if not isinstance(high, int) or high < low:
        raise BadPatternError("a range in [...]")
    return set(range(low, high + 1))


def _member(reader: Reader, *, ignore_case: bool) -> int | frozenset[int]:
    if reader.peek() == "[" and reader.peek(2)[1:] in (":", ".", "="):
        posix = _posix(reader, ignore_case=ignore_case)
        if posix is not None:
            return posix
    each = reader.take()
    return ord(each) if each != "\\" else _escaped(reader)


def _escaped(reader: Reader) -> int | frozenset[int]:
    letter = reader.take()
    if letter == "b":
        return 8
    if letter in "1234567":
        return octal(reader, letter)
    number = character(reader, letter)
    if number is not None:
        return number
    found = named_set(reader, letter)
    if found is None:
        raise BadPatternError(f"another escape than \\{letter} in [...]")
    return found


def _posix(reader: Reader, *, ignore_case: bool) -> frozenset[int] | None:
    kind, end = reader.text[reader.at + 1], reader.text.find("]", reader.at + 2)
    name = reader.text[reader.at + 2 : end - 1]
    if end < 0 or reader.text[end - 1] != kind or end - 1 < reader.at + 2:
        return None
    if not name.removeprefix("^").isalnum() and kind == ":":
        return None
    if kind != ":":
        raise BadPatternError("no [.x.] and no [=x=]")
    wanted = name.removeprefix("^")
    if ignore_case and wanted in ("upper", "lower"):
        wanted = "alpha"
    try:
        found = frozenset(class_codes(wanted))
    except KeyError:
        raise BadPatternError(f"a class, not [:{name}:]") from None
    reader.at = end + 1
    return ALL - found if name.startswith("^") else found
