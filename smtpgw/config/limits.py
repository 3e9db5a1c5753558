"""The settings of [smtpgw] and of its listeners about how often and how fast a client may come
(anvil(8), STRESS_README).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from milterd.base import settings
from milterd.base.fields import Duration, Kind
from smtpgw.config.tables import Clients

_SCHEMES = ("redis://", "rediss://", "redis+unix://", "valkey://", "valkeys://", "valkey+unix://")


def _store(value: str) -> str:
    if value and not value.startswith(_SCHEMES):
        raise ValueError('expected a URL such as "redis://127.0.0.1:6379/0", or ""')
    return value


StoreUrl = Annotated[str, AfterValidator(_store), Kind("URL")]


class ClientLimits(settings.Table):
    """How often and how fast a client may come.  A rate is what happens in anvil_rate_time_unit;
    a limit of 0 is none."""

    smtpd_client_connection_count_limit: int = Field(
        default=50, ge=0, description="connections of one client at once"
    )
    smtpd_client_connection_rate_limit: int = Field(
        default=0, ge=0, description="connections that one client may begin in a time unit"
    )
    smtpd_client_message_rate_limit: int = Field(
        default=0, ge=0, description="MAIL commands of one client in a time unit"
    )
    smtpd_client_recipient_rate_limit: int = Field(
        default=0, ge=0, description="RCPT commands of one client in a time unit"
    )
    smtpd_client_new_tls_session_rate_limit: int = Field(
        default=0, ge=0, description="full TLS handshakes of one client in a time unit"
    )
    smtpd_client_auth_rate_limit: int = Field(
        default=0, ge=0, description="AUTH commands of one client in a time unit"
    )
    smtpd_client_ipv4_prefix_length: int = Field(
        default=32,
        ge=0,
        le=32,
        description="bits of an IPv4 address that make a client; clients that share them are one",
    )
    smtpd_client_ipv6_prefix_length: int = Field(
        default=84, ge=0, le=128, description="the same for IPv6"
    )
    smtpd_client_event_limit_exceptions: Clients = Field(
        default=("$mynetworks",),
        description="networks and addresses whose clients none of these limits is for",
    )
    smtpd_junk_command_limit: int = Field(
        default=100,
        ge=0,
        description="HELO, EHLO, NOOP, RSET, VRFY, ETRN without a mail, beyond which each of them "
        "counts as an error",
    )
    smtpd_soft_error_limit: int = Field(
        default=10,
        ge=0,
        description="errors without a mail, from which every reply waits smtpd_error_sleep_time",
    )
    smtpd_hard_error_limit: int = Field(
        default=20, ge=1, description="errors without a mail at which a client is sent away"
    )
    smtpd_error_sleep_time: Duration = Field(
        default=1.0, description="how long replies to a client with many errors are held back"
    )
    smtpd_recipient_overshoot_limit: int = Field(
        default=1000,
        ge=0,
        description="recipients beyond smtpd_recipient_limit that are refused before each counts "
        "as an error",
    )
    smtpd_timeout: Duration = Field(
        default=300.0,
        gt=0,
        description="for a command to arrive as a whole, for the next octets of a message, and "
        "for the client to take a reply",
    )
    smtpd_per_request_deadline: bool = Field(
        default=False,
        description="smtpd_timeout is for a whole message too, and longer only as far as the "
        "client keeps up smtpd_min_data_rate (smtpd_per_record_deadline)",
    )
    smtpd_min_data_rate: int = Field(
        default=500,
        ge=1,
        description="octets of a message each second that a client has to send; without "
        "smtpd_per_request_deadline only from an hour on",
    )
    smtpd_stress: Literal["auto", "yes", "no"] = Field(
        default="auto",
        description='when [smtpgw.stress] holds: "auto" when a worker nears default_process_limit, '
        "or always, or never",
    )


class Counting(settings.Table):
    """Where clients are counted, and how long."""

    anvil_rate_time_unit: Duration = Field(
        default=60.0, ge=1, description="the time unit of all smtpd_client_*_rate_limit"
    )
    anvil_status_update_time: Duration = Field(
        default=600.0, ge=1, description="how often the log tells the highest counts and rates"
    )
    client_counts: StoreUrl = Field(
        default="",
        description="a Redis or Valkey server at which several machines count clients together; "
        "empty: the workers of this machine among themselves",
        examples=["redis://127.0.0.1:6379/0"],
    )
