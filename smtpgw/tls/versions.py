"""TLS versions as smtpd_tls_protocols writes them (postconf(5)).  Pure.

`>=TLSv1.2`, `<=TLSv1.3`, `!TLSv1, !TLSv1.1`, or names alone.  Bounds alone leave all between
them; names leave only those; exclusions take away from either.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

NAMES = ("SSLv2", "SSLv3", "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
"""From the oldest on; the first two are never spoken."""

_SPOKEN = {
    "TLSv1": ssl.TLSVersion.TLSv1,
    "TLSv1.1": ssl.TLSVersion.TLSv1_1,
    "TLSv1.2": ssl.TLSVersion.TLSv1_2,
    "TLSv1.3": ssl.TLSVersion.TLSv1_3,
}
_OFF = {
    "TLSv1": ssl.OP_NO_TLSv1,
    "TLSv1.1": ssl.OP_NO_TLSv1_1,
    "TLSv1.2": ssl.OP_NO_TLSv1_2,
    "TLSv1.3": ssl.OP_NO_TLSv1_3,
}
_SHORT = {"TLSV1.0": "TLSv1", **{each.upper(): each for each in NAMES}}


@dataclass(frozen=True, slots=True)
class Versions:
    """The first and the last that are spoken, and options that leave out some between them."""

    first: ssl.TLSVersion
    last: ssl.TLSVersion
    without: int = 0


def parse(text: str) -> Versions:
    """What the list leaves.  Raises ValueError where that is nothing, or a name is not known."""
    left = _left([each for each in re.split(r"[\s,:]+", text) if each])
    spoken = [each for each in _SPOKEN if each in left]
    if not spoken:
        raise ValueError(f"{text!r}: expected one of {', '.join(_SPOKEN)} among them")
    first, last = _SPOKEN[spoken[0]], _SPOKEN[spoken[-1]]
    without = 0
    for name, version in _SPOKEN.items():
        if name not in left and first < version < last:
            without |= int(_OFF[name])
    return Versions(first, last, without)


def _left(words: Sequence[str]) -> set[str]:
    allowed, wanted = set(NAMES), set[str]()
    for each in words:
        sign, name = _parted(each)
        at = NAMES.index(name)
        match sign:
            case ">=":
                allowed -= set(NAMES[:at])
            case "<=":
                allowed -= set(NAMES[at + 1 :])
            case "!":
                allowed.discard(name)
            case _:
                wanted.add(name)
    return allowed & wanted if wanted else allowed


def _parted(word: str) -> tuple[str, str]:
    match = re.fullmatch(r"(>=|<=|!|)(.+)", word)
    name = _SHORT.get(match[2].upper()) if match else None
    if match is None or name is None:
        raise ValueError(f"{word!r}: expected {', '.join(NAMES)}, with >=, <=, ! or nothing before")
    return match[1], name
