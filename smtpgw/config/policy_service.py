"""The settings about Postfix's policy protocol, both sides, greylisting and throttles
(SMTPD_POLICY_README).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from milterd.base import settings
from milterd.base.fields import VERBATIM, Duration
from smtpgw.config.types import Address, Name


class PolicyServices(settings.Table):
    """How policy services are asked; each may be another in `check_policy_service { ... }`."""

    smtpd_policy_service_timeout: Duration = Field(
        default=100.0, gt=0, description="time for an answer, and to connect"
    )
    smtpd_policy_service_max_idle: Duration = Field(
        default=300.0, gt=0, description="how long a connection is kept without being used"
    )
    smtpd_policy_service_max_ttl: Duration = Field(
        default=1000.0, gt=0, description="how long a connection is used at all"
    )
    smtpd_policy_service_request_limit: int = Field(
        default=0, ge=0, description="requests on one connection; 0 for any number"
    )
    smtpd_policy_service_try_limit: int = Field(
        default=2, ge=1, description="tries until a service counts as down"
    )
    smtpd_policy_service_retry_delay: Duration = Field(
        default=1.0, gt=0, description="time between two tries"
    )
    smtpd_policy_service_default_action: str = Field(
        default="451 4.3.5 Server configuration problem",
        description="what stands for the answer of a service that is down (access(5))",
        json_schema_extra={VERBATIM: True},
    )
    smtpd_policy_service_policy_context: str = Field(
        default="",
        description="what services are told as policy_context, to tell one question of ours from "
        "another",
    )


class PolicyListener(settings.Table):
    """Where Postfix may ask us (check_policy_service there), and what answers it."""

    name: Name = Field(description="its name in log and metrics", examples=["policy"])
    address: Address = Field(
        description='"unix:/path", "host:port" or "inet:port@host"',
        examples=["unix:/var/spool/postfix/private/gatepost"],
    )
    socket_group: str = Field(
        default="",
        description="group whose members may connect to a UNIX socket; without this key, that of "
        "the gateway",
        examples=["postfix"],
    )
    restrictions: str = Field(
        description="the restrictions that answer, as in smtpd_recipient_restrictions",
        examples=["check_throttle outgoing, check_greylist"],
        json_schema_extra={VERBATIM: True},
    )
    failure: str = Field(
        default="DUNNO",
        description="the answer where a request cannot be judged",
        examples=["DEFER_IF_PERMIT 4.3.0 Service unavailable"],
        json_schema_extra={VERBATIM: True},
    )
    deadline: Duration = Field(default=90.0, gt=0, description="time for an answer")
    idle: Duration = Field(
        default=1200.0, gt=0, description="how long a connection may be without requests"
    )
    connections: int = Field(default=500, ge=1, description="connections to one worker at once")


class Greylist(settings.Table):
    """Greylisting, for whom `check_greylist` asks: mail from a network, a sender and to a recipient
    that have not been seen together has to come again."""

    delay: Duration = Field(default=60.0, gt=0, description="time before which it comes too early")
    retry_window: Duration = Field(
        default=2 * 86400.0, gt=0, description="time within which it has to come again"
    )
    lifetime: Duration = Field(
        default=35 * 86400.0,
        gt=0,
        description="how long those who have passed are remembered after they were last seen",
    )
    allow_after: int = Field(
        default=5,
        ge=0,
        description="so many that have passed let their whole network pass; 0 for never",
    )
    ipv4_prefix: int = Field(default=24, ge=8, le=32, description="bits of an IPv4 network")
    ipv6_prefix: int = Field(default=64, ge=16, le=128, description="bits of an IPv6 network")
    exempt_clients: tuple[str, ...] = Field(
        default=(),
        description="tables of clients that never wait, by name, parent domain or address",
        examples=[["cidr:/etc/gatepost/greylist_clients"]],
    )
    exempt_senders: tuple[str, ...] = Field(
        default=(),
        description="tables of senders that never wait, by address or domain",
        examples=[["hash:/etc/gatepost/greylist_senders"]],
    )
    exempt_recipients: tuple[str, ...] = Field(
        default=(),
        description="tables of recipients that take mail at once, by address or domain",
        examples=[["inline:{postmaster@=yes}"]],
    )
    exempt_dnswl: tuple[str, ...] = Field(
        default=(),
        description="DNS lists of good clients, who never wait",
        examples=[["list.dnswl.org"]],
    )
    header: bool = Field(default=False, description="tell in X-Greylist how long a mail has waited")
    text: str = Field(
        default="Greylisted, please try again in %d seconds",
        description="what those hear who have to wait, with %d for the seconds",
        json_schema_extra={VERBATIM: True},
    )
    failure: Literal["pass", "defer"] = Field(
        default="pass", description="what happens while the file cannot be used"
    )
    entries: int = Field(
        default=1_000_000, ge=1000, description="how many are remembered; the oldest go first"
    )

    @field_validator("text")
    @classmethod
    def _seconds(cls, value: str) -> str:
        if value.replace("%d", "", 1).count("%"):
            raise ValueError("expected no % but one %d")
        return value


class Throttle(settings.Table):
    """A limit, for which `check_throttle NAME` asks."""

    key: Literal[
        "client",
        "client_net",
        "sender",
        "sender_domain",
        "recipient",
        "recipient_domain",
        "sasl_user",
    ] = Field(description="what is counted for", examples=["sasl_user"])
    limit: int = Field(ge=1, description="how much it may have", examples=[200])
    per: Duration = Field(default=3600.0, gt=0, description="in what time")
    unit: Literal["messages", "recipients", "octets"] = Field(
        default="messages", description="of what; octets are those that MAIL announces"
    )
    action: Literal["defer", "reject", "hold", "warn"] = Field(
        default="defer", description="what happens to what is more"
    )
    text: str = Field(
        default="Too much mail, please try again later",
        description="what its client hears, or what stands beside a mail that is held",
        json_schema_extra={VERBATIM: True},
    )
    failure: Literal["pass", "defer"] = Field(
        default="pass", description="what happens while the counts cannot be had"
    )
