"""From the models of the settings: the commented default file, and the reference.

Both are made from the fields' descriptions, types and defaults, so they cannot
say anything else than what the program does.  A line that begins with `#key =`
shows a default, or an example where a key has none; `# ` begins a comment.
"""

from __future__ import annotations

import enum
import importlib
import json
import sys
import textwrap
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from milterd.base.fields import INHERITED, Kind

_PAGE = """# Settings

Both daemons read one file, `/etc/gatepost/gatepost.toml` ([TOML](https://toml.io)).
`smtpgw config` prints it with every default, `milterd check` and `smtpgw check` find
every mistake in it at once, and SIGHUP puts a changed file in force; a bad one changes
nothing.  The file must not be writable for everybody.

A duration is a number of seconds, or a number with a unit: `"30s"`, `"5m"`, `"4h"`,
`"5d"`, `"1w"`.  A size is a number of octets, or a number with a unit: `"100K"`, `"25M"`.

This page is made from the program:
`python -m milterd.base.reference milterd.config:MilterdConfig smtpgw.config:GatewaySettings`.

## Tables
"""

_WIDTH = 96
_UNITS = ((604800, "w"), (86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


@dataclass(frozen=True, slots=True)
class _Part:
    """A table of the file: its header as TOML writes it, whether it is only shown as an
    example, its description, its plain keys, and the example its keys are shown from."""

    header: str
    shown: bool
    description: str
    keys: tuple[tuple[str, FieldInfo], ...]
    example: Mapping[str, Any]


def generate(*models: type[BaseModel], without: Iterable[str] = ()) -> str:
    """The commented default file for these root models, each table once, but for
    the tables `without` names."""
    parts = _parts(models, set(without))
    return "\n".join("\n".join(_toml_part(part)) + "\n" for part in parts)


def reference(*models: type[BaseModel]) -> str:
    """The same as Markdown: a section for each table, a row for each key."""
    return "\n".join("\n".join(_markdown_part(part)) + "\n" for part in _parts(models, set()))


def page(*models: type[BaseModel]) -> str:
    """docs/configuration.md as it should be."""
    return f"{_PAGE}\n{reference(*models)}"


def toml(value: object) -> str:
    """A value as TOML writes it, on one line."""
    match value:
        case enum.Enum():
            return toml(value.value)
        case bool() | int() | float() if not isinstance(value, float) or not value.is_integer():
            return json.dumps(value)
        case float():
            return str(int(value))
        case str() | PurePath():
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007F")
        case BaseModel():
            return toml(value.model_dump(exclude_none=True))
        case Mapping():
            pairs = ", ".join(f"{_key(str(name))} = {toml(each)}" for name, each in value.items())
            return f"{{ {pairs} }}" if pairs else "{}"
        case Iterable():
            each = [toml(each) for each in value]
            unordered = isinstance(value, set | frozenset)
            return f"[{', '.join(sorted(each) if unordered else each)}]"
        case _:
            return '""'


def _parts(models: Iterable[type[BaseModel]], seen: set[str]) -> Iterator[_Part]:
    for model in models:
        for name, field in model.model_fields.items():
            if name not in seen:
                seen.add(name)
                yield from _table(_key(name), field, shown=False)


def _table(path: str, field: FieldInfo, *, shown: bool) -> Iterator[_Part]:
    shape, model = _shape(field.annotation)
    if shape == "table":
        example = field.examples[0] if field.examples else {}
        yield _Part(f"[{path}]", True, field.description or "", (), example)
    if model is None:
        return
    header = {"one": f"[{path}]", "many": f"[[{path}]]", "named": f"[{path}.NAME]"}[shape]
    shown = shown or shape != "one" or _default(field) is None
    text = field.description or _first_paragraph(model)
    below = [(key, each) for key, each in model.model_fields.items() if _is_table(each)]
    plain = ((key, each) for key, each in model.model_fields.items() if not _is_table(each))
    keys = tuple((key, each) for key, each in plain if not _marked(each, INHERITED))
    example = field.examples[0] if field.examples else {}
    if shape == "named" and example:
        name, example = next(iter(example.items()))
        header = f"[{path}.{_key(name)}]"
    yield _Part(header, shown, text, keys, example)
    for key, each in below:
        yield from _table(f"{header.strip('[]')}.{_key(key)}", each, shown=shown)


def _is_table(field: FieldInfo) -> bool:
    """Whether a field is written as tables of its own, and not inline as one value."""
    shape, model = _shape(field.annotation)
    return (model is not None or shape == "table") and not _marked(field, "inline")


def _marked(field: FieldInfo, mark: str) -> bool:
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get(mark))


def _shape(annotation: Any) -> tuple[str, type[BaseModel] | None]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "one", annotation
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _shape(arguments[0])
    if origin is typing.Union or isinstance(annotation, types.UnionType):
        plain = [each for each in arguments if each is not types.NoneType]
        return _shape(plain[0]) if len(plain) == 1 else ("", None)
    if origin in (list, tuple, set, frozenset) and arguments:
        return "many", _shape(arguments[0])[1]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        model = _shape(arguments[1])[1]
        return ("named" if model else "table"), model
    return "", None


def _default(field: FieldInfo) -> Any:
    return None if field.is_required() else field.get_default(call_default_factory=True)


def _value(key: str, field: FieldInfo, example: Mapping[str, Any]) -> str:
    """What stands after the equals sign."""
    value = example.get(key, _default(field))
    if value is None and field.examples:
        value = field.examples[0]
    if kind(field) == "duration" and isinstance(value, int | float):
        return _human(value)
    return toml(value)


def _human(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds and seconds % size == 0:
            return json.dumps(f"{int(seconds // size)}{unit}")
    return toml(float(seconds))


def kind(field: FieldInfo) -> str:
    """What a value is called: whole number, text, a list of text, duration, ..."""
    for each in field.metadata:
        if isinstance(each, Kind):
            return each.name
    return _kind(field.annotation)


def _kind(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        named = [each.name for each in arguments[1:] if isinstance(each, Kind)]
        return named[0] if named else _kind(arguments[0])
    if origin is typing.Literal:
        return ", ".join(toml(each) for each in arguments)
    if origin is typing.Union or isinstance(annotation, types.UnionType):
        return " or ".join(_kind(each) for each in arguments if each is not types.NoneType)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"table of {_kind(arguments[1])}"
    if origin is not None and arguments:
        return f"list of {_kind(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "table"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return ", ".join(toml(each) for each in annotation)
    names = {bool: "true or false", int: "whole number", float: "number", str: "text"}
    return names.get(annotation, "path" if annotation is not None else "text")


def _toml_part(part: _Part) -> Iterator[str]:
    yield from _comment(part.description)
    yield f"#{part.header}" if part.shown else part.header
    for key, field in part.keys:
        yield from _comment(f"{_sentence(field)} ({kind(field)})")
        yield f"#{_key(key)} = {_value(key, field, part.example)}"
    for key, value in part.example.items() if not part.keys else ():
        yield f"#{_key(key)} = {toml(value)}"


def _markdown_part(part: _Part) -> Iterator[str]:
    yield f"### `{part.header}`\n"
    yield part.description + "\n"
    if not part.keys:
        return
    yield "| key | value | default | meaning |\n|---|---|---|---|"
    for key, field in part.keys:
        yield _markdown_row(key, key, field)
        # The keys of a table that is written inline, as one value.
        model = _shape(field.annotation)[1]
        for below, each in model.model_fields.items() if model else ():
            yield _markdown_row(f"{key}.{below}", below, each)


def _markdown_row(shown: str, key: str, field: FieldInfo) -> str:
    cells = (f"`{shown}`", kind(field), _default_cell(key, field), _sentence(field))
    return "| " + " | ".join(each.replace("|", "\\|") for each in cells) + " |"


def _default_cell(key: str, field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    empty = _default(field) in (None, "", (), {}, frozenset())
    return "none" if empty else f"`{_value(key, field, {})}`"


def _sentence(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _first_paragraph(model: type[BaseModel]) -> str:
    return " ".join((model.__doc__ or "").split("\n\n")[0].split())


def _comment(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def _key(name: str) -> str:
    plain = name.replace("-", "").replace("_", "")
    return name if plain.isascii() and plain.isalnum() else json.dumps(name)


def main(names: Iterable[str]) -> None:
    """Print :func:`page` for models named `module:class`."""
    pairs = [each.split(":") for each in names]
    models = [getattr(importlib.import_module(module), name) for module, name in pairs]
    sys.stdout.write(page(*models))


if __name__ == "__main__":
    main(sys.argv[1:])
