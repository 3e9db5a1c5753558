"""Rules about attachments, from a TOML file: what is meant, what is done, and examples.

All conditions of a rule have to hold, of a condition with several values one; the first rule that
means a file says what is done about it.  Examples are run by `milterd check`.  Every mistake in a
file is reported at once.
"""

from __future__ import annotations

import enum
import fnmatch
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from milterd.core.mail import Direction
from milterd.filters.attachment_names import extensions, forms, oddities
from milterd.filters.setup import SetupError
from milterd.ports.attached.kinds import kinds


class RuleAction(enum.Enum):
    """What is done about a file; a mail with several gets the strictest of theirs."""

    REJECT = "reject"
    QUARANTINE = "quarantine"
    STRIP = "strip"
    MARK = "mark"
    ACCEPT = "accept"


STRICTEST = tuple(RuleAction)


@dataclass(frozen=True, slots=True)
class Item:
    """A file that came with a mail: `part` is the number of its part, -1 where no part is sure to
    hold it; `path` the names of archives and in them, without the part's own."""

    part: int
    names: tuple[str, ...] = ()
    declared: str = ""
    kinds: tuple[str, ...] = ()
    marks: tuple[str, ...] = ()
    path: tuple[str, ...] = ()


def _listed(value: object) -> object:
    return (
        (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
    )


Listed = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Odd = Literal["double-extension", "right-to-left", "nul", "control", "trailing-dot-or-space"]
Marks = Literal["macros", "encrypted"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ExampleText(_Model):
    """A file and whether the rule means it: `begins` are its first octets, `\\xNN` for what is no
    text; `inside` is the archive it stands in."""

    file: str = ""
    declared: str = "application/octet-stream"
    begins: str = ""
    marks: Annotated[tuple[Marks, ...], BeforeValidator(_listed)] = ()
    inside: str = ""
    direction: Direction = Direction.INBOUND
    matches: bool = True


class RuleText(_Model):
    """A rule as its file has it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    action: RuleAction
    direction: Direction | None = None
    names: Listed = ()
    extensions: Listed = ()
    declared: Listed = ()
    content: Listed = ()
    odd: Annotated[tuple[Odd, ...], BeforeValidator(_listed)] = ()
    marks: Annotated[tuple[Marks, ...], BeforeValidator(_listed)] = ()
    inside: Literal["also", "only", "never"] = "also"
    text: str = ""
    example: tuple[ExampleText, ...] = Field(min_length=1)


class RuleFile(_Model):
    """A set of rules as its file has it."""

    name: str
    description: str
    rule: tuple[RuleText, ...] = Field(min_length=1)


class Rule:
    """A rule, ready to be asked."""

    def __init__(self, text: RuleText) -> None:
        self.text, self.name, self.action = text, text.name, text.action
        self._names, self._declared = _globs(text.names), _globs(text.declared)
        self._extensions = frozenset(each.lower().lstrip(".") for each in text.extensions)

    def means(self, item: Item, direction: Direction) -> bool:
        """Whether all that the rule says holds for this file."""
        text = self.text
        if text.direction not in (None, direction):
            return False
        if text.inside != "also" and (text.inside == "only") != bool(item.path):
            return False
        return all(held for asked, held in self._conditions(item) if asked)

    def _conditions(self, item: Item) -> Iterator[tuple[object, bool]]:
        """Each condition: what the rule says there, and whether it holds."""
        text, names = self.text, item.names
        yield (
            self._names,
            any(each.fullmatch(f) for each in self._names for n in names for f in forms(n)),
        )
        yield self._extensions, any(self._extensions & extensions(each) for each in names)
        yield self._declared, any(each.fullmatch(item.declared) for each in self._declared)
        yield text.content, bool(set(text.content) & set(item.kinds))
        yield text.odd, any(set(text.odd) & oddities(each) for each in names)
        yield text.marks, bool(set(text.marks) & set(item.marks))


def _globs(patterns: Sequence[str]) -> list[re.Pattern[str]]:
    return [re.compile(fnmatch.translate(each.lower())) for each in patterns]


def load(path: Path) -> tuple[Rule, ...]:
    """The rules of a file.  Raises :class:`SetupError` with all that is wrong."""
    try:
        file = RuleFile.model_validate(tomllib.loads(path.read_text("utf-8")))
    except OSError as error:
        raise SetupError("attachments", [f"{path}: cannot be read ({error.strerror})"]) from None
    except ValidationError as error:
        raise SetupError("attachments", [f"{path}: {each}" for each in _wrong(error)]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SetupError("attachments", [f"{path}: found {error}, expected TOML"]) from None
    bare = [each.name for each in file.rule if not _says(each)]
    if bare:
        keys = "names, extensions, declared, content, odd or marks"
        wrong = [f"{path}: rule {each!r}: found no condition, expected {keys}" for each in bare]
        raise SetupError("attachments", wrong)
    return tuple(map(Rule, file.rule))


def _says(rule: RuleText) -> bool:
    return bool(
        rule.names or rule.extensions or rule.declared or rule.content or rule.odd or rule.marks
    )


def _wrong(error: ValidationError) -> Iterator[str]:
    for each in error.errors(include_url=False):
        place = ".".join(map(str, each["loc"]))
        said = each["msg"].removeprefix("Input should be ")
        found = "nothing" if each["type"] == "missing" else repr(each["input"])[:60]
        if each["type"] == "extra_forbidden":
            found, said = "an unknown key", "one that rules have"
        yield f"{place}: found {found}, expected {said}"


def failing(rules: Sequence[Rule]) -> Iterator[str]:
    """What does not do as its examples say."""
    for rule in rules:
        for number, example in enumerate(rule.text.example, 1):
            item = _made(example)
            if rule.means(item, example.direction) != example.matches:
                what = "is not meant" if example.matches else "is meant"
                yield f"rule {rule.name!r}: example {number}: {example.file!r} {what}"


def _made(example: ExampleText) -> Item:
    begins: Any = example.begins.encode("latin-1", "replace").decode("unicode_escape")
    found = kinds(begins.encode("latin-1", "replace")) if begins else ()
    path = (example.file,) if example.inside else ()
    return Item(0, (example.file,), example.declared, found, example.marks, path)
