"""The settings of notifications: [smtpgw.bounce], by Postfix's names (bounce(8))."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from milterd.base import settings
from milterd.base.fields import Kind, Size

_RECIPIENT = re.compile(
    r"[0-9A-Za-z!#$%&'*+/=?^_`{|}~.-]{1,64}(?:@[0-9A-Za-z.-]{1,253})?", re.ASCII
)

NoticeClass = Literal[
    "bounce", "2bounce", "data", "delay", "policy", "protocol", "resource", "software"
]


def _recipient(value: str) -> str:
    if _RECIPIENT.fullmatch(value) is None:
        raise ValueError('expected an address such as "postmaster" or "postmaster@example.net"')
    return value


Recipient = Annotated[str, AfterValidator(_recipient), Kind("mail address")]


class Bounce(settings.Table):
    """What senders and the postmaster are told of mail (bounce(8)).  An address without a
    domain is one of myhostname."""

    bounce_size_limit: Size = Field(
        default=50_000,
        ge=10_000,
        description="octets of a notification; an original that does not fit comes back as its "
        "header",
    )
    confirm_delay_cleared: bool = Field(
        default=False,
        description="tell a sender who was told of a delay (delay_warning_time) that it is over",
    )
    lmtp_assume_final: bool = Field(
        default=False,
        description='call it "delivered", not "relayed", when an LMTP server that does not offer '
        "DSN takes a mail whose sender wants to be told of success",
    )
    notify_classes: frozenset[NoticeClass] = Field(
        default=frozenset({"resource", "software"}),
        description="what the postmaster is told: bounce (copies of what senders are told), "
        "2bounce (undeliverable mail of the null sender), delay, resource (a disk is full), "
        "software (the gateway failed); data, policy and protocol are known, but of SMTP "
        "sessions the log tells",
    )
    bounce_notice_recipient: Recipient = Field(
        default="postmaster", description="who gets the notices of class bounce"
    )
    # Postfix's name for this one begins with a digit, which no name in Python may.
    __annotations__["2bounce_notice_recipient"] = "Recipient"
    locals()["2bounce_notice_recipient"] = Field(
        default="postmaster", description="who gets the notices of class 2bounce"
    )
    delay_notice_recipient: Recipient = Field(
        default="postmaster", description="who gets the notices of class delay"
    )
    error_notice_recipient: Recipient = Field(
        default="postmaster", description="who gets the notices of classes resource and software"
    )
    double_bounce_sender: Recipient = Field(
        default="double-bounce",
        description="who sends notices to the postmaster; nobody is told if mail from there "
        "cannot be delivered",
    )

    @property
    def twobounce_notice_recipient(self) -> str:
        """2bounce_notice_recipient."""
        return str(getattr(self, "2bounce_notice_recipient"))
