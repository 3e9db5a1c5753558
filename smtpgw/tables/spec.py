"""`type:name`, and lists of them, as Postfix reads them (mystrtok(3), DATABASE_README).  Pure.

A list is separated by commas and white space; inside braces neither separates, so that
`inline:{ a=1, b=2 }` is one table.  Text is `str`; octets beyond ASCII in a name are
UTF-8 or surrogates, see octets().
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from smtpgw.tables.table import TableError

SEPARATORS = ", \t\r\n"
"""CHARS_COMMA_SP."""
SPACE = " \t\r\n\v\f"


@dataclass(frozen=True, slots=True)
class Spec:
    """One table: Spec("hash", "/etc/postfix/virtual")."""

    type: str
    name: str

    def __str__(self) -> str:
        return f"{self.type}:{self.name}"


def octets(text: str) -> bytes:
    """The text's octets as they were in the file it came from."""
    return text.encode("utf-8", "surrogateescape")


def parse(text: str) -> Spec:
    """One table.  Raises TableError."""
    kind, colon, name = text.partition(":")
    if not colon or not kind or not name:
        raise TableError(text, found=repr(text), expected='a table as "type:name"')
    return Spec(kind, name)


def parse_list(text: str) -> tuple[Spec, ...]:
    """Tables in the order they are asked.  Raises TableError."""
    return tuple(parse(each) for each in split(text))


def split(text: str, separators: str = SEPARATORS) -> Iterator[str]:
    """The members of a list: mystrtokq()."""
    start, depth = -1, 0
    for at, each in enumerate(text):
        if start < 0:
            if each in separators:
                continue
            start = at
        if each == "{":
            depth += 1
        elif depth and each == "}":
            depth -= 1
        elif not depth and each in separators:
            yield text[start:at]
            start = -1
    if start >= 0:
        yield text[start:]


def closing(text: str) -> int:
    """Where the brace that opens the text is closed, counted behind it; 0: nowhere (balpar())."""
    depth = 0
    for at, each in enumerate(text):
        if each == "{":
            depth += 1
        elif each == "}" and depth:
            depth -= 1
        if not depth:
            return at + 1 if at else 0
    return 0


def inside(text: str) -> str:
    """What stands between the braces, without white space at its ends (extpar()).  Raises
    ValueError saying what is wrong."""
    if not text.startswith("{"):
        raise ValueError(f"no '{{' at the start of {text!r}")
    end = closing(text)
    if not end:
        raise ValueError(f"no '}}' at the end of {text!r}")
    if text[end:]:
        raise ValueError(f"{text[end:]!r} after '}}'")
    return text[1 : end - 1].strip(SPACE)


def members(text: str) -> tuple[str, ...]:
    """What is listed between the braces.  Raises ValueError saying what is wrong."""
    found = tuple(split(inside(text)))
    if not found:
        raise ValueError("nothing between the braces")
    return found
