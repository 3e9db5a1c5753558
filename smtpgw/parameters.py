"""`$name` in settings, as in main.cf (postconf(5)).  Pure.

`$name`, `${name}` and `$(name)` stand for a setting's value; `${name?text}` and `${name?{text}}`
for the text where that value is not empty, `${name:text}` where it is, `${name?{text}:{other}}`
for either; `$$` for a dollar sign.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from milterd.base.near import nearest

_NAME = re.compile(r"\$(?:\$|(?P<plain>[A-Za-z0-9_]+)|(?=[{(]))")
_INSIDE = re.compile(r"(?P<name>[A-Za-z0-9_]+)(?:(?P<sign>[?:])(?P<rest>.*))?\Z", re.DOTALL)
_PAIRS = {"{": "}", "(": ")"}


class ParameterError(ValueError):
    """What stands behind a `$` cannot be replaced: what was found, what was expected, and the
    nearest right spelling if there is one."""

    def __init__(self, found: str, expected: str, nearest: str = "") -> None:
        meant = f"; did you mean {nearest}?" if nearest else ""
        super().__init__(f"found {found}, expected {expected}{meant}")
        self.found, self.expected, self.nearest = found, expected, nearest


def expand(text: str, values: Mapping[str, str]) -> str:
    """The text with all of them replaced, as often as it takes.

    Raises ParameterError for a name that is not known, one that stands for itself, and a bracket
    that is not closed.
    """
    return _expand(text, values, ())


def _expand(text: str, values: Mapping[str, str], within: tuple[str, ...]) -> str:
    found: list[str] = []
    at = 0
    while match := _NAME.search(text, at):
        found.append(text[at : match.start()])
        at = match.end()
        if match[0] == "$$":
            found.append("$")
        elif match["plain"]:
            found.append(_value(match["plain"], values, within))
        else:
            end = _closed(text, at)
            found.append(_bracketed(text[at + 1 : end], values, within))
            at = end + 1
    return "".join([*found, text[at:]])


def _closed(text: str, at: int) -> int:
    """Where the bracket that opens there ends."""
    opening, closing, depth = text[at], _PAIRS[text[at]], 0
    for place in range(at, len(text)):
        depth += (text[place] == opening) - (text[place] == closing)
        if not depth:
            return place
    raise ParameterError(f"{text!r}", f"a {closing!r} for the {opening!r} behind $")


def _bracketed(inside: str, values: Mapping[str, str], within: tuple[str, ...]) -> str:
    match = _INSIDE.match(inside.strip())
    if match is None:
        raise ParameterError(f"${{{inside}}}", "${name}, ${name?text} or ${name:text}")
    value = _value(match["name"], values, within)
    if match["sign"] is None:
        return value
    chosen, other = _texts(match["rest"])
    wanted = bool(value) is (match["sign"] == "?")
    return _expand(chosen if wanted else other, values, within)


def _texts(rest: str) -> tuple[str, str]:
    """`text`, `{text}` or `{text}:{other}`."""
    if not rest.lstrip().startswith("{"):
        return rest, ""
    rest = rest.strip()
    end = _closed(rest, 0)
    behind = rest[end + 1 :].strip()
    if behind and not (behind.startswith(":{") and _closed(behind, 1) == len(behind) - 1):
        raise ParameterError(f"{rest!r}", "{text} or {text}:{text}")
    return rest[1:end], behind[2:-1]


def _value(name: str, values: Mapping[str, str], within: tuple[str, ...]) -> str:
    if name not in values:
        near = nearest(name, values)
        found = f"${name}, which no setting that can be used here is called"
        raise ParameterError(found, "the name of one", f"${near}" if near else "")
    if name in within:
        circle = " -> ".join(f"${each}" for each in (*within, name))
        raise ParameterError(circle, "settings that do not stand for themselves")
    return _expand(values[name], values, (*within, name))
