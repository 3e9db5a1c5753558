"""Which quarantined mails are meant: the filters of the queue's commands, and what caught them."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated

import typer

from milterd.core.finding import Found
from smtpgw.queue.store import QueuedMail
from smtpgw.queue_cli import filters
from smtpgw.queue_cli.common import Opened

FilterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--filter",
        metavar="PATTERN",
        help="Only mails that this filter, or this milter, caught.",
        callback=filters.patterns,
    ),
]
RuleOption = Annotated[
    list[str] | None,
    typer.Option(
        "--rule",
        metavar="PATTERN",
        help="Only mails that such a rule or signature caught, or a milter with such words.",
        callback=filters.patterns,
    ),
]
SenderOption = filters.SenderOption
RecipientOption = Annotated[
    list[str] | None,
    typer.Option(
        "--recipient",
        metavar="PATTERN",
        help="Only mails to such a recipient.",
        callback=filters.patterns,
    ),
]
OlderOption = Annotated[
    str | None,
    typer.Option(
        "--older-than",
        "--older",
        metavar="TIME",
        help="Only mails at least so long in quarantine, such as 7d.",
        callback=filters.age,
    ),
]
YoungerOption = Annotated[
    str | None,
    typer.Option(
        "--younger-than",
        "--younger",
        metavar="TIME",
        help="Only mails at most so long in quarantine, such as 2h.",
        callback=filters.age,
    ),
]


@dataclass(frozen=True, slots=True)
class Given:
    """What a command was given of these options (milterd.base.spread)."""

    filter_: FilterOption = None
    rule: RuleOption = None
    sender: SenderOption = None
    recipient: RecipientOption = None
    older: OlderOption = None
    younger: YoungerOption = None

    @property
    def some(self) -> bool:
        """Whether any was given."""
        return self != Given()

    def mails(
        self, queue: Opened, progress: Callable[[int], None], after: str = ""
    ) -> Iterator[QueuedMail]:
        """Those that fit, oldest first; broken ones as well, unless it is asked what caught
        them."""
        plain = filters.Given(
            sender=self.sender, recipient=self.recipient, older=self.older, younger=self.younger
        )
        chosen = plain.filter(after, quarantine=True)
        for each in queue.tool.search(chosen, queue.now, progress):
            if self._caught(each):
                yield each

    def _caught(self, mail: QueuedMail) -> bool:
        if not (self.filter_ or self.rule):
            return True
        found = mail.caught.findings if mail.caught is not None else ()
        return any(_fits(each, self.filter_, self.rule) for each in found)


EVERYTHING = Given()
"""No filter."""


def _fits(found: Found, names: list[str] | None, rules: list[str] | None) -> bool:
    return _any((found.filter, found.milter), names) and _any((found.rule, found.text), rules)


def _any(values: tuple[str, ...], patterns: list[str] | None) -> bool:
    """Whether a pattern fits one of them: a part of it, or with * and ? all of it."""
    if not patterns:
        return True
    return any(_like(value.lower(), each.lower()) for value in values for each in patterns)


def _like(value: str, pattern: str) -> bool:
    if "*" in pattern or "?" in pattern:
        return fnmatch.fnmatchcase(value, pattern.replace("[", "[[]"))
    return pattern in value
