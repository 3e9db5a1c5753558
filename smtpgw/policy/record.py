"""What was asked on the way to a decision, and what was answered: a record for every reply.

It is written while restrictions are looked at and costs a tuple a step; only who looks at it
makes :class:`Step` objects of them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from milterd.core.decision import Reply


class Outcome(enum.Enum):
    """What a restriction says."""

    __hash__ = object.__hash__  # there is one of each, and Enum's own way takes two calls

    DUNNO = "dunno"
    """Nothing: the next one is asked."""
    PERMIT = "permit"
    """This list has nothing against it."""
    REJECT = "reject"
    """The answer is the reply that goes with it, 4xx or 5xx."""


WORDS = {each: each.value for each in Outcome}
"""Their words: to ask an Enum for its value takes two calls."""

FAILED = "failed"
"""The outcome of a step that could not be finished: a table that cannot answer."""


@dataclass(frozen=True, slots=True)
class Step:
    """`list`: the parameter whose list it stands in.  `restriction`: as it was written, with its
    argument.  `asked`: a table, a zone, a service, a name server; `key`: for what; `answer`: what
    was said, empty if nothing was found; `where`: file and line, or the query.  `outcome`: a word
    of :class:`Outcome`, or what else came of it (`defer_if_permit`, `would reject`, `hold`).
    `reply`: of a refusal.  `seconds`: how long it took.  A step with `asked` stands before the
    one of the restriction that asked."""

    list: str
    restriction: str
    asked: str = ""
    key: str = ""
    answer: str = ""
    where: str = ""
    outcome: str = ""
    reply: str = ""
    seconds: float = 0.0


Row = tuple[str, str, str, str, str, str, str, str, float]
"""The fields of a step."""
_NAMES = Step.__slots__


def as_dict(row: Row) -> dict[str, object]:
    """A step for JSON, without what is empty."""
    return {name: value for name, value in zip(_NAMES, row, strict=True) if value}


@dataclass(slots=True)
class Record:
    """The steps of one decision, in their order, at most `limit` of them."""

    rows: list[Row] = field(default_factory=list)
    limit: int = 500

    def add(
        self,
        listed: str,
        restriction: str,
        *,
        asked: str = "",
        key: str = "",
        answer: str = "",
        where: str = "",
        outcome: str = "",
        reply: str = "",
        seconds: float = 0.0,
    ) -> None:
        """One step more."""
        if len(self.rows) < self.limit:
            row = listed, restriction, asked, key, answer, where, outcome, reply, seconds
            self.rows.append(row)

    @property
    def steps(self) -> tuple[Step, ...]:
        """All of them."""
        return tuple(Step(*each) for each in self.rows)

    def as_dicts(self) -> list[dict[str, object]]:
        """The steps for JSON, without what is empty."""
        return [as_dict(row) for row in self.rows]

    @property
    def decided(self) -> tuple[str, ...]:
        """What led to the last step, in a few words for the log."""
        if not self.rows:
            return ()
        steps = self.steps
        return tuple(
            f"{each.asked or each.outcome}: {each.answer or 'not there'}"
            + (f" ({each.where})" if each.where else "")
            for each in steps
            if (each.asked or each.outcome == FAILED) and each.restriction == steps[-1].restriction
        )


@dataclass(frozen=True, slots=True)
class Actions:
    """What access(5) tables have asked for beside yes and no, for the mail as a whole."""

    discard: str = ""
    hold: str = ""
    filter: str = ""
    redirect: bytes = b""
    bcc: tuple[bytes, ...] = ()
    prepend: tuple[bytes, ...] = ()

    def __bool__(self) -> bool:
        return self != NO_ACTIONS


NO_ACTIONS = Actions()


@dataclass(frozen=True, slots=True)
class Decision:
    """What a client hears.  Without `reply` there is nothing against it.  `rule` is the
    restriction that refused, `listed` the list it stands in; `hangup` says to close after it."""

    reply: Reply | None
    record: Record
    rule: str = ""
    listed: str = ""
    hangup: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)
