"""The settings of [smtpgw] and of its listeners about how clients log in (SASL_README)."""

from __future__ import annotations

from milterd.base import settings


class ServerSasl(settings.Table):
    """How clients log in (SASL_README)."""
