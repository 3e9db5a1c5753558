"""What the members of a chain have in common: the session's facts, limits, log and states."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from milterd.core.finding import Found
from milterd.core.mail import Client
from milterd.wire.limits import Limits
from smtpgw.chain.health import Health
from smtpgw.chain.options import EditLimits
from smtpgw.chain.results import StageResult

GO_ON = StageResult()


class Log(Protocol):
    """What is used of a structlog logger."""

    def info(self, event: str, **values: object) -> object: ...
    def warning(self, event: str, **values: object) -> object: ...


Observer = Callable[[str, str, float, str], None]
"""Called after each event with milter, stage, seconds and outcome, for metrics."""


class State(enum.Enum):
    """Where the milter stands in this session."""

    NEW = "not connected yet"
    OPEN = "is told of everything"
    PASSED = "accepted this message"
    OUT = "accepted the connection"
    FIXED = "refused the connection or failed: one answer to everything"


@dataclass(slots=True)
class SessionFacts:
    """What a session knows that milters are told; one object, shared by its members."""

    client: Client = field(default_factory=Client)
    helo: bytes | None = None
    helo_serial: int = 0
    macros: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shared:
    """What the members of a chain have in common.  What milters find of `passing` does not count:
    a postmaster released the mail in spite of it."""

    facts: SessionFacts
    limits: EditLimits
    health: Health
    log: Log
    clock: Callable[[], float]
    observe: Observer
    passing: frozenset[Found] = frozenset()

    @property
    def wire_limits(self) -> Limits:
        """The edit limits as the connection enforces them."""
        limits = self.limits
        return Limits(edits=limits.count, edit_octets=limits.octets, replaced_body=limits.body_size)
