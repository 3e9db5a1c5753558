"""What a check is, and what can come of it.

The principle: libmilter is the reference.  What every program on it does by the
library alone is never a fail; at most the check is not applicable.  A fail is what a
milter's author, or a library of one's own, has got wrong against what MTAs need.
"""

from __future__ import annotations

import enum
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, NoReturn

Run = Callable[[Any], Awaitable[str]]
"""A check at work: what was seen if it passed; raises FailedError or NotApplicableError.
It is given a `Context` for a milter, a `milterd.lab.mta` Trial for an MTA."""


class Outcome(enum.Enum):
    """How a check ended."""

    PASSED = "pass"
    FAILED = "fail"
    NOT_APPLICABLE = "n/a"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a check.

    `seen`: what was observed, in one line, octets escaped.  `stage`, `octet`: the
    event and the octet of the milter's stream where it failed, if that has a place.
    `lost`: a connection was lost, which another check may have caused.
    """

    outcome: Outcome
    seen: str
    stage: str = ""
    octet: int | None = None
    lost: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """One rule and how to try it.

    `name` is its id, `subject/what`.  `rule` is one sentence on what a milter must do,
    `source` where that is written.  `apart`: nothing is tried beside it.  `last`: it ends
    the milter, so it comes after all.  `weight`: how many times the usual deadline it may
    take.
    """

    name: str
    title: str
    rule: str
    source: str
    run: Run
    apart: bool = False
    last: bool = False
    weight: float = 1.0

    @property
    def subject(self) -> str:
        """The first part of the id."""
        return self.name.partition("/")[0]


class FailedError(Exception):
    """The milter broke the rule; the message is what was seen."""

    def __init__(self, seen: str, stage: str = "", octet: int | None = None) -> None:
        super().__init__(seen)
        self.seen, self.stage, self.octet = seen, stage, octet


class NotApplicableError(Exception):
    """The rule does not concern this milter; the message says why."""


def fail(seen: str, stage: str = "", octet: int | None = None) -> NoReturn:
    """End the check as failed."""
    raise FailedError(seen, stage, octet)


def not_applicable(why: str) -> NoReturn:
    """End the check as not applicable."""
    raise NotApplicableError(why)
