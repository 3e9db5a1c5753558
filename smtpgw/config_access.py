"""The settings of [smtpgw] and of its listeners about who may do what (SMTPD_ACCESS_README)."""

from __future__ import annotations

from pydantic import Field

from milterd.base import settings


class Access(settings.Table):
    """Restriction lists, and what they answer."""

    smtpd_reject_unlisted_recipient: bool = Field(
        default=True,
        description="refuse recipients whom the list of their class has not, our own clients' too",
    )
    smtpd_reject_unlisted_sender: bool = Field(
        default=False, description="refuse senders of ours whom the list of their class has not"
    )
