"""Read a TOML file into pydantic models, and report every mistake in it at once.

Each problem names the file, the line, the dotted key, what was found, what was
expected and, for an unknown key, the nearest right spelling.
"""

from __future__ import annotations

import json
import os
import re
import types
import typing
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails

from milterd.base import sockets, toml_file
from milterd.base.fields import Kind
from milterd.base.near import nearest
from milterd.base.toml_file import ConfigError, Problem
from milterd.base.toml_lines import Location, key_lines

TABLES = ("log", "metrics", "milterd", "filter", "smtpgw")
"""The tables of gatepost.toml.  Each half reads its own and leaves the others' alone."""


class Table(BaseModel):
    """A table of the settings file: immutable, and without unknown keys.

    What checks a table is built when one is read, which a table inside another never is by itself:
    3 MiB and a tenth of a second in every process.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


class LogSettings(Table):
    """How both daemons write their log, which goes to standard error."""

    format: Literal["auto", "text", "json"] = Field(
        default="auto", description='"auto" is text on a terminal and JSON elsewhere'
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="the least important line that is written"
    )


def _address(text: str) -> str:
    if text:
        sockets.parse(text)
    return text


Address = Annotated[str, AfterValidator(_address), Kind("address")]
"""A socket address (:func:`milterd.base.sockets.parse`), or nothing."""


class MetricsSettings(Table):
    """Where each daemon serves its Prometheus metrics."""

    allow_remote: bool = Field(
        default=False,
        description="permit addresses other than loopback; anyone who reaches them may read",
    )
    milterd: Address = Field(
        default="127.0.0.1:9811",
        description='address for milterd: "host:port" or "unix:/path"; empty turns it off',
    )
    smtpgw: Address = Field(
        default="127.0.0.1:9810", description="address for smtpgw, in the same form"
    )

    @field_validator("milterd", "smtpgw")
    @classmethod
    def _loopback(cls, text: str, info: ValidationInfo) -> str:
        if text and not (info.data.get("allow_remote") or sockets.parse(text).loopback):
            raise ValueError(
                "expected a loopback address or a UNIX socket, unless metrics.allow_remote is true"
            )
        return text


class CommonSettings(Table):
    """The tables that both halves share; each half's root model adds its own."""

    log: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()


Model = TypeVar("Model", bound=BaseModel)


def load(path: str | os.PathLike[str], model: type[Model]) -> Model:
    """The settings in the file at `path`.

    Raises :class:`ConfigError` for a file that is missing, writable for others,
    not TOML, or wrong in any key.  Tables of the other half are left alone.
    """
    return parse(toml_file.read(Path(path)), model, file=str(path))


def parse(text: str, model: type[Model], *, file: str = "settings") -> Model:
    """The same, from the text of a file."""
    data = toml_file.tables(text, file=file)
    own = {key: each for key, each in data.items() if key in model.model_fields or not known(key)}
    try:
        return model.model_validate_json(json.dumps(own, default=str), strict=True)
    except ValidationError as error:
        lines = key_lines(text)
        problems = [_problem(file, model, own, lines, each) for each in error.errors()]
        raise ConfigError(sorted(problems, key=lambda each: (each.line, each.key))) from error


def placed(problems: Iterable[Problem], text: str, *, file: str) -> list[Problem]:
    """The same problems with the file and the line of the key; for what is found out later than
    by the models."""
    lines = {dotted(each): line for each, line in key_lines(text).items()}
    return [replace(each, file=file, line=lines.get(each.key, each.line)) for each in problems]


def known(table: str) -> bool:
    """Whether a top-level table belongs in the file, whoever reads it."""
    return table in TABLES


def _problem(
    file: str,
    model: type[BaseModel],
    data: object,
    lines: dict[Location, int],
    error: ErrorDetails,
) -> Problem:
    location, missing = _present(data, error["loc"])
    unknown = error["type"] == "extra_forbidden"
    names = _names_at(model, location[:-1]) if unknown else []
    if unknown and len(location) == 1:
        names += TABLES
    meant = nearest(str(location[-1]), names) if unknown else ""
    expected = "a key of this table" if unknown else _expected(error)
    found = f"the unknown key {location[-1]!r}" if unknown else _found(error["input"])
    key = dotted((*location, *missing))
    return Problem(
        file,
        _line(lines, location),
        key,
        "nothing" if error["type"] == "missing" else found,
        expected,
        meant,
    )


def _present(data: object, loc: Location) -> tuple[Location, Location]:
    """The part of a pydantic location that is in the data, and a missing last key.

    pydantic adds names of union members and validators to a location; those are
    nobody's keys.
    """
    kept: list[str | int] = []
    for at, each in enumerate(loc):
        inside = isinstance(data, dict) and each in data
        inside = inside or (isinstance(data, list) and isinstance(each, int) and each < len(data))
        if inside:
            kept.append(each)
            data = data[each]  # type: ignore[index]  # `inside` has just looked
        elif at == len(loc) - 1 and isinstance(data, dict):
            return tuple(kept), (each,)
    return tuple(kept), ()


def dotted(location: Location) -> str:
    """A path as TOML writes it: smtpgw.listener[0].address."""
    text = ""
    for each in location:
        if isinstance(each, int):
            text += f"[{each}]"
        else:
            plain = re.fullmatch(r"[A-Za-z0-9_-]+", each) is not None
            text += ("." if text else "") + (each if plain else json.dumps(each))
    return text


def _line(lines: dict[Location, int], location: Location) -> int:
    while location and location not in lines:
        location = location[:-1]
    return lines.get(location, 0)


def _expected(error: ErrorDetails) -> str:
    if error["type"] == "missing":
        return "a value: this key has no default"
    text = str(error.get("ctx", {}).get("error") or error["msg"])
    text = re.sub(r"^Input should be (a valid )?", "", text)
    text = text.removeprefix("Value error, ").removeprefix("expected ")
    return {"integer": "a whole number", "boolean": "true or false", "string": "text"}.get(
        text, text
    )


def _found(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _names_at(model: type[BaseModel], location: Location) -> list[str]:
    """The keys that the model at a path knows."""
    annotation: Any = model
    for each in location:
        annotation = _step(annotation, each)
    found = _models(annotation)
    return [name for one in found for name in one.model_fields]


def _step(annotation: Any, key: str | int) -> Any:
    for model in _models(annotation):
        if isinstance(key, str) and key in model.model_fields:
            return model.model_fields[key].annotation
    arguments = typing.get_args(annotation)
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        arguments = tuple(inner for each in arguments for inner in typing.get_args(each))
    return arguments[-1] if arguments and arguments[-1] is not Ellipsis else (*arguments, None)[0]


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return [one for each in typing.get_args(annotation) for one in _models(each)]
    if typing.get_origin(annotation) is typing.Annotated:
        return _models(typing.get_args(annotation)[0])
    return []
