"""Entries of aliases(5) files, as postalias(1) reads them: `name: value, value`.  Pure.

The line is taken apart into the tokens of RFC 822 (tok822(3)) and put together again: the
name without its quotes, the value with quotes where they are needed, and one
space behind each comma.  Comments stay where they are, in the name too, as with postalias.
"""

from __future__ import annotations

from dataclasses import dataclass

_SPACE = " \t\r\n"
_OPERATORS = '|%!()<>@,;:\\".[]'
_QUOTED_IN_ATOM = frozenset(_OPERATORS + _SPACE)


@dataclass(frozen=True, slots=True)
class Token:
    """`kind`: "atom", "quoted", "literal", "comment", or the operator itself."""

    kind: str
    text: str


def entry(line: bytes) -> tuple[bytes, bytes]:
    """Key and value of one logical line.  Raises ValueError saying what was expected."""
    tokens = scan(line.decode("latin-1"))
    colon = next((at for at, each in enumerate(tokens) if each.kind == ":"), 0)
    name, value = tokens[:colon], tokens[colon + 1 :]
    kinds = {each.kind for each in name}
    if not name or not value or "," in kinds:
        raise ValueError("name: value")
    if kinds & {"@", "%"}:
        raise ValueError("a local name")
    return internal(name).encode("latin-1"), external(value).encode("latin-1")


def scan(text: str) -> list[Token]:
    """The tokens of a line."""
    found, at = [], 0
    while at < len(text):
        first = text[at]
        if first in _SPACE:
            at += 1
            continue
        token, at = _take(text, at)
        found.append(token)
    return found


def _take(text: str, at: int) -> tuple[Token, int]:
    first = text[at]
    if first == "(":
        return _comment(text, at)
    if first == "[":
        collected, at = _collect(text, at + 1, "]")
        return Token("literal", collected), at + (text[at : at + 1] == "]")
    if first == '"':
        collected, at = _collect(text, at + 1, '"')
        return Token("quoted", collected), at + 1
    if first != "\\" and first in _OPERATORS:
        return Token(first, first), at + 1
    collected, at = _collect(text, at, _SPACE + _OPERATORS)
    quoted = not _QUOTED_IN_ATOM.isdisjoint(collected)
    return Token("quoted" if quoted else "atom", collected), at


def _collect(text: str, at: int, stops: str) -> tuple[str, int]:
    taken = []
    while at < len(text):
        each = text[at]
        if each == "\\":
            at += 1
            if at == len(text):
                break
            each = text[at]
        elif each in stops:
            break
        taken.append(" " if each in _SPACE else each)
        at += 1
    return "".join(taken), at


def _comment(text: str, start: int) -> tuple[Token, int]:
    depth, at = 0, start
    while at < len(text):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        at += 2 if text[at] == "\\" else 1
        if not depth:
            break
    return Token("comment", text[start:at]), at


def internal(tokens: list[Token]) -> str:
    """The tokens without quotes: what the resolver makes of an address."""
    return _join(tokens, quote=False)


def external(tokens: list[Token]) -> str:
    """The tokens as they are written in a header."""
    return _join(tokens, quote=True)


def _join(tokens: list[Token], *, quote: bool) -> str:
    parts = []
    for each, following in zip(tokens, [*tokens[1:], None], strict=True):
        parts.append(_write(each, quote=quote))
        words = following and not {each.kind, following.kind} & set(_OPERATORS)
        if words or each.kind == "," or (following and following.kind == "<"):
            parts.append(" ")
    return "".join(parts)


def _write(token: Token, *, quote: bool) -> str:
    if token.kind == "literal":
        return "[" + _escape(token.text, "\\") + "]"
    if token.kind == "quoted" and quote:
        return '"' + _escape(token.text, '"\\') + '"'
    return token.text


def _escape(text: str, special: str) -> str:
    return "".join("\\" + each if each in special else each for each in text)
