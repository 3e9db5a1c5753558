"""The settings of [smtpgw.delivery]: where mail goes, and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from milterd.base import settings
from milterd.base.fields import Duration
from smtpgw.config.types import NameServer, Nexthop, OptionalDestination

AddressKind = Literal["unspecified", "loopback", "link-local", "multicast", "broadcast", "private"]


class Delivery(settings.Table):
    """Where mail goes whose domain [smtpgw.transport] does not name."""

    default: OptionalDestination = Field(
        default="",
        description="where all mail goes for which neither [smtpgw.transport] nor a transport of "
        'its class says otherwise: "lmtp:unix:/path", "lmtp:inet:host:24", "maildir:/path", below '
        'which each address has a Maildir of its own, or "smtp:[host]:port", a relay; empty means '
        "local, virtual, relay and smtp, each for its class",
    )
    default_destination_rate_delay: Duration = Field(
        default=0.0,
        ge=0,
        description="pause between the end of a delivery to a destination and the begin of the "
        "next, which then are never at once in a worker; 0 means none",
    )
    default_transport_rate_delay: Duration = Field(
        default=0.0,
        ge=0,
        description="the same for all deliveries by one transport, whatever the destination",
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
        description="recipients of a mail in one delivery; with 1, each gets a copy of its own, "
        "and the limits and pauses of a destination are those of each recipient",
    )
    inet_protocols: Literal["all", "ipv4", "ipv6"] = Field(
        default="all", description="the addresses that smtp: and relay: look for"
    )
    smtp_tcp_port: int = Field(
        default=25, ge=1, le=65535, description="the port of a nexthop that names none"
    )
    smtp_dns_support_level: Literal["enabled", "disabled"] = Field(
        default="enabled",
        description='"disabled" asks for no mail exchangers, and the machine alone for addresses',
    )
    smtp_host_lookup: tuple[Literal["dns", "native"], ...] = Field(
        default=("dns",),
        min_length=1,
        description='who knows the addresses of hosts, in this order; "native" is the machine, '
        "with /etc/hosts",
    )
    smtp_address_preference: Literal["any", "ipv4", "ipv6"] = Field(
        default="any", description="which of equally preferred addresses are tried first"
    )
    smtp_balance_inet_protocols: bool = Field(
        default=True,
        description="let neither IPv4 nor IPv6 take up all of smtp_mx_address_limit",
    )
    smtp_randomize_addresses: bool = Field(
        default=True, description="try equally preferred addresses in random order"
    )
    smtp_mx_address_limit: int = Field(
        default=5, ge=0, description="addresses tried for one mail; 0 means all"
    )
    smtp_mx_session_limit: int = Field(
        default=2, ge=0, description="hosts spoken to for one mail; 0 means any number"
    )
    smtp_process_limit: int = Field(
        default=500,
        ge=1,
        description="mails that smtp: and relay: send at once in a worker, to whomever (what "
        "maxproc is in master.cf)",
    )
    smtp_mx_refuse_addresses: tuple[AddressKind, ...] = Field(
        default=("unspecified", "loopback", "link-local", "multicast", "broadcast"),
        description="kinds of addresses that the DNS of a recipient's domain may not send mail "
        'to; "private" is another one',
    )
    ignore_mx_lookup_error: bool = Field(
        default=False,
        description="if the mail exchangers cannot be asked for now, go to the domain's own "
        "addresses",
    )
    smtp_defer_if_no_mx_address_found: bool = Field(
        default=False,
        description="keep mail whose exchangers have no address, and do not bounce it",
    )
    smtp_fallback_relay: tuple[Nexthop, ...] = Field(
        default=(),
        description="where mail goes whose destination does not exist or cannot be reached",
        examples=[["[relay.example.net]:587"]],
    )


class Dns(settings.Table):
    """Whom the gateway asks for names."""

    nameservers: tuple[NameServer, ...] = Field(
        default=(),
        description="addresses of name servers, asked in this order; empty means those of "
        "/etc/resolv.conf",
        examples=[["127.0.0.1", "[::1]:53"]],
    )
    try_timeout: Duration = Field(default=3.0, gt=0, description="for one server's answer")
    query_timeout: Duration = Field(
        default=10.0, gt=0, description="for the answer to a question, whoever gives it"
    )
    mail_timeout: Duration = Field(
        default=20.0, gt=0, description="for all the answers that a mail's destination calls for"
    )
    min_ttl: Duration = Field(default=5.0, description="an answer is kept that long at least")
    max_ttl: Duration = Field(default=3600.0, description="and that long at most")
    cache_size: int = Field(default=10000, ge=0, description="answers kept, for each worker")
