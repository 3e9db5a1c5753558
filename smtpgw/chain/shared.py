"""What the members of a chain have in common: the session's facts, limits, log and states."""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from milterd.core.finding import Found
from milterd.wire.limits import Limits
from smtpgw.chain.events import Event
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

    connect: Event
    helo: Event | None = None
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
    wire_limits: Limits
    passing: frozenset[Found] = frozenset()


def wire_limits(limits: EditLimits) -> Limits:
    """The edit limits as the connection enforces them."""
    return _wire_limits(limits.count, limits.octets, limits.body_size)


@functools.lru_cache(maxsize=64)
def _wire_limits(edits: int, octets: int, body: int) -> Limits:
    return Limits(edits=edits, edit_octets=octets, replaced_body=body)


def merge(before: StageResult, result: StageResult) -> StageResult:
    """One result of two: the later verdict, the reasons of both, a hold of either."""
    if before is GO_ON:
        return result
    return replace(
        result,
        reasons=(*before.reasons, *result.reasons),
        quarantine=result.quarantine or before.quarantine,
        found=both(before.found, result.found),
    )


def both(before: tuple[Found, ...], more: tuple[Found, ...]) -> tuple[Found, ...]:
    """Each once, in the order they came."""
    return tuple(dict.fromkeys((*before, *more))) if more else before
