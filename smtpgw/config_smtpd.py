"""The settings of [smtpgw] and of its listeners about the dialogue itself (smtpd(8))."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from milterd.base import settings
from milterd.base.fields import Size


class Smtpd(settings.Table):
    """How clients are spoken to, and how much they may have of anything."""

    header_size_limit: Size = Field(
        default=102400, ge=1024, description="octets of all header fields of a message"
    )
    hopcount_limit: int = Field(
        default=50, ge=1, description="Received fields at which a mail is looping"
    )
    bare_newline: Literal["normalize", "reject"] = Field(
        default="normalize",
        description="a line feed without carriage return in a message: made CRLF, never taken as "
        "the end of the message, or refused (smtpd_forbid_bare_newline)",
    )
    smtpd_recipient_limit: int = Field(
        default=1000, ge=100, description="recipients of a message; more are told 452"
    )
