"""The settings of [smtpgw] and of its listeners about TLS with clients (TLS_README)."""

from __future__ import annotations

from milterd.base import settings


class ServerTls(settings.Table):
    """TLS with clients (TLS_README)."""
