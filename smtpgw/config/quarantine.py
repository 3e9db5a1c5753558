"""The settings of [smtpgw.quarantine]."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from milterd.base import settings
from milterd.base.fields import Duration, Size


class Quarantine(settings.Table):
    """Where mail stays that a milter wants in quarantine."""

    action: Literal["store", "hold"] = Field(
        default="store",
        description='"store" keeps it in the quarantine: with an end, within limits, and released '
        'through the milters; "hold" puts it in the hold queue as Postfix does, where nothing ends '
        "it and a release passes all that it has. What access tables and commands hold is in the "
        "hold queue either way",
    )
    lifetime: Duration = Field(
        default=2_592_000.0, gt=0, description="how long a mail stays there; then it is deleted"
    )
    max_mails: int = Field(
        default=10_000,
        ge=1,
        description="mails it may hold, shared evenly by the workers; while a worker's share is "
        "full, clients are told 452 for what would come in",
    )
    max_size: Size = Field(
        default=10_737_418_240, ge=1, description="octets in these mails, shared in the same way"
    )
