"""What a filter decided: verdict, edits, the reply for the client, and why."""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from milterd.core.values import value

if TYPE_CHECKING:  # commands that show reasons need no edits, and start sooner without them
    from milterd.core.actions import Edit


class Verdict(enum.Enum):
    """What is to become of a mail, a recipient or a connection."""

    __hash__ = object.__hash__  # there is one of each, and Enum's own way takes two calls

    CONTINUE = "continue"
    ACCEPT = "accept"
    REJECT = "reject"
    TEMPFAIL = "tempfail"
    DISCARD = "discard"


_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\Z")


@dataclass(frozen=True, slots=True)
class Reply:
    """An SMTP reply of the 4xx or 5xx kind (RFC 5321 section 4.2, RFC 3463).

    `text` may hold several lines, parted by LF, each sent as a line of the reply.
    Raises ValueError where code and enhanced code disagree, or where the text
    holds another control character: nobody's bytes become our syntax.
    """

    code: int
    enhanced: str
    text: str

    def __post_init__(self) -> None:
        if not 400 <= self.code <= 599:
            raise ValueError(f"reply code {self.code} is not 4xx or 5xx")
        if _ENHANCED.match(self.enhanced) is None or self.enhanced[0] != str(self.code)[0]:
            raise ValueError(f"enhanced code {self.enhanced!r} does not go with {self.code}")
        if any((ord(each) < 32 and each != "\n") or ord(each) == 127 for each in self.text):
            raise ValueError("reply text holds a control character")

    def __str__(self) -> str:
        """The reply on one line."""
        return f"{self.code} {self.enhanced} {self.text}".replace("\n", " ")


@value
class Reason:
    """Why: who decided (filter, rule, table, limit), the outcome, and on what facts."""

    source: str
    outcome: str
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Tried:
    """A rule, a table's row or a setting that was tried on a mail, whatever came of it.

    `looked` are the things it looked at, each with what was found there, in order.
    """

    rule: str
    outcome: str
    looked: tuple[tuple[str, str], ...] = ()


Trace = Callable[[Tried], None]
"""Who is told of all that is tried.  A filter that is given none makes no Tried."""


@value
class Decision:
    """One filter's answer to one mail.

    `reply` goes with REJECT and TEMPFAIL; without one the MTA's standard text
    is used.  Edits count only with CONTINUE and ACCEPT.
    """

    verdict: Verdict = Verdict.CONTINUE
    edits: tuple[Edit, ...] = ()
    reply: Reply | None = None
    reasons: tuple[Reason, ...] = ()
