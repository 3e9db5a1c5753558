"""How a milter can fail us: one exception, so that its failure action is found in one place."""

from __future__ import annotations

import enum


class FaultKind(enum.StrEnum):
    """What went wrong, for log and metrics."""

    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    CLOSED = "closed"
    PROTOCOL = "protocol"
    PAUSED = "paused"


class MilterFault(Exception):  # noqa: N818 - the field says fault; it is theirs, not our error
    """A milter could not be reached, was too slow, hung up, or broke the protocol."""

    def __init__(self, kind: FaultKind, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail
