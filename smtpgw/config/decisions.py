"""The settings of [smtpgw.decisions]."""

from __future__ import annotations

from pydantic import Field

from milterd.base import settings


class Decisions(settings.Table):
    """What is kept of what clients were told, and why, for `smtpgw why`."""

    kept: int = Field(
        default=50_000, ge=0, description="decisions that each worker keeps, the newest"
    )
    waiting: int = Field(
        default=5_000,
        ge=1,
        description="decisions that may wait to be written; more are lost, and counted in the "
        "metrics; read when the gateway starts",
    )
    in_replies: bool = Field(
        default=True,
        description="whether a refusal ends with the reference that `smtpgw why` finds it by",
    )
