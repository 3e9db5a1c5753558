"""Options that several commands share, or a command's many, as a dataclass with options for fields.

A command has a parameter of such a class, and typer sees an option for each field in its place.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_type_hints

Command = Callable[..., None]


def spread(command: Command) -> Command:
    """`command`, each parameter whose type is a dataclass replaced by an option for each field.

    Every field has a default, and its type is an option (typing.Annotated, typer.Option).
    """
    signature = inspect.signature(command, eval_str=True)
    shared: dict[str, Any] = {
        each.name: each.annotation
        for each in signature.parameters.values()
        if dataclasses.is_dataclass(each.annotation)
    }

    @functools.wraps(command)
    def with_options(**words: Any) -> None:
        for name, kind in shared.items():
            fields = dataclasses.fields(kind)
            words[name] = kind(**{each.name: words.pop(each.name) for each in fields})
        command(**words)

    parameters = [*_parameters(signature, shared)]
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    with_options.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return with_options


def _parameters(
    signature: inspect.Signature, shared: dict[str, Any]
) -> Iterator[inspect.Parameter]:
    for each in signature.parameters.values():
        if each.name not in shared:
            yield each
            continue
        kind = shared[each.name]
        types = get_type_hints(kind, include_extras=True)
        for field in dataclasses.fields(kind):
            yield each.replace(name=field.name, default=field.default, annotation=types[field.name])
