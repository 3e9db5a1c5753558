"""A postmaster's own filter, from one file: `needs`, `gather`, `decide`, and `Settings` if it
has any (docs/write-a-filter.md).

Everything that can be seen to be wrong with the file is said when it is loaded.  What its two
functions do wrong later, an answer of another type among it, is raised, and the host does as
`on_failure` says.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from milterd.base.near import nearest
from milterd.core.actions import Edit, ReplaceBody
from milterd.core.decision import Decision, Reason, Reply, Trace, Verdict
from milterd.core.filter import Need
from milterd.core.mail import Mail
from milterd.filters.own_options import OwnOptions
from milterd.filters.setup import SetupError
from milterd.ports import own_file

_EDITS = typing.get_args(Edit)


class OwnFilter:
    """See the module's contract.  Raises :class:`SetupError` with all that is wrong."""

    def __init__(self, options: OwnOptions) -> None:
        self.name = options.name
        try:
            module = own_file.load(options.name, options.module)
        except own_file.OwnFileError as error:
            raise SetupError(options.name, [str(error)]) from error
        self.file = str(module.__file__)
        kind = getattr(module, "Settings", None)
        problems = [f"{self.file}: {each}" for each in _problems(module, kind)]
        problems = problems or [f"settings{each}" for each in _unfit(kind, options.settings)]
        if problems:
            raise SetupError(options.name, problems)
        self.needs: Need = module.needs
        self.settings = () if kind is None else (_taken(kind, options.settings),)
        self.asks: Callable[..., Any] = module.gather
        self._decide: Callable[..., Any] = module.decide
        self._check: Callable[..., Iterable[str]] = getattr(module, "check", lambda *_: ())

    def gather(self, mail: Mail, trace: Trace | None = None) -> Any:  # noqa: ARG002  # as others
        """The file's own."""
        return self.asks(mail, *self.settings)

    def decide(self, mail: Mail, facts: Any, trace: Trace | None = None) -> Decision:  # noqa: ARG002
        """The file's own.  Raises TypeError for what is no decision."""
        found = self._decide(mail, facts, *self.settings)
        for wrong in _no_decision(found):
            raise TypeError(f"decide returned {wrong}")
        return typing.cast(Decision, found)

    def check(self) -> tuple[str, ...]:
        """What the file's `check` says is wrong now, if it has one."""
        return tuple(map(str, self._check(*self.settings)))


def _problems(module: ModuleType, kind: Any) -> Iterator[str]:
    """What the module lacks, or has of another type."""
    if not isinstance(getattr(module, "needs", None), Need):
        yield _found(module, "needs", "what it is shown and may change: needs = Need.HEADERS, say")
    if kind is not None and not (isinstance(kind, type) and dataclasses.is_dataclass(kind)):
        yield _found(module, "Settings", "a dataclass with a field for each key: @dataclass")
    settings = ["settings"] if kind is not None else []
    yield from _callable(module, "gather", ["mail", *settings])
    yield from _callable(module, "decide", ["mail", "facts", *settings])
    if hasattr(module, "check"):
        yield from _callable(module, "check", settings)


def _callable(module: ModuleType, name: str, arguments: list[str]) -> Iterator[str]:
    wanted = f"def {name}({', '.join(arguments)})"
    found = getattr(module, name, None)
    if not inspect.isfunction(found):
        yield _found(module, name, f"a function: {wanted}")
        return
    place = f"line {found.__code__.co_firstlineno}"
    if inspect.iscoroutinefunction(found) or inspect.isgeneratorfunction(found):
        yield f"{name}, {place}: found an async function or one that yields, expected {wanted}"
        return
    signature = inspect.signature(found)
    try:
        signature.bind(*arguments)
    except TypeError as error:
        yield f"{name}{signature}, {place}: {error}; expected {wanted}"


def _found(module: ModuleType, name: str, expected: str) -> str:
    if hasattr(module, name):
        return f"{name}: found {type(getattr(module, name)).__name__}, expected {expected}"
    names = [each for each in vars(module) if not each.startswith("_")]
    near = nearest(name, names)
    hint = f"; did you mean {near!r}?" if near else ""
    return f"{name}: found nothing, expected {expected}{hint}"


def _unfit(kind: Any, given: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with the settings: a key and the reason each."""
    names = [each.name for each in dataclasses.fields(kind)] if kind is not None else []
    for key in given:
        if key not in names:
            near = nearest(key, names)
            hint = f"; did you mean {near!r}?" if near else ""
            known = ", ".join(names) or "none: the file has no class Settings"
            yield f".{key}: found an unknown key, expected one of its own ({known}){hint}"
    if kind is None:
        return
    try:
        _taken(kind, {key: each for key, each in given.items() if key in names})
    except ValidationError as error:
        for each in error.errors(include_url=False):
            key = "".join(f".{part}" for part in each["loc"])
            said = each["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
            found = "nothing" if each["type"] == "missing" else repr(each["input"])[:60]
            yield f"{key}: found {found}, expected {said}"
    except Exception as error:  # noqa: BLE001  # whatever __post_init__ raises is about settings
        yield f": {type(error).__name__}: {error}"


def _taken(kind: Any, given: Mapping[str, Any]) -> Any:
    """The table as the file's own class; text for what TOML has no type for, such as paths."""
    return TypeAdapter(kind).validate_json(json.dumps(given, default=str), strict=True)


def _no_decision(found: Any) -> Iterator[str]:
    """What is wrong with an answer of `decide`, whose file may have been checked by nobody."""
    if not isinstance(found, Decision):
        yield f"{type(found).__name__}, not a Decision"
        return
    parts: list[tuple[Any, Any, str]] = [
        (found.verdict, Verdict, "a Verdict"),
        (found.reply, Reply | None, "a Reply"),
        *((each, Reason, "a Reason") for each in found.reasons),
        *((each, _EDITS, "an edit") for each in found.edits),
    ]
    for value, kind, wanted in parts:
        if not isinstance(value, kind):
            yield f"{value!r:.80} where {wanted} is expected"
        elif kind is _EDITS:
            yield from _no_octets(value)


def _no_octets(edit: Any) -> Iterator[str]:
    if isinstance(edit, ReplaceBody) and not hasattr(edit.body, "pieces"):
        yield "a ReplaceBody of something else than a Body: BytesBody(octets) is one"
    for name in ("name", "value", "address", "reason"):
        value = getattr(edit, name, b"")
        if not isinstance(value, bytes):
            yield f"a {type(edit).__name__} whose {name} is {type(value).__name__}, not bytes"
