"""The settings of [smtpgw] and of its listeners about clients that are looked at before the
dialogue (POSTSCREEN_README).
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from milterd.base import settings
from milterd.base.fields import VERBATIM, Days, Duration, Hours
from smtpgw.screen import sites

Action = Literal["ignore", "enforce", "drop"]
OldAction = Literal["", "ignore", "enforce", "drop"]

_ACTIONS = (
    'what becomes of a client that fails: "ignore" only logs it, "enforce" refuses its recipients '
    'with 550, "drop" hangs up with 521'
)


class Screen(settings.Table):
    """Clients that are looked at before the dialogue (POSTSCREEN_README)."""

    smtpd_peername_lookup: bool = Field(
        default=True,
        description="ask for the names of clients, and whether the names have their addresses; "
        'without it all are "unknown"',
    )
    postscreen_enable: bool = Field(
        default=False,
        description="screen clients, as postscreen in master.cf does; for listeners of mx only",
    )
    postscreen_access_list: tuple[str, ...] = Field(
        default=("permit_mynetworks",),
        description="permit_mynetworks, tables, permit, reject and dunno: who is not looked at, "
        "and who fails at once",
        examples=[["permit_mynetworks", "cidr:/etc/postfix/postscreen_access.cidr"]],
    )
    postscreen_denylist_action: OldAction = Field(
        default="",
        description=f'for clients that postscreen_access_list rejects, {_ACTIONS}; "" '
        'is postscreen_blacklist_action, or "ignore"',
    )
    postscreen_blacklist_action: OldAction = Field(
        default="", description="its name before Postfix 3.6"
    )
    postscreen_greet_banner: str = Field(
        default="$myhostname ESMTP $mail_name",
        description="the line that is sent before a client's turn to speak; empty: nobody is "
        "tested for speaking too early",
    )
    postscreen_greet_wait: Duration = Field(
        default=6.0,
        gt=0,
        description="how long the client's silence and the lists' answers are waited for; set 2 in "
        "[smtpgw.stress] for what Postfix does",
    )
    postscreen_greet_action: Action = Field(default="ignore", description=_ACTIONS)
    postscreen_greet_ttl: Days = Field(
        default=86400.0, gt=0, description="how long silence before the banner is remembered"
    )
    postscreen_dnsbl_sites: tuple[str, ...] = Field(
        default=(),
        description="lists in DNS that are asked for each client: domain=filter*weight",
        examples=[["zen.example.org=127.0.0.[2..11]*3", "list.example.net=127.0.[0..255].1*-2"]],
    )
    postscreen_dnsbl_threshold: int = Field(
        default=1, ge=1, description="the sum of weights at which a client fails"
    )
    postscreen_dnsbl_allowlist_threshold: int = Field(
        default=0,
        le=0,
        description="the sum of weights, below 0, at which a client passes all other tests too; "
        "0: never",
    )
    postscreen_dnsbl_whitelist_threshold: int = Field(
        default=0, le=0, description="its name before Postfix 3.6"
    )
    postscreen_dnsbl_action: Action = Field(default="ignore", description=_ACTIONS)
    postscreen_dnsbl_timeout: Duration = Field(
        default=10.0, gt=0, description="how long a list is waited for"
    )
    postscreen_dnsbl_min_ttl: Duration = Field(
        default=60.0, gt=0, description="that the lists had nothing is remembered so long at least"
    )
    postscreen_dnsbl_max_ttl: Hours = Field(
        default=3600.0, gt=0, description="and that long at most"
    )
    postscreen_dnsbl_ttl: Hours = Field(
        default=0.0, description="takes the place of postscreen_dnsbl_max_ttl if it is not 0"
    )
    postscreen_dnsbl_reply_map: str = Field(
        default="",
        description="a table of the domains that clients are told instead of those with a password",
        examples=["texthash:/etc/postfix/dnsbl_reply"],
    )
    postscreen_pipelining_enable: bool = Field(
        default=False,
        description="test whether a client sends commands before the answers to those before, "
        "which it was not told it may",
    )
    postscreen_pipelining_action: Action = Field(default="enforce", description=_ACTIONS)
    postscreen_pipelining_ttl: Days = Field(
        default=2592000.0, gt=0, description="how long it is remembered that it does not"
    )
    postscreen_non_smtp_command_enable: bool = Field(
        default=False,
        description="test whether a client sends postscreen_forbidden_commands, header fields or "
        "octets that are no UTF-8 for commands",
    )
    postscreen_non_smtp_command_action: Action = Field(default="drop", description=_ACTIONS)
    postscreen_non_smtp_command_ttl: Days = Field(
        default=2592000.0, gt=0, description="how long it is remembered that it does not"
    )
    postscreen_bare_newline_enable: bool = Field(
        default=False, description="test whether a client ends lines in LF alone"
    )
    postscreen_bare_newline_action: Action = Field(default="ignore", description=_ACTIONS)
    postscreen_bare_newline_ttl: Days = Field(
        default=2592000.0, gt=0, description="how long it is remembered that it does not"
    )
    postscreen_deep_defer: bool = Field(
        default=False,
        description="as postscreen, defer every recipient of a client whose dialogue is tested, "
        "and let it come again; without it, the dialogue that is tested is the real one",
    )
    postscreen_forbidden_commands: tuple[str, ...] = Field(
        default=("CONNECT", "GET", "POST", "regexp:{{/^[^A-Z]/ Bogus}}"),
        description="words, and tables of them, that no mail client sends for commands "
        "(smtpd_forbidden_commands)",
        json_schema_extra={VERBATIM: True},
    )
    postscreen_command_count_limit: int = Field(
        default=20, ge=1, description="commands in a dialogue that takes no mail"
    )
    postscreen_command_time_limit: Duration = Field(
        default=300.0, gt=0, description="how long each of them may take"
    )
    postscreen_disable_vrfy_command: bool = Field(
        default=False, description="VRFY is refused in a dialogue that takes no mail"
    )
    postscreen_helo_required: bool = Field(
        default=False, description="no MAIL without HELO or EHLO there"
    )
    postscreen_pre_queue_limit: int = Field(
        default=0,
        ge=0,
        description="clients that are looked at at once, for each worker; 0 means "
        "default_process_limit",
    )
    postscreen_client_connection_count_limit: int = Field(
        default=0,
        ge=0,
        description="of these, with one address; 0: as smtpd_client_connection_count_limit has it",
    )
    postscreen_allowlist_interfaces: tuple[str, ...] = Field(
        default=(),
        description="our addresses at which clients become known by passing; others get no "
        'further there.  Without this key, postscreen_whitelist_interfaces, or "static:all"',
        examples=[["!192.0.2.2", "static:all"]],
    )
    postscreen_whitelist_interfaces: tuple[str, ...] = Field(
        default=(), description="its name before Postfix 3.6"
    )
    postscreen_cache_retention_time: Days = Field(
        default=604800.0, description="how long a client is remembered whose passes have ended"
    )
    postscreen_cache_cleanup_interval: Hours = Field(
        default=43200.0, description="time between two cleanings of the cache; 0: never"
    )

    @field_validator("postscreen_dnsbl_sites")
    @classmethod
    def _sites(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        sites.parse_sites(value)
        return value

    @model_validator(mode="after")
    def _ordered_ttl(self) -> Screen:
        upper = self.postscreen_dnsbl_ttl or self.postscreen_dnsbl_max_ttl
        if self.postscreen_dnsbl_min_ttl > upper:
            raise ValueError(
                "expected postscreen_dnsbl_min_ttl no longer than postscreen_dnsbl_max_ttl"
            )
        return self
