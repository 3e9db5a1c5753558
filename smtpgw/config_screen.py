"""The settings of [smtpgw] and of its listeners about clients that are looked at before the
dialogue (POSTSCREEN_README).
"""

from __future__ import annotations

from pydantic import Field

from milterd.base import settings


class Screen(settings.Table):
    """Clients that are looked at before the dialogue (POSTSCREEN_README)."""

    smtpd_peername_lookup: bool = Field(
        default=True,
        description="ask for the names of clients, and whether the names have their addresses; "
        'without it all are "unknown"',
    )
