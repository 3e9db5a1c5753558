r"""The words of one line of a scenario, and the way back: octets as words.

Escapes are `\r \n \t \0 \\ \" \xNN`; `${NAME}` stands for a value given from outside.
Every function raises LineError, which says what was found and what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from milterd.lab.scenario.steps import Pattern, Text
from milterd.lab.show import readable

_BLANKS = b" \t"
_SIMPLE = {
    ord("r"): b"\r",
    ord("n"): b"\n",
    ord("t"): b"\t",
    ord("0"): b"\0",
    ord("\\"): b"\\",
    ord('"'): b'"',
}
_HEX = re.compile(rb"[0-9A-Fa-f]{2}")
_VARIABLE = re.compile(rb"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_SPECIAL = re.compile(rb"[\\$]")


class LineError(ValueError):
    """What is wrong with a line."""


@dataclass(frozen=True, slots=True)
class Word:
    """One word; `quoted` if it stood in quotes, and so is no sign of the language."""

    octets: bytes
    quoted: bool = False


class Words:
    """Reads a line from left to right."""

    def __init__(self, line: bytes, variables: Mapping[str, bytes]) -> None:
        self._line, self._at, self._variables = line, 0, variables

    def more(self) -> bool:
        """Whether anything but blanks is left."""
        return bool(self.peek())

    def peek(self) -> bytes:
        """What is left, without the blanks before it; nothing is taken."""
        return self._line[self._at :].lstrip(_BLANKS)

    def take(self, what: str) -> Word:
        """The next word; `what` is expected there."""
        self._skip()
        if not self.more():
            raise LineError(f"expected {what}, found the end of the line")
        if self._line[self._at] == ord('"'):
            return Word(self._quoted(), True)
        end = self._at
        while end < len(self._line) and self._line[end] not in _BLANKS:
            end += 1
        found = self._line[self._at : end]
        self._at = end
        return Word(self._plain(found))

    def octets(self, what: str) -> bytes:
        """The next word's octets."""
        return self.take(what).octets

    def keyword(self, what: str) -> str:
        """The next word, which is one of the language's."""
        word = self.take(what)
        if word.quoted or not word.octets.isascii():
            raise LineError(f"expected {what}, found {shown(word.octets)}")
        return word.octets.decode("ascii")

    def rest(self) -> bytes:
        """What is left, from the first octet that is not blank to the last."""
        found = self.raw_rest().lstrip(_BLANKS)
        return self._plain(found)

    def rest_as_it_is(self) -> bytes:
        """What is left, the blanks before it included."""
        return self._plain(self.raw_rest())

    def raw_rest(self) -> bytes:
        """What is left, its escapes untouched, without the blanks at its end."""
        found = self._line[self._at :].rstrip(_BLANKS)
        self._at = len(self._line)
        return found

    def until_colon(self) -> tuple[bytes, bool]:
        """A name up to the next colon, and whether there was one."""
        self._skip()
        name, colon, _ = self._line[self._at :].partition(b":")
        self._at += len(name) + len(colon)
        return self._plain(name.rstrip(_BLANKS)), bool(colon)

    def pattern(self) -> Pattern:
        """/EXPRESSION/ or /EXPRESSION/i."""
        self._skip()
        found, at = bytearray(), self._at + 1
        while at < len(self._line) and self._line[at] != ord("/"):
            if self._line[at] == ord("\\") and at + 1 < len(self._line):
                pair = self._line[at : at + 2]
                found += b"/" if pair == b"\\/" else pair
                at += 2
            else:
                found.append(self._line[at])
                at += 1
        if at >= len(self._line):
            raise LineError("expected a / at the end of the expression")
        end = at + 2 if self._line[at + 1 : at + 2] == b"i" else at + 1
        if self._line[end : end + 1].strip(_BLANKS):
            raise LineError(
                f"expected a blank after the expression, found {shown(self._line[end:])}"
            )
        self._at = end
        made = Pattern(bytes(found), end == at + 2)
        try:
            made.check()
        except ValueError as error:
            raise LineError(f"not a regular expression: {error}") from None
        return made

    def text(self, rest: Callable[[], bytes]) -> Text:
        """A pattern, or what `rest` takes."""
        if not self.peek().startswith(b"/"):
            return rest()
        found = self.pattern()
        self.done()
        return found

    def done(self) -> None:
        """Nothing may be left."""
        if self.more():
            raise LineError(f"expected the end of the line, found {shown(self.peek())}")

    def _skip(self) -> None:
        while self._at < len(self._line) and self._line[self._at] in _BLANKS:
            self._at += 1

    def _quoted(self) -> bytes:
        at = self._at + 1
        while at < len(self._line) and self._line[at] != ord('"'):
            at += 2 if self._line[at] == ord("\\") else 1
        if at >= len(self._line):
            raise LineError("expected a quote at the end of the word")
        found = self._line[self._at + 1 : at]
        self._at = at + 1
        if self._line[self._at : self._at + 1].strip(_BLANKS):
            raise LineError("expected a blank after the quote")
        return self._plain(found)

    def _plain(self, octets: bytes) -> bytes:
        """The octets that a text with escapes and variables stands for."""
        found, at = bytearray(), 0
        while (match := _SPECIAL.search(octets, at)) is not None:
            found += octets[at : match.start()]
            part, at = self._special(octets, match.start())
            found += part
        return bytes(found + octets[at:])

    def _special(self, octets: bytes, at: int) -> tuple[bytes, int]:
        if octets[at] == ord("$"):
            match = _VARIABLE.match(octets, at)
            if match is None:
                return b"$", at + 1
            name = match[1].decode("ascii")
            if name not in self._variables:
                raise LineError(f"${{{name}}} has no value: give it with --set {name}=VALUE")
            return self._variables[name], match.end()
        after = octets[at + 1 : at + 2]
        if after == b"x" and (digits := _HEX.match(octets, at + 2)):
            return bytes((int(digits[0], 16),)), at + 4
        if after and after[0] in _SIMPLE:
            return _SIMPLE[after[0]], at + 2
        raise LineError(
            rf"expected \r, \n, \t, \0, \\, \" or \xNN, found {shown(octets[at : at + 4])}"
        )


def shown(octets: bytes) -> str:
    """Octets in a message about a mistake."""
    return f'"{readable(octets[:80])}"'


_ESCAPED = {0: b"\\0", 9: b"\\t", 10: b"\\n", 13: b"\\r", 0x22: b'\\"', 0x5C: b"\\\\"}


def escaped(octets: bytes, also: bytes = b"") -> bytes:
    """Octets as they stand within a line; `also` are octets to escape besides."""
    found = bytearray()
    for each in octets:
        if each in _ESCAPED:
            found += _ESCAPED[each]
        elif 32 <= each < 127 and each != ord("$") and each not in also:
            found.append(each)
        else:
            found += b"\\x%02x" % each
    return bytes(found)


def as_word(octets: bytes) -> bytes:
    """Octets as a word: bare where that can be no sign of the language."""
    if re.fullmatch(rb"[A-Za-z0-9<>.:_+=-][A-Za-z0-9<>@.:_+=/{}\[\],-]*", octets):
        return octets
    return b'"' + escaped(octets) + b'"'


def as_rest(octets: bytes, blanks: bool = False) -> bytes:
    """Octets as the rest of a line, where a pattern may stand as well.

    `blanks`: those at the beginning stay as they are.
    """
    body = octets.lstrip(b" ") if blanks else octets
    lead = octets[: len(octets) - len(body)]
    kept = body.rstrip(b" ")
    text = escaped(kept) + b"\\x20" * (len(body) - len(kept))
    if not body and lead:
        return b" " * (len(lead) - 1) + b"\\x20"
    if not blanks and text.startswith(b" "):
        text = b"\\x20" + text[1:]
    if text.startswith(b"/"):
        text = b"\\x2f" + text[1:]
    return lead + text


def as_pattern(pattern: Pattern) -> bytes:
    """The expression between its slashes."""
    found, at = bytearray(), 0
    source = pattern.source
    while at < len(source):
        if source[at] == ord("\\"):
            found += source[at : at + 2]
            at += 2
        else:
            found += b"\\/" if source[at] == ord("/") else source[at : at + 1]
            at += 1
    return b"/" + bytes(found) + (b"/i" if pattern.ignore_case else b"/")
