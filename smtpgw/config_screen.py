"""The settings of [smtpgw] and of its listeners about clients that are looked at before the
dialogue (POSTSCREEN_README).
"""

from __future__ import annotations

from milterd.base import settings


class Screen(settings.Table):
    """Clients that are looked at before the dialogue (POSTSCREEN_README)."""
