"""What the tables of all filters have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, field_validator

from milterd.base import sockets
from milterd.base.fields import Kind
from milterd.base.settings import Table
from milterd.core.mail import Direction
from milterd.host.options import Fault, OnFailure
from milterd.host.seam import HostKind


def _socket(text: str) -> str:
    sockets.parse(text, directory="/")
    return text


Socket = Annotated[str, AfterValidator(_socket), Kind("address")]


class FaultActions(Table):
    """What becomes of mail that a filter did not judge."""

    error: OnFailure | None = Field(
        default=None,
        description="the filter failed; without this key tempfail, or on_failure where there is "
        'such a key; "tag", "hold" and "quarantine" add X-Not-Judged',
        examples=[OnFailure.QUARANTINE],
    )
    too_large: OnFailure | None = Field(
        default=None,
        description="over milterd.size_limit or milterd.header_limit; without this key "
        "milterd.oversize",
        examples=[OnFailure.TAG],
    )

    @field_validator("too_large")
    @classmethod
    def _no_hold(cls, action: OnFailure | None) -> OnFailure | None:
        if action is OnFailure.HOLD:
            raise ValueError("expected another action: what is too large stays so")
        return action

    def named(self) -> Mapping[Fault, OnFailure]:
        """What is set."""
        found = {Fault.ERROR: self.error, Fault.TOO_LARGE: self.too_large}
        return {fault: action for fault, action in found.items() if action is not None}


class FaultTable(FaultActions):
    """The same, and what differs in mail of a direction."""

    inbound: FaultActions = Field(default=FaultActions(), description="For mail that comes in.")
    originating: FaultActions = Field(
        default=FaultActions(), description="For mail of our own users."
    )

    def actions(self) -> Mapping[tuple[Fault, Direction], OnFailure]:
        """For the host."""
        nearer = {Direction.INBOUND: self.inbound, Direction.ORIGINATING: self.originating}
        return {
            (fault, direction): action
            for direction, own in nearer.items()
            for fault, action in {**self.named(), **own.named()}.items()
        }


Outcomes = Sequence[tuple[str, str, str]]
"""Rows of the failure matrix: an outcome, and what is done to inbound and to originating mail."""


class FilterTable(Table):
    """What every filter's table has."""

    socket: Socket = Field(
        description='"unix:PATH", relative to socket_directory, or "inet:PORT@HOST"'
    )
    host: HostKind = Field(
        description="what speaks the milter protocol; docs/hosts.md compares the two"
    )
    processes: int = Field(
        default=1, ge=1, le=64, description="processes that share the socket, for more cores"
    )
    mode: Literal["on", "shadow"] = Field(
        default="on",
        description='"shadow": it decides, and the log and the metrics say what, but the mail '
        "goes on as it is",
    )
    failures: FaultTable = Field(
        default=FaultTable(),
        description="What becomes of a mail that this filter did not judge.",
    )

    def outcomes(self) -> Outcomes:
        """What may go wrong in this filter alone, for the failure matrix."""
        return ()
