"""What a rule file may hold, as pydantic models: the rule language itself (docs/headers.md)."""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from milterd.base import durations
from milterd.core.mail import Direction
from milterd.signed.keep import OnSigned


class RuleAction(enum.Enum):
    """What a rule does: to the fields it matches, to the header, or to the mail."""

    REMOVE = "remove"
    REPLACE = "replace"
    RENAME = "rename"
    LIMIT = "limit"
    ADD = "add"
    INSERT = "insert"
    PREPEND = "prepend"
    FOLD = "fold"
    STRIP_COMMENTS = "strip-comments"
    MASK_CLIENT = "mask-client"
    REJECT = "reject"
    DISCARD = "discard"
    HOLD = "hold"
    REDIRECT = "redirect"
    WARN = "warn"
    STOP = "stop"


ADDING = frozenset({RuleAction.ADD, RuleAction.INSERT})
"""Actions that name a new field and need none there."""
JUDGING = frozenset(
    {
        RuleAction.REJECT,
        RuleAction.DISCARD,
        RuleAction.HOLD,
        RuleAction.REDIRECT,
        RuleAction.WARN,
        RuleAction.STOP,
    }
)
"""Actions on the whole mail: `header` is a condition there."""
_NEEDS_TEXT = frozenset(
    {
        RuleAction.REPLACE,
        RuleAction.RENAME,
        RuleAction.ADD,
        RuleAction.INSERT,
        RuleAction.PREPEND,
        RuleAction.REDIRECT,
    }
)
_TAKES_NO_TEXT = frozenset(
    {
        RuleAction.REMOVE,
        RuleAction.LIMIT,
        RuleAction.FOLD,
        RuleAction.STRIP_COMMENTS,
        RuleAction.STOP,
    }
)


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ValueError(f'expected a network such as "192.0.2.0/24": {error}') from None


NAME = r"^[!-9;-~]+$"
FIELD = re.compile(r"([!-9;-~]+):(.*)\Z")
_ADDRESS = re.compile(r"[^\s<>@]+@[^\s<>@]+\Z")
_REFUSAL = re.compile(r"(?:[45]\.\d{1,3}\.\d{1,3}(?:\s|\Z))")
_CODED = re.compile(r"\d{1,3}\.\d{1,3}\.\d{1,3}(?:\s|\Z)")
_Names = Annotated[
    tuple[Annotated[str, Field(pattern=NAME)], ...], BeforeValidator(_listed), Field(min_length=1)
]
_Globs = Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)]
_Networks = Annotated[
    tuple[Annotated[str, AfterValidator(_network)], ...],
    BeforeValidator(_listed),
    Field(min_length=1),
]
_Size = Annotated[int, BeforeValidator(durations.octets)]
_Lines = tuple[str, ...]


class Model(BaseModel):
    """Unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class When(Model):
    """A condition: every key that is there has to hold.

    `listener` is the MTA's `{daemon_name}`; `recipient` any recipient, `every_recipient` all.
    `larger` and `smaller` are octets of the whole message.  `header` counts the fields of these
    names, whose values `exact`, `glob` or `value` describe, between `at_least` (1) and
    `at_most`; `present = false` means none.
    """

    all: Annotated[tuple[When, ...], Field(min_length=1)] | None = None
    any: Annotated[tuple[When, ...], Field(min_length=1)] | None = None
    not_: When | None = Field(default=None, alias="not")
    direction: Direction | None = None
    listener: _Globs | None = None
    authenticated: bool | None = None
    client: _Networks | None = None
    helo: _Globs | None = None
    sender: _Globs | None = None
    recipient: _Globs | None = None
    every_recipient: _Globs | None = None
    larger: _Size | None = None
    smaller: _Size | None = None
    header: _Names | None = None
    exact: str | None = None
    glob: str | None = None
    value: str | None = None
    present: bool | None = None
    at_least: Annotated[int, Field(ge=0)] | None = None
    at_most: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _agree(self) -> When:
        if not self.model_fields_set:
            raise ValueError("an empty condition: give it a key, or leave it out")
        about = {"exact", "glob", "value", "present", "at_least", "at_most"}
        if self.header is None and about & self.model_fields_set:
            raise ValueError("'exact', 'glob', 'value', 'present' and counts go with 'header'")
        if sum(each is not None for each in (self.exact, self.glob, self.value)) > 1:
            raise ValueError("of 'exact', 'glob' and 'value' only one")
        if self.present is not None and not {"at_least", "at_most"}.isdisjoint(
            self.model_fields_set
        ):
            raise ValueError("'present' or counts, not both")
        return self


class Example(Model):
    """A header before and after the rule alone was applied to it, and what became of the mail.

    `after` may be left out where the header stays as it is.  The rest is the mail's envelope
    and session, for conditions that look at them.
    """

    direction: Direction
    before: _Lines
    after: _Lines | None = None
    verdict: Literal[
        "continue", "reject", "tempfail", "discard", "hold", "redirect", "warn", "stop"
    ] = "continue"
    listener: str = ""
    authenticated: bool = False
    client: str = ""
    helo: str = ""
    sender: str = ""
    recipients: tuple[str, ...] = ()
    size: _Size = 0


class RuleText(Model):
    """One rule as its file has it; docs/headers.md tells of each key."""

    name: str
    action: RuleAction
    header: _Names | None = None
    direction: Direction | None = None
    when: When | None = None
    value: str | None = None
    exact: str | None = None
    glob: str | None = None
    word: str | None = None
    text: str | None = Field(default=None, alias="with")
    keep: Literal["first", "last"] | None = None
    nth: int | None = None
    at: Literal["top", "bottom"] = "bottom"
    position: Annotated[int, Field(ge=1)] | None = None
    if_missing: bool = False
    width: Annotated[int, Field(ge=20, le=998)] | None = None
    stop: Literal["set", "all"] | None = None
    on_signed: OnSigned = OnSigned.SKIP
    example: tuple[Example, ...] = Field(min_length=1)

    @property
    def described(self) -> bool:
        """Whether the rule looks at values."""
        return any(each is not None for each in (self.value, self.exact, self.glob, self.word))

    @model_validator(mode="after")
    def _agree(self) -> RuleText:
        problems = [*_text_problems(self), *_header_problems(self), *_place_problems(self)]
        if problems:
            raise ValueError("; ".join(problems))
        return self


class RuleFile(Model):
    """A rule set as its file has it; `parameters` are values for the examples."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    description: str
    parameters: dict[str, str] = Field(default_factory=dict)
    rule: tuple[RuleText, ...] = Field(min_length=1)


def _text_problems(rule: RuleText) -> Iterator[str]:
    """What is wrong with `with`."""
    action, text = rule.action, rule.text
    if action in _NEEDS_TEXT and not text:
        yield f"action {action.value!r} needs 'with'"
    if action in _TAKES_NO_TEXT and text is not None:
        yield f"action {action.value!r} takes no 'with'"
    if not text:
        return
    if any(ord(each) < 32 or ord(each) == 127 for each in text):
        yield "'with' holds a control character"
    if action is RuleAction.RENAME and not re.fullmatch(NAME, text):
        yield f"'with' {text!r} is not a field name"
    if action is RuleAction.PREPEND and FIELD.match(text) is None:
        yield f"'with' {text!r} is not a field: expected \"Name: value\""
    if action is RuleAction.REDIRECT and "@" not in text.strip("@"):
        yield f"'with' {text!r} is not an address: expected user@domain"
    if action is RuleAction.REJECT and _CODED.match(text) and not _REFUSAL.match(text):
        yield f"'with' {text!r}: expected an enhanced code 4.x.y or 5.x.y, or none"


def _header_problems(rule: RuleText) -> Iterator[str]:
    """What is wrong with the fields that the rule means."""
    action, names = rule.action, rule.header or ()
    if not names and action not in JUDGING:
        yield "'header' is missing"
    if not names and (rule.described or rule.nth is not None):
        yield "'value', 'exact', 'glob', 'word' and 'nth' go with 'header'"
    if action is RuleAction.LIMIT and rule.described:
        yield "action 'limit' takes neither 'value' nor 'word'"
    if action in ADDING and (rule.described or rule.nth is not None):
        yield f"action {action.value!r} takes neither 'value' nor 'word' nor 'nth'"
    if action in ADDING and names and (len(names) != 1 or set(names[0]) & {"*", "?"}):
        yield f"action {action.value!r} needs one exact name in 'header'"
    if sum(each is not None for each in (rule.exact, rule.glob, rule.value)) > 1:
        yield "of 'exact', 'glob' and 'value' only one"
    if rule.nth == 0 or (rule.nth is not None and action is RuleAction.LIMIT):
        yield "'nth' counts from 1, or from -1 for the last, and does not go with 'limit'"


def _place_problems(rule: RuleText) -> Iterator[str]:
    """Keys that go with one action only."""
    action = rule.action
    if (action is RuleAction.LIMIT) != (rule.keep is not None):
        yield "'keep' goes with action 'limit', and only with it"
    if action is not RuleAction.ADD and rule.at != "bottom":
        yield "'at' goes with action 'add' only"
    if action not in ADDING and rule.if_missing:
        yield "'if_missing' goes with actions 'add' and 'insert' only"
    if (action is RuleAction.INSERT) != (rule.position is not None):
        yield "'position' goes with action 'insert', and only with it"
    if action is not RuleAction.FOLD and rule.width is not None:
        yield "'width' goes with action 'fold' only"
