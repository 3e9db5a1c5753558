"""Single values of the language: numbers, times, flags, octets."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from milterd.base.near import nearest
from milterd.lab.scenario.words import LineError, Words, shown
from milterd.wire.constants import Actions, Protocol

_LONGEST = 3600.0
"""Seconds that one line may take."""
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,20})?(?:e-?[0-9]{1,3})?)(ms|s|m|)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "": 1.0}


def number(words: Words, what: str, most: int = 0xFFFFFFFF) -> int:
    """A number in decimal, or in hexadecimal after 0x."""
    found = words.keyword(what)
    if not re.fullmatch(r"[0-9]{1,10}|0x[0-9A-Fa-f]{1,8}", found):
        raise LineError(f"expected {what}, a number, found {shown(found.encode())}")
    value = int(found, 16) if found.startswith("0x") else int(found)
    if value > most:
        raise LineError(f"expected {what} of at most {most}, found {found}")
    return value


def seconds(words: Words) -> float:
    """A time: 2, 0.2, 200ms, 2s, 1m."""
    found = words.keyword("a time in seconds")
    match = _DURATION.fullmatch(found)
    value = float(match[1]) * _UNITS[match[2]] if match else math.inf
    if not value <= _LONGEST:
        raise LineError(
            f"expected a time such as 0.2 or 2s, to an hour, found {shown(found.encode())}"
        )
    return value


def flags(kind: type[Actions] | type[Protocol], text: str) -> int:
    """One name of a flag, a number, all or none."""
    if re.fullmatch(r"0x[0-9A-Fa-f]{1,8}|[0-9]{1,10}", text) and int(text, 0) <= 0xFFFFFFFF:
        return int(text, 0)
    names = {each.name or "": int(each) for each in kind} | {"ALL": int(kind.ALL), "NONE": 0}
    found = names.get(text.upper())
    if found is None:
        close = nearest(text.upper(), names)
        hint = f", perhaps {close}" if close else ""
        raise LineError(
            f"expected a flag, a number, all or none, found {shown(text.encode())}{hint}"
        )
    return found


def octet_words(words: Words) -> Iterator[bytes]:
    """Octets given as hexadecimal digits and texts in quotes, one after another."""
    while words.more():
        word = words.take("octets")
        if word.quoted:
            yield word.octets
            continue
        try:
            yield bytes.fromhex(word.octets.decode("ascii"))
        except ValueError:
            raise LineError(
                f'expected hexadecimal digits in pairs or "TEXT", found {shown(word.octets)}'
            ) from None


def code(words: Words) -> bytes:
    """The letter of a packet."""
    found = words.octets("the letter of a packet")
    if len(found) != 1:
        raise LineError(f"expected the letter of a packet, found {shown(found)}")
    return found
