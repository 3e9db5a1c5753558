"""What the outside world said, as a file that a person can read, change and feed back.

A facts file is TOML: a table for each filter, a key for each field of what its `gather`
returns.  Where that is one of several kinds, `outcome` names the kind as the filter's log
line does: `infected`, `not-signed`; in values below the table, `kind` does.  Octets are
text where they are UTF-8, and `{ base64 = "..." }` where they are not.  Reading finds
every mistake at once.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import enum
import re
import tomllib
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any

from milterd.base import reference
from milterd.base.near import nearest
from milterd.base.settings import dotted
from milterd.base.toml_file import ConfigError, Problem
from milterd.base.toml_lines import Location, key_lines
from milterd.core.filter import Filter
from milterd.filters.own import OwnFilter

OUTCOME, KIND = "outcome", "kind"
_BASE64 = "base64"


class UnwritableError(TypeError):
    """Facts of a type that a facts file has no form for; a fault of the filter's author."""


def facts_type(filter_: Filter[Any]) -> Any:
    """The type of what a filter gathers; Any where its author does not say."""
    gather = filter_.asks if isinstance(filter_, OwnFilter) else filter_.gather
    return typing.get_type_hints(gather).get("return", Any)


def encode(value: object, hint: Any, tag: str = OUTCOME) -> Any:
    """Facts as a TOML value.  Raises :class:`UnwritableError`."""
    kinds = _kinds(hint)
    if kinds:
        named = {tag: _name(type(value))} if len(kinds) > 1 else {}
        hints = _hints(type(value))
        return named | {each: encode(getattr(value, each), hints[each], KIND) for each in hints}
    match value:
        case enum.Enum():
            return value.value
        case bytes():
            return _readable(value)
        case bool() | int() | float() | str():
            return value
        case tuple():
            items = _item_hints(hint, len(value))
            return [encode(each, one, KIND) for each, one in zip(value, items, strict=True)]
    raise UnwritableError(f"a facts file has no form for {hint}")


def text_of(facts: Mapping[str, Mapping[str, Any]], about: str) -> str:
    """The file, from encoded facts by filter; `about` is its first line."""
    lines = [f"# {about}"]
    for name, table in facts.items():
        lines += ["", f"[{name}]"]
        lines += [f"{key} = {_laid_out(value)}" for key, value in table.items()]
    return "\n".join(lines) + "\n"


def read(
    text: str, file: str, hints: Mapping[str, Any], others: Collection[str] = ()
) -> dict[str, Any]:
    """The facts in the text of a file, by filter; `hints` are the types of those there are.

    Tables of `others` are left alone.  Raises :class:`ConfigError` with all that is wrong.
    """
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        problem = Problem(file, 0, "", f"{str(error)!r}", "TOML (see toml.io)")
        raise ConfigError([problem]) from error
    reader = _Reader(file, key_lines(text))
    found = {
        name: reader.take(table, hints[name], (name,), OUTCOME)
        for name, table in data.items()
        if name not in others
        and reader.is_known(name, list(hints), (name,), "a filter of the settings file")
    }
    if reader.problems:
        raise ConfigError(sorted(reader.problems, key=lambda each: (each.line, each.key)))
    return found


class _Reader:
    """Values of a facts file as facts; keeps every problem with its place."""

    def __init__(self, file: str, lines: dict[Location, int]) -> None:
        self.problems: list[Problem] = []
        self._file, self._lines = file, lines

    def take(self, value: Any, hint: Any, at: Location, tag: str) -> Any:
        """The fact that `value` stands for; nothing of use where there is a problem."""
        kinds = _kinds(hint)
        if kinds:
            return self._object(value, kinds, at, tag)
        if typing.get_origin(hint) is typing.Literal:
            return self._one_of(value, {each: each for each in typing.get_args(hint)}, at)
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return self._one_of(value, {each.value: each for each in hint}, at)
        if typing.get_origin(hint) is tuple:
            return self._list(value, hint, at)
        if hint is bytes:
            return self._octets(value, at)
        return self._plain(value, hint, at)

    def is_known(self, key: str, known: list[str], at: Location, expected: str) -> bool:
        """Whether a key is one of those there are; a problem if it is not."""
        if key not in known:
            near = nearest(key, known)
            names = ", ".join(known) or "none"
            what = f"{expected} (there: {names})"
            self._problem(at, f"the unknown key {key!r}", what, near)
        return key in known

    def _object(self, value: Any, kinds: dict[str, type[Any]], at: Location, tag: str) -> Any:
        if not isinstance(value, dict):
            return self._problem(at, repr(value), "a table")
        fields = dict(value)
        kind = next(iter(kinds.values()))
        if len(kinds) > 1:
            name = fields.pop(tag, None)
            if name not in kinds:
                place = (*at, tag) if name is not None else at
                found = f"no {tag}" if name is None else repr(name)
                return self._choice(place, found, name, list(kinds))
            kind = kinds[name]
        hints = _hints(kind)
        taken = {
            key: self.take(each, hints[key], (*at, key), KIND)
            for key, each in fields.items()
            if self.is_known(key, list(hints), (*at, key), f"a key of {_name(kind)}")
        }
        missing = [each for each in _required(kind) if each not in fields]
        for each in missing:
            self._problem((*at, each), "nothing", "a value: this key has no default")
        return None if missing or self.problems else kind(**taken)

    def _one_of(self, value: Any, known: Mapping[Any, Any], at: Location) -> Any:
        if not isinstance(value, str | int) or value not in known:
            return self._choice(at, repr(value), value, [str(each) for each in known])
        return known[value]

    def _choice(self, at: Location, found: str, name: object, known: list[str]) -> None:
        near = nearest(str(name), known)
        self._problem(at, found, f"one of {', '.join(known)}", near)

    def _list(self, value: Any, hint: Any, at: Location) -> Any:
        if not isinstance(value, list):
            return self._problem(at, repr(value), "a list")
        hints = _item_hints(hint, len(value))
        if len(hints) != len(value):
            return self._problem(at, f"{len(value)} values", f"{len(hints)} of them")
        pairs = enumerate(zip(value, hints, strict=True))
        return tuple(self.take(each, one, (*at, number), KIND) for number, (each, one) in pairs)

    def _octets(self, value: Any, at: Location) -> Any:
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, dict) and list(value) == [_BASE64]:
            try:
                return base64.b64decode(str(value[_BASE64]), validate=True)
            except binascii.Error:
                return self._problem((*at, _BASE64), repr(value[_BASE64]), "base64")
        return self._problem(at, repr(value), 'text, or { base64 = "..." }')

    def _plain(self, value: Any, hint: Any, at: Location) -> Any:
        if hint is float and type(value) is int:
            value = float(value)
        if hint not in _WORDS:
            raise UnwritableError(f"a facts file has no form for {hint}")
        return value if type(value) is hint else self._problem(at, repr(value), _WORDS[hint])

    def _problem(self, at: Location, found: str, expected: str, near: str = "") -> Any:
        line = at
        while line and line not in self._lines:
            line = line[:-1]
        shown = found if len(found) <= 60 else f"{found[:57]}..."
        number = self._lines.get(line, 0)
        self.problems.append(Problem(self._file, number, dotted(at), shown, expected, near))
        return None


_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


def _kinds(hint: Any) -> dict[str, type[Any]]:
    """The dataclasses that a type stands for, by the names a file has for them."""
    union = isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
    members = typing.get_args(hint) if union else (hint,)
    if not all(isinstance(each, type) and dataclasses.is_dataclass(each) for each in members):
        return {}
    return {_name(each): each for each in members}


def _name(kind: type[Any]) -> str:
    """TooLarge as too-large."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", kind.__name__).lower()


def _hints(kind: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {each.name: hints[each.name] for each in dataclasses.fields(kind)}


def _required(kind: type[Any]) -> list[str]:
    missing = dataclasses.MISSING
    return [
        each.name
        for each in dataclasses.fields(kind)
        if each.default is missing and each.default_factory is missing
    ]


def _item_hints(hint: Any, count: int) -> list[Any]:
    """The types of a tuple's items: as many as it has, or as it should have."""
    arguments = typing.get_args(hint)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return [arguments[0]] * count
    return list(arguments)


def _readable(octets: bytes) -> str | dict[str, str]:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return {_BASE64: base64.b64encode(octets).decode("ascii")}


def _laid_out(value: Any) -> str:
    """A value as TOML; a list with each of its items on a line of its own."""
    if not isinstance(value, list) or not value:
        return reference.toml(value)
    return "\n".join(["[", *(f"  {reference.toml(each)}," for each in value), "]"])
