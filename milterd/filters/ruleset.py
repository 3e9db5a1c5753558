"""Rule files: TOML that says what the headers filter does to header fields.

A file holds one rule set: a name, a description, the parameters it needs with
values for its examples, and rules, each with examples of what it does.  Reading
finds everything that is wrong at once.  A rule's `@parameter@` stands for what
the configuration gives; in a pattern it matches literally.
"""

from __future__ import annotations

import difflib
import enum
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import regex  # type: ignore[import-untyped]  # it carries no type information
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from milterd.core.mail import Direction

Parameters = Mapping[str, tuple[str, ...]]
"""What each `@name@` stands for: one text, or any of several."""


class RuleError(Exception):
    """A rule set that cannot be used; `problems` lists all that is wrong with it."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        super().__init__("\n".join(f"{source}: {each}" for each in problems))
        self.source, self.problems = source, tuple(problems)


class RuleAction(enum.Enum):
    """What a rule does to the fields it matches; `add` needs none."""

    REMOVE = "remove"
    REPLACE = "replace"
    RENAME = "rename"
    LIMIT = "limit"
    ADD = "add"


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


_NAME = r"^[!-9;-~]+$"
_Lines = tuple[str, ...]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Example(_Model):
    """A header before and after the rule alone was applied to it."""

    direction: Direction
    before: _Lines
    after: _Lines


class RuleText(_Model):
    """One rule as its file has it.

    `header` is a name or a list of names, in which `*` and `?` stand for any
    characters.  `value` is a pattern searched in the unfolded value, without
    regard to case; `word` compares its first word, comments and quotes undone,
    and takes a value that does not begin with a readable word for a match.
    `with` is the new value (`replace`, where `\\1` stands for a group of the
    pattern, and `add`) or the new name (`rename`).  `limit` leaves the `keep`
    one of each name.  `keep_signatures` leaves alone what a signature of the
    mail covers; by default it does so in inbound mail.
    """

    name: str
    action: RuleAction
    header: Annotated[tuple[Annotated[str, Field(pattern=_NAME)], ...], BeforeValidator(_listed)]
    direction: Direction | None = None
    value: str | None = None
    word: str | None = None
    text: str | None = Field(default=None, alias="with")
    keep: Literal["first", "last"] | None = None
    at: Literal["top", "bottom"] = "bottom"
    if_missing: bool = False
    keep_signatures: bool | None = None
    example: tuple[Example, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _agree(self) -> RuleText:
        problems = list(_disagreements(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self


class RuleFile(_Model):
    """A rule set as its file has it; `parameters` are values for the examples."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    description: str
    parameters: dict[str, str] = Field(default_factory=dict)
    rule: tuple[RuleText, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, ready to run.  `text` is octets; see :class:`RuleText` for the rest."""

    name: str
    action: RuleAction
    header: re.Pattern[bytes]
    names: tuple[bytes, ...]
    direction: Direction | None
    value: Any  # a regex.Pattern of octets, or None
    words: frozenset[bytes]
    text: bytes
    keep_last: bool
    on_top: bool
    if_missing: bool
    keep_signatures: bool | None


@dataclass(frozen=True, slots=True)
class RuleSet:
    """Rules in their order, under the set's name."""

    name: str
    rules: tuple[Rule, ...]


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
    near = difflib.get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    places = ", ".join(str(each) for each in directories)
    there = ", ".join(sorted(known)) or "none"
    raise RuleError(f"rule set {name!r}", [f"not found in {places} (there: {there}){hint}"])


def compile_rules(file: RuleFile, parameters: Parameters) -> RuleSet:
    """Put the parameters in, and make patterns of texts.  Raises :class:`RuleError`."""
    rules, problems = [], []
    for each in file.rule:
        try:
            rules.append(_rule(each, parameters))
        except (KeyError, regex.error) as error:
            what = (
                f"needs the parameter {error.args[0]!r}, which is not set"
                if isinstance(error, KeyError)
                else f"the pattern in 'value', or 'with', is wrong: {error}"
            )
            problems.append(f"rule {each.name!r}: {what}")
    if problems:
        raise RuleError(f"rule set {file.name!r}", problems)
    return RuleSet(file.name, tuple(rules))


_FLAGS = regex.IGNORECASE | regex.DOTALL


def _rule(text: RuleText, parameters: Parameters) -> Rule:
    globs = "|".join(_glob(each) for each in text.header)
    # Only with a pattern is 'with' a template, in which a backslash means something.
    form = _first if text.value is None else _first_escaped
    template = _substitute(text.text or "", parameters, form)
    value = None
    if text.value is not None:
        pattern = _substitute(text.value, parameters, _alternatives)
        value = regex.compile(pattern.encode("utf-8"), _FLAGS)
        if text.action is RuleAction.REPLACE:
            _check_template(pattern, template)
    return Rule(
        name=text.name,
        action=text.action,
        header=re.compile(globs.encode("ascii"), re.IGNORECASE | re.DOTALL),
        names=tuple(each.encode("ascii") for each in text.header),
        direction=text.direction,
        value=value,
        words=frozenset(_words(text.word, parameters)),
        text=template.encode("utf-8"),
        keep_last=text.keep == "last",
        on_top=text.at == "top",
        if_missing=text.if_missing,
        keep_signatures=text.keep_signatures,
    )


def _check_template(pattern: str, template: str) -> None:
    """Expand the template once, over a match with nothing: raises regex.error if it is wrong."""
    anything = regex.compile(f"{pattern}\n|".encode(), _FLAGS)
    try:
        anything.match(b"").expand(template.encode("utf-8"))
    except IndexError as error:
        raise regex.error(f"in 'with', {error}") from None


_PARAMETER = re.compile(r"@([a-z][a-z0-9_]*)@")


def _substitute(text: str, parameters: Parameters, form: Any) -> str:
    """Replace each `@name@`; raises KeyError for one that has no value."""

    def value(match: re.Match[str]) -> str:
        values = tuple(each for each in parameters.get(match[1], ()) if each)
        if not values:
            raise KeyError(match[1])
        return str(form(values))

    return _PARAMETER.sub(value, text)


def _alternatives(values: tuple[str, ...]) -> str:
    return f"(?:{'|'.join(regex.escape(each) for each in values)})"


def _first(values: tuple[str, ...]) -> str:
    return values[0]


def _first_escaped(values: tuple[str, ...]) -> str:
    return values[0].replace("\\", "\\\\")


def _words(text: str | None, parameters: Parameters) -> list[bytes]:
    """The words a `word` condition takes: the parameter's values, or the text itself."""
    if text is None:
        return []
    match = _PARAMETER.fullmatch(text)
    if match is None:
        return [text.lower().encode("utf-8")]
    _substitute(text, parameters, _first)
    return [each.lower().encode("utf-8") for each in parameters[match[1]] if each]


def _glob(name: str) -> str:
    return re.escape(name).replace(r"\*", ".*").replace(r"\?", ".")


def _disagreements(rule: RuleText) -> list[str]:
    """Keys that the rule's action needs and has not, or has and cannot use."""
    action, problems = rule.action, []
    needs_text = action in (RuleAction.REPLACE, RuleAction.RENAME, RuleAction.ADD)
    if needs_text and not rule.text:
        problems.append(f"action {action.value!r} needs 'with'")
    if not needs_text and rule.text is not None:
        problems.append(f"action {action.value!r} takes no 'with'")
    if action is RuleAction.RENAME and rule.text and not re.fullmatch(_NAME, rule.text):
        problems.append(f"'with' {rule.text!r} is not a field name")
    if rule.text and any(ord(each) < 32 or ord(each) == 127 for each in rule.text):
        problems.append("'with' holds a control character")
    if (action is RuleAction.LIMIT) != (rule.keep is not None):
        problems.append("'keep' goes with action 'limit', and only with it")
    if action in (RuleAction.LIMIT, RuleAction.ADD) and (rule.value or rule.word):
        problems.append(f"action {action.value!r} takes neither 'value' nor 'word'")
    if action is RuleAction.ADD and (len(rule.header) != 1 or set(rule.header[0]) & {"*", "?"}):
        problems.append("action 'add' needs one exact name in 'header'")
    if action is not RuleAction.ADD and (rule.if_missing or rule.at != "bottom"):
        problems.append("'at' and 'if_missing' go with action 'add' only")
    return problems


def _problem(error: Any, data: Mapping[str, Any]) -> str:
    """One of pydantic's errors in a postmaster's words: key, found, expected, nearest."""
    place = ".".join(str(each) for each in error["loc"])
    if error["type"] == "extra_forbidden":
        model = _model_at(error["loc"])
        names = [field.alias or key for key, field in model.model_fields.items()]
        near = difflib.get_close_matches(str(error["loc"][-1]), names, 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}"
        return f"{place}: unknown key{hint}"
    if error["type"] == "missing":
        return f"{place}: missing"
    found = error["input"] if isinstance(error["input"], str | int | float) else "this"
    rule = _rule_name(error["loc"], data)
    return f"{place or 'file'}{rule}: found {found!r}, {error['msg'].removeprefix('Value error, ')}"


def _model_at(place: tuple[Any, ...]) -> type[_Model]:
    """The model whose key stands at a place such as ("rule", 2, "header")."""
    if "example" in place[:-1]:
        return Example
    return RuleText if place[0] == "rule" and len(place) > 1 else RuleFile


def _rule_name(place: tuple[Any, ...], data: Mapping[str, Any]) -> str:
    if len(place) > 1 and place[0] == "rule" and isinstance(place[1], int):
        name = data["rule"][place[1]].get("name")
        return f" ({name})" if isinstance(name, str) else ""
    return ""


def _own_directories() -> list[Path]:
    """Where our own rule sets are: a source tree, or an installation."""
    tree = Path(__file__).resolve().parents[2] / "rules"
    installed = Path(sys.prefix) / "share" / "gatepost" / "rules"
    return [each for each in (installed, tree) if each.is_dir()] or [tree]
