"""Templates with % in them: of queries, and of results (db_common.c of Postfix).  Pure.

A template is a tuple of characters and of expansions.  In a query `%s %u %d` and their
upper-case forms are the key, its local part and its domain, `%1` to `%9` the labels of its
domain from the right.  In a result `%s %u %d` are those of the value, the others those of
the key.  A key or a value that lacks what some template needs is skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Expansion:
    """`%` and its letter or digit."""

    letter: str


Template = tuple[str | Expansion, ...]
"""Single characters and expansions; `%%` is the character `%`."""

_NAMED = frozenset("sudSUD123456789")


def parse(text: str) -> Template:
    """Raises ValueError saying what is wrong."""
    found: list[str | Expansion] = []
    letters = iter(text)
    for each in letters:
        if each != "%":
            found.append(each)
            continue
        letter = next(letters, "")
        if (letter != "%" and letter not in _NAMED) or not letter:
            raise ValueError(f"%{letter} in {text!r}")
        found.append("%" if letter == "%" else Expansion(letter))
    return tuple(found)


def letters(template: Template) -> set[str]:
    """The expansions of a template."""
    return {each.letter for each in template if isinstance(each, Expansion)}


@dataclass(frozen=True, slots=True)
class Parts:
    """A key or a value, taken apart: `user` is all of it where there is no domain."""

    whole: bytes
    user: bytes
    domain: bytes
    labels: tuple[bytes, ...] = ()

    def get(self, letter: str) -> bytes:
        """What an expansion stands for."""
        if letter.isdigit():
            return self.labels[-int(letter)]
        return {"s": self.whole, "u": self.user, "d": self.domain}[letter.lower()]


def _apart(text: bytes) -> Parts:
    user, at, domain = text.rpartition(b"@")
    if not at:
        return Parts(text, text, b"")
    return Parts(text, user, domain, tuple(filter(None, domain.split(b"."))))


def _lacks(text: bytes, *, user: bool, domain: bool) -> bool:
    parts = _apart(text)
    return (domain and not parts.domain) or (user and text.startswith(b"@") and not parts.user)


class Formats:
    """The templates of one table together: what any of them needs, a key must have."""

    def __init__(self, queries: Iterable[Template], result: Template) -> None:
        asked = set().union(*map(letters, queries))
        shown = letters(result)
        digits = [int(each) for each in asked | shown if each.isdigit()]
        self._labels = max(digits, default=0)
        self._key_user = bool(asked & set("uU") or "U" in shown)
        self._key_domain = bool(asked & set("dD") or "D" in shown or digits)
        self._value_user, self._value_domain = "u" in shown, "d" in shown
        self._result = result

    def key(self, key: bytes) -> Parts | None:
        """The key's parts; None: it lacks one of them, nothing is asked."""
        if not key or _lacks(key, user=self._key_user, domain=self._key_domain):
            return None
        parts = _apart(key)
        return parts if len(parts.labels) >= self._labels else None

    def value(self, value: bytes | None, key: Parts) -> bytes | None:
        """A value as `result_format` has it; None: it is skipped."""
        if not value or _lacks(value, user=self._value_user, domain=self._value_domain):
            return None
        own = _apart(value)
        return expand(self._result, lambda each: (own if each in "sud" else key).get(each))


def expand(template: Sequence[str | Expansion], get: Callable[[str], bytes]) -> bytes:
    """The template with `get(letter)` for each expansion."""
    return b"".join(
        get(each.letter) if isinstance(each, Expansion) else each.encode("utf-8", "surrogateescape")
        for each in template
    )
