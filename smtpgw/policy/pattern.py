"""Patterns of IPv4 addresses behind `=` of a DNS list: `127.0.0.[2;3;6..10]` (ip_match(3)).

Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

_OCTET = re.compile(r"\d{1,3}|\[\d{1,3}(?:\.\.\d{1,3})?(?:;\d{1,3}(?:\.\.\d{1,3})?)*\]", re.ASCII)
EXPECTED = "four numbers from 0 to 255, or [n;m..k], with dots between"


@dataclass(frozen=True, slots=True)
class Pattern:
    """The values that each octet may have."""

    octets: tuple[frozenset[int], ...]

    def fits(self, address: bytes) -> bool:
        """Whether four octets do."""
        return all(each in allowed for each, allowed in zip(address, self.octets, strict=True))


def parse(text: str) -> Pattern:
    """Raises ValueError saying what was expected."""
    octets: list[frozenset[int]] = []
    at = 0
    while True:
        match = _OCTET.match(text, at)
        if match is None:
            raise ValueError(EXPECTED)
        octets.append(_values(match[0].strip("[]")))
        at = match.end()
        if at == len(text):
            break
        if text[at] != "." or len(octets) == 4:
            raise ValueError(EXPECTED)
        at += 1
    if len(octets) != 4:
        raise ValueError(EXPECTED)
    return Pattern(tuple(octets))


def _values(text: str) -> frozenset[int]:
    found: set[int] = set()
    for each in text.split(";"):
        first, _, last = each.partition("..")
        low, high = int(first), int(last or first)
        if not low <= high <= 255:
            raise ValueError(EXPECTED)
        found.update(range(low, high + 1))
    return frozenset(found)
