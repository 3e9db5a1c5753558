"""On which line of a TOML text a key stands.

tomllib tells values, not places.  This walks a text that tomllib has already
accepted, so it trusts the syntax and only keeps count.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator

Location = tuple[str | int, ...]

_TOKEN = re.compile(
    r"""(?P<text>\"{3}(?:\\.|[^\\])*?\"{3,5}|'{3}.*?'{3,5}|"(?:\\.|[^"\\\n])*"|'[^'\n]*')
      | (?P<comment>\#[^\n]*) | (?P<end>\n) | (?P<mark>[\[\]{}=,.])
      | (?P<bare>[^\s\[\]{}=,.\#"']+)""",
    re.VERBOSE | re.DOTALL,
)


class _Tokens:
    def __init__(self, text: str) -> None:
        self._stream = self._read(text)
        self.line = 1
        self.kind = self.value = ""
        self.step()

    @staticmethod
    def _read(text: str) -> Iterator[tuple[str, str, int]]:
        line, seen = 1, 0
        for match in _TOKEN.finditer(text):
            line += text.count("\n", seen, match.start())
            seen = match.start()
            if match.lastgroup != "comment":
                yield match.lastgroup or "", match[0], line

    def step(self) -> None:
        self.kind, self.value, self.line = next(self._stream, ("", "", self.line))

    def skip_lines(self) -> None:
        while self.kind == "end":
            self.step()

    def at(self, mark: str) -> bool:
        return self.kind == "mark" and self.value == mark


def key_lines(text: str) -> dict[Location, int]:
    """The line, from 1, of every table and key in `text`, by its path.

    An element of an array has its index, from 0, in the path.
    """
    lines: dict[Location, int] = {}
    counts: dict[Location, int] = {}
    tokens, table = _Tokens(text), ()  # type: tuple[_Tokens, Location]
    while tokens.kind:
        if tokens.kind == "end":
            tokens.step()
        elif tokens.at("["):
            line = tokens.line
            table = _header(tokens, counts)
            lines.setdefault(table, line)
        else:
            _pair(tokens, table, lines)
    return lines


def _header(tokens: _Tokens, counts: dict[Location, int]) -> Location:
    tokens.step()
    array = tokens.at("[")
    if array:
        tokens.step()
    path: Location = ()
    names = _key(tokens)
    for at, name in enumerate(names):
        path = (*path, name)
        if array and at == len(names) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    while tokens.at("]"):
        tokens.step()
    return path


def _key(tokens: _Tokens) -> list[str]:
    names: list[str] = []
    while tokens.kind in ("bare", "text") or tokens.at("."):
        if tokens.kind == "bare":
            names.append(tokens.value)
        elif tokens.kind == "text":
            names.append(next(iter(tomllib.loads(f"{tokens.value}=0"))))
        tokens.step()
    return names


def _pair(tokens: _Tokens, table: Location, lines: dict[Location, int]) -> None:
    line, path = tokens.line, table
    for name in _key(tokens):
        path = (*path, name)
        lines.setdefault(path, line)
    if not tokens.at("="):
        tokens.step()  # not a key: let go of whatever it is, so that the walk ends
        return
    tokens.step()
    _value(tokens, path, lines)


def _value(tokens: _Tokens, path: Location, lines: dict[Location, int]) -> None:
    lines.setdefault(path, tokens.line)
    if tokens.at("["):
        _array(tokens, path, lines)
    elif tokens.at("{"):
        tokens.step()
        while tokens.kind and not tokens.at("}"):
            if tokens.at(",") or tokens.kind == "end":
                tokens.step()
            else:
                _pair(tokens, path, lines)
        tokens.step()
    else:  # a number or a date may hold dots, and is then several tokens
        while tokens.kind in ("bare", "text") or tokens.at("."):
            tokens.step()


def _array(tokens: _Tokens, path: Location, lines: dict[Location, int]) -> None:
    tokens.step()
    index = 0
    while tokens.kind and not tokens.at("]"):
        if tokens.at(",") or tokens.kind == "end":
            index += tokens.at(",")
            tokens.step()
        else:
            before = tokens.line, tokens.value
            _value(tokens, (*path, index), lines)
            if before == (tokens.line, tokens.value) and tokens.kind == "mark":
                tokens.step()
    tokens.step()
