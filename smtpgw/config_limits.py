"""The settings of [smtpgw] and of its listeners about how often and how fast a client may come
(anvil(8), STRESS_README).
"""

from __future__ import annotations

from milterd.base import settings


class ClientLimits(settings.Table):
    """How often and how fast a client may come (anvil(8), STRESS_README)."""
