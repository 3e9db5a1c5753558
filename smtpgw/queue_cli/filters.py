"""The filters that listing and changing share, as options and as a filter of the queue."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated

import typer

from milterd.base import durations
from smtpgw.queue.states import KEPT, MailState
from smtpgw.queue.store import Filter

STATES = [each.name.lower() for each in MailState if each not in KEPT | {MailState.DONE}]


def _state(value: str) -> str:
    if value not in STATES:
        raise typer.BadParameter(f"expected one of {', '.join(STATES)}")
    return value


def _states(value: list[str] | None) -> list[str] | None:
    return None if value is None else [_state(each) for each in value]


def patterns(value: list[str] | None) -> list[str] | None:
    """An option that is a pattern, each with something in it: an empty one, as of a script's
    variable that is not set, would be found in every mail."""
    if "" in (value or ()):
        raise typer.BadParameter("expected a pattern, not nothing (* is all, <> the null sender)")
    return value


def age(value: str | None) -> str | None:
    """An option that is a length of time."""
    if value is not None:
        try:
            durations.seconds(value)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    return value


StateOption = Annotated[
    list[str] | None,
    typer.Option(
        "--state", help=f"Only mails in this state: {', '.join(STATES)}.", callback=_states
    ),
]
SenderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--sender",
        metavar="PATTERN",
        help="Only mails of this sender: a part of its address, or a pattern with * and ? for "
        "all of it; <> is the null sender. As all filters, it may be given several times: one "
        "of them has to fit.",
        callback=patterns,
    ),
]
RecipientOption = Annotated[
    list[str] | None,
    typer.Option(
        "--recipient",
        metavar="PATTERN",
        help="Only mails that such a recipient still waits for.",
        callback=patterns,
    ),
]
DestinationOption = Annotated[
    list[str] | None,
    typer.Option(
        "--destination",
        metavar="PATTERN",
        help="Only mails for such a destination.",
        callback=patterns,
    ),
]
ReasonOption = Annotated[
    list[str] | None,
    typer.Option(
        "--reason",
        metavar="PATTERN",
        help="Only mails that wait for such a reason.",
        callback=patterns,
    ),
]
OlderOption = Annotated[
    str | None,
    typer.Option(
        "--older", metavar="TIME", help="Only mails at least so old, such as 30m.", callback=age
    ),
]
YoungerOption = Annotated[
    str | None,
    typer.Option(
        "--younger", metavar="TIME", help="Only mails at most so old, such as 2d.", callback=age
    ),
]


@dataclass(frozen=True, slots=True)
class Given:
    """What a command was given of these options (milterd.base.spread)."""

    state: StateOption = None
    sender: SenderOption = None
    recipient: RecipientOption = None
    destination: DestinationOption = None
    reason: ReasonOption = None
    older: OlderOption = None
    younger: YoungerOption = None

    @property
    def some(self) -> bool:
        """Whether any was given."""
        return self != Given()

    def filter(
        self,
        after: str = "",
        states: frozenset[MailState] = frozenset(),
        *,
        quarantine: bool = False,
    ) -> Filter:
        """The filter; `states` are meant where none was given."""
        now = time.time()
        named = frozenset(MailState[each.upper()] for each in self.state or ())
        return Filter(
            states=named or states,
            after=after,
            quarantine=quarantine,
            senders=tuple(self.sender or ()),
            recipients=tuple(self.recipient or ()),
            destinations=tuple(self.destination or ()),
            reasons=tuple(self.reason or ()),
            born_before=now - durations.seconds(self.older) if self.older else None,
            born_after=now - durations.seconds(self.younger) if self.younger else None,
        )


EVERYTHING = Given()
"""No filter."""
