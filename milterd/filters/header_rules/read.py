"""Reading rule files: TOML that says what the headers filter does to mail.

A file holds one rule set: a name, a description, the parameters it needs with
values for its examples, and rules, each with examples of what it does.  Reading
finds everything that is wrong at once.  A rule's `@parameter@` stands for what
the configuration gives; in a pattern it matches literally.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from milterd.base.near import nearest
from milterd.filters.header_rules.model import Example, Model, RuleFile, RuleText, When


class RuleError(Exception):
    """A rule set that cannot be used; `problems` lists all that is wrong with it."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        super().__init__("\n".join(f"{source}: {each}" for each in problems))
        self.source, self.problems = source, tuple(problems)


def read(path: Path) -> RuleFile:
    """Read a rule file.  Raises :class:`RuleError` with every problem in it."""
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise RuleError(str(path), [f"cannot be read ({error.strerror})"]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RuleError(str(path), [f"is not TOML: {error}"]) from None
    try:
        return RuleFile.model_validate(data)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # A list whose items are all wrong is reported as too short besides.
        real = [each for each in errors if each["type"] != "too_short" or not each["input"]]
        problems = [_problem(each, data) for each in real]
        raise RuleError(str(path), problems) from None


def find(name: str, directory: Path | None = None) -> Path:
    """The file of a rule set: in `directory`, or else among those that come with us.

    A set in `directory` takes the place of ours with the same name.  Raises
    :class:`RuleError` that lists what there is.
    """
    directories = _own_directories() + ([directory] if directory else [])
    known = {path.stem: path for each in directories for path in sorted(each.glob("*.toml"))}
    if name in known:
        return known[name]
    near = nearest(name, known)
    hint = f"; did you mean {near!r}?" if near else ""
    places = ", ".join(str(each) for each in directories)
    there = ", ".join(sorted(known)) or "none"
    raise RuleError(f"rule set {name!r}", [f"not found in {places} (there: {there}){hint}"])


def _problem(error: Any, data: Mapping[str, Any]) -> str:
    """One of pydantic's errors in a postmaster's words: key, found, expected, nearest."""
    place = ".".join(str(each) for each in error["loc"])
    if error["type"] == "extra_forbidden":
        model = _model_at(error["loc"])
        names = [field.alias or key for key, field in model.model_fields.items()]
        key = str(error["loc"][-1])
        if key == "keep_signatures":
            return f'{place}: unknown key; on_signed = "skip" was its true, "force" its false'
        near = nearest(key, names)
        hint = f"; did you mean {near!r}?" if near else f"; known: {', '.join(names)}"
        return f"{place}: unknown key{hint}"
    if error["type"] == "missing":
        return f"{place}: missing"
    found = error["input"] if isinstance(error["input"], str | int | float) else "this"
    rule = _rule_name(error["loc"], data)
    return f"{place or 'file'}{rule}: found {found!r}, {error['msg'].removeprefix('Value error, ')}"


def _model_at(place: tuple[Any, ...]) -> type[Model]:
    """The model whose key stands at a place such as ("rule", 2, "header")."""
    if "example" in place[:-1]:
        return Example
    if "when" in place[:-1]:
        return When
    return RuleText if place[0] == "rule" and len(place) > 1 else RuleFile


def _rule_name(place: tuple[Any, ...], data: Mapping[str, Any]) -> str:
    if len(place) > 1 and place[0] == "rule" and isinstance(place[1], int):
        name = data["rule"][place[1]].get("name")
        return f" ({name})" if isinstance(name, str) else ""
    return ""


def _own_directories() -> list[Path]:
    """Where our own rule sets are: a source tree, or an installation."""
    tree = Path(__file__).resolve().parents[3] / "rules"
    installed = Path(sys.prefix) / "share" / "gatepost" / "rules"
    return [each for each in (installed, tree) if each.is_dir()] or [tree]
