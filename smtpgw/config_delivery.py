"""The settings of [smtpgw.delivery]: where mail goes, and how."""

from __future__ import annotations

from pydantic import Field

from milterd.base import settings
from milterd.base.durations import Duration
from smtpgw.config_types import Destination


class Delivery(settings.Table):
    """Where mail goes whose domain [smtpgw.transport] does not name."""

    default: Destination = Field(
        default="lmtp:unix:/run/dovecot/lmtp",
        description='"lmtp:unix:/path", "lmtp:inet:host:24", or "maildir:/path", below which each '
        "address has a Maildir of its own",
    )
    default_destination_concurrency_limit: int = Field(
        default=20,
        ge=1,
        description="connections to one destination",
    )
    initial_destination_concurrency: int = Field(
        default=5,
        ge=1,
        description="deliveries to one destination at once to begin with; each that gets "
        "through allows one more, up to the limit",
    )
    default_destination_concurrency_positive_feedback: float = Field(
        default=1.0, gt=0, le=1, description="how much a delivery that got through adds to that"
    )
    default_destination_concurrency_negative_feedback: float = Field(
        default=1.0, ge=0, le=1, description="how much a failure to connect takes away"
    )
    default_destination_concurrency_failed_cohort_limit: float = Field(
        default=1.0,
        gt=0,
        description="how often as many deliveries as go there at once must fail to connect "
        "until the destination is left alone for minimal_backoff_time",
    )
    default_destination_recipient_limit: int = Field(
        default=50,
        ge=1,
        description="recipients of a mail in one transaction (default_destination_recipient_limit)",
    )
    lmtp_connect_timeout: Duration = Field(default=30.0, gt=0, description="to connect")
    lmtp_lhlo_timeout: Duration = Field(
        default=300.0, gt=0, description="for the greeting, and for the answer to LHLO"
    )
    lmtp_mail_timeout: Duration = Field(default=300.0, gt=0, description="for the answer to MAIL")
    lmtp_rcpt_timeout: Duration = Field(default=300.0, gt=0, description="for the answer to RCPT")
    lmtp_data_init_timeout: Duration = Field(
        default=120.0, gt=0, description="for the answer to DATA"
    )
    lmtp_data_xfer_timeout: Duration = Field(
        default=180.0, gt=0, description="for room to send a piece of the message"
    )
    lmtp_data_done_timeout: Duration = Field(
        default=600.0, gt=0, description="for the answers after the final dot"
    )
    lmtp_connection_cache_time_limit: Duration = Field(
        default=2.0, description="an idle connection is kept for another mail"
    )
