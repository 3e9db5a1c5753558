"""The settings of [smtpgw] about addresses: who we are, whom we accept, what is rewritten and
where mail goes.  Names and meanings are Postfix's (postconf(5), ADDRESS_CLASS_README,
ADDRESS_REWRITING_README); `$name` stands for another of them (:mod:`smtpgw.parameters`).
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from milterd.base import settings
from milterd.base.fields import Duration
from smtpgw import parameters
from smtpgw.config.tables import Clients, Domains, Tables, TableSettings, Words
from smtpgw.config.types import Destination, OptionalDomain

Classes = tuple[
    Literal["envelope_sender", "envelope_recipient", "header_sender", "header_recipient"], ...
]
Propagates = tuple[Literal["canonical", "virtual", "alias", "forward", "include", "generic"], ...]
Parents = tuple[
    Literal[
        "debug_peer_list", "fast_flush_domains", "mynetworks", "permit_mx_backup_networks",
        "qmqpd_authorized_clients", "relay_domains", "smtpd_access_maps", "transport_maps",
        "smtpd_client_event_limit_exceptions", "postscreen_access_list",
    ],
    ...,
]  # fmt: skip


class Service(settings.Table):
    """A transport of a name of its own, or limits for one that is there (master.cf)."""

    deliver: str = Field(
        default="",
        description="what it does: the name of a transport, or one with its nexthop, such as "
        '"smtp", "lmtp:unix:/run/lmtp" or "maildir:/var/mail"; empty means the transport that has '
        "this row's name",
        examples=["smtp"],
    )
    destination_concurrency_limit: int | None = Field(
        default=None,
        ge=1,
        description="deliveries to one destination at once; without this key, "
        "default_destination_concurrency_limit",
        examples=[2],
    )
    initial_destination_concurrency: int | None = Field(
        default=None, ge=1, description="the same to begin with", examples=[1]
    )
    destination_recipient_limit: int | None = Field(
        default=None,
        ge=1,
        description="recipients of a mail in one delivery; with 1, each gets a copy of its own, "
        "and the limits and pauses of a destination are those of each recipient; without this "
        "key, default_destination_recipient_limit",
        examples=[1],
    )
    destination_rate_delay: Duration | None = Field(
        default=None,
        ge=0,
        description="pause between two deliveries to one destination, which then are never at "
        "once in a worker; without this key, default_destination_rate_delay",
        examples=["2s"],
    )
    transport_rate_delay: Duration | None = Field(
        default=None,
        ge=0,
        description="pause between two deliveries by this transport, whatever the destination, "
        "which then are never at once in a worker; without this key, default_transport_rate_delay",
        examples=["1s"],
    )


class Identity(settings.Table):
    """Who we are, and whom we know."""

    myhostname: OptionalDomain = Field(
        default="", description="how the gateway calls itself; empty means the machine's name"
    )
    mydomain: OptionalDomain = Field(
        default="", description="our domain; empty means myhostname without its first label"
    )
    myorigin: str = Field(
        default="$myhostname", description="the domain of an address that has none"
    )
    mydestination: Domains = Field(
        default=("$myhostname", "localhost.$mydomain", "localhost"),
        description="domains of the local class: those whose users are this machine's",
    )
    virtual_alias_domains: Domains = Field(
        default=("$virtual_alias_maps",),
        description="domains whose every address is an alias of virtual_alias_maps",
    )
    virtual_mailbox_domains: Domains = Field(
        default=("$virtual_mailbox_maps",),
        description="domains whose users are those of virtual_mailbox_maps",
    )
    relay_domains: Domains = Field(
        default=(), description="further domains whose mail is taken from anybody"
    )
    fast_flush_domains: Domains = Field(
        default=("$relay_domains",),
        description="domains whose waiting mail clients in mynetworks may ask for by ETRN; empty "
        "means that ETRN is not offered",
    )
    parent_domain_matches_subdomains: Parents = Field(
        default=(
            "debug_peer_list",
            "fast_flush_domains",
            "mynetworks",
            "permit_mx_backup_networks",
            "qmqpd_authorized_clients",
            "relay_domains",
            "smtpd_access_maps",
        ),
        description='lists and tables in which "example.com" stands for all below it too; in '
        'others, ".example.com" does',
    )
    mynetworks: Clients = Field(
        default=("127.0.0.0/8", "::1/128"),
        description="clients that may send anywhere; their mail counts as originating, "
        "which is what dkim signs",
    )
    recipient_delimiter: str = Field(
        default="",
        max_length=10,
        description="characters each of which parts a user's name and an extension; empty: none",
        examples=["+"],
    )
    owner_request_special: bool = Field(
        default=True, description="owner-list and list-request have no extension"
    )
    local_recipient_maps: Tables = Field(
        default=(), description="users of mydestination; without tables, all are taken"
    )
    virtual_mailbox_maps: Tables = Field(
        default=(), description="users of virtual_mailbox_domains; without tables, all are taken"
    )
    relay_recipient_maps: Tables = Field(
        default=(), description="users of relay_domains; without tables, all are taken"
    )
    show_user_unknown_table_name: bool = Field(
        default=True, description='say "in virtual mailbox table" and the like in a refusal'
    )


class Rewriting(settings.Table):
    """What addresses become."""

    append_at_myorigin: bool = Field(default=True, description='"user" becomes "user@$myorigin"')
    append_dot_mydomain: bool = Field(
        default=False, description='"user@host" becomes "user@host.$mydomain"'
    )
    swap_bangpath: bool = Field(default=True, description='"site!user" becomes "user@site"')
    allow_percent_hack: bool = Field(default=True, description='"user%site" becomes "user@site"')
    allow_min_user: bool = Field(
        default=False, description='take recipients that begin with "-", as options of commands do'
    )
    local_header_rewrite_clients: Words = Field(
        default=("permit_inet_interfaces",),
        description="clients whose header fields are rewritten like the envelope: "
        "permit_inet_interfaces, permit_mynetworks, permit_sasl_authenticated, "
        "check_address_map type:name",
    )
    remote_header_rewrite_domain: str = Field(
        default="",
        description="the domain of incomplete addresses in header fields of other clients' mail; "
        "empty: those fields stay as they are",
    )
    rewrite_signed_headers: bool = Field(
        default=False, description="rewrite header fields too that a signature of the mail covers"
    )
    canonical_maps: Tables = Field(
        default=(),
        description="addresses that are rewritten, senders and recipients (canonical(5))",
    )
    canonical_classes: Classes = Field(
        default=("envelope_sender", "envelope_recipient", "header_sender", "header_recipient"),
        description="where canonical_maps rewrites them",
    )
    sender_canonical_maps: Tables = Field(
        default=(), description="the same for senders, before canonical_maps"
    )
    sender_canonical_classes: Classes = Field(
        default=("envelope_sender", "header_sender"),
        description="where sender_canonical_maps rewrites them",
    )
    recipient_canonical_maps: Tables = Field(
        default=(), description="the same for recipients, before canonical_maps"
    )
    recipient_canonical_classes: Classes = Field(
        default=("envelope_recipient", "header_recipient"),
        description="where recipient_canonical_maps rewrites them",
    )
    masquerade_domains: Words = Field(
        default=(),
        description='domains that stand for those below them: "user@host.example.com" becomes '
        '"user@example.com"; "!name" leaves what is at or below it alone',
    )
    masquerade_classes: Classes = Field(
        default=("envelope_sender", "header_sender", "header_recipient"),
        description="where masquerade_domains rewrites them",
    )
    masquerade_exceptions: Words = Field(
        default=(), description="local parts that masquerade_domains leaves alone"
    )
    propagate_unmatched_extensions: Propagates = Field(
        default=("canonical", "virtual"),
        description="tables whose results get the extension that was not looked up",
    )
    virtual_alias_maps: Tables = Field(
        default=(), description="what recipients become, one or several others (virtual(5))"
    )
    virtual_alias_recursion_limit: int = Field(default=1000, ge=1, description="aliases of aliases")
    virtual_alias_expansion_limit: int = Field(
        default=1000, ge=1, description="recipients that one becomes"
    )
    virtual_alias_address_length_limit: int = Field(
        default=1000, ge=1, description="octets of an address that an alias becomes"
    )
    alias_maps: Tables = Field(
        default=(),
        description="aliases of users of the local transport (aliases(5)); commands and files in "
        "them are refused",
    )
    always_bcc: str = Field(default="", description="who gets a copy of each mail")
    sender_bcc_maps: Tables = Field(default=(), description="who gets a copy of mail from a sender")
    recipient_bcc_maps: Tables = Field(
        default=(), description="who gets a copy of mail to a recipient"
    )
    smtp_generic_maps: Tables = Field(
        default=(),
        description="addresses that are rewritten when mail leaves by SMTP (generic(5))",
    )


class Routing(settings.Table):
    """Where mail goes."""

    local_transport: str = Field(
        default="",
        description='how mail of mydestination goes, "transport" or "transport:nexthop"; empty '
        "means delivery.default, or local",
        examples=["lmtp:unix:/run/dovecot/lmtp"],
    )
    virtual_transport: str = Field(
        default="",
        description="the same for virtual_mailbox_domains; empty means delivery.default, or "
        "virtual",
        examples=["lmtp:unix:/run/dovecot/lmtp"],
    )
    relay_transport: str = Field(
        default="",
        description="the same for relay_domains; empty means delivery.default, or relay",
        examples=["relay"],
    )
    default_transport: str = Field(
        default="",
        description="the same for all other domains; empty means delivery.default, or smtp",
        examples=["smtp"],
    )
    mailbox_transport: Destination = Field(
        default="lmtp:unix:/run/dovecot/lmtp",
        description='what the transports "local" and "virtual" do',
    )
    relayhost: str = Field(
        default="",
        description="the nexthop of mail that is for none of our domains; empty means the "
        "recipient's domain",
        examples=["[smtp.example.net]:587"],
    )
    transport_maps: Tables = Field(
        default=(),
        description="transport and nexthop by recipient (transport(5)), before [smtpgw.transport]",
    )
    sender_dependent_relayhost_maps: Tables = Field(
        default=(), description="nexthop by sender, before relayhost"
    )
    sender_dependent_default_transport_maps: Tables = Field(
        default=(), description="transport by sender, before default_transport"
    )
    relocated_maps: Tables = Field(
        default=(), description="where users are now whose mail is returned (relocated(5))"
    )


class Addresses(Routing, Rewriting, Identity):
    """All of them."""

    tables: TableSettings = TableSettings()

    @property
    def domain(self) -> str:
        """mydomain, or what it stands for."""
        return self.mydomain or self.hostname.partition(".")[2] or "localdomain"

    @property
    def hostname(self) -> str:
        """What the gateway calls itself."""
        return self.myhostname or _machine_name()

    def parameters(self) -> dict[str, str]:
        """What `$name` may stand for: all of these settings, lists as main.cf has them."""
        found = {
            "config_directory": str(self.tables.directory),
            "mail_name": "Gatepost",
        }
        for model in (Identity, Rewriting, Routing):
            found |= written(self, model.model_fields)
        return found | {"myhostname": self.hostname, "mydomain": self.domain}

    def expanded(self, name: str) -> str:
        """One of them as text, with every `$name` replaced.  Raises parameters.ParameterError."""
        return parameters.expand(f"${name}", self.parameters())


def _machine_name() -> str:
    """The machine's full name, or its bare one where nobody knows a domain for it."""
    full = socket.getfqdn()
    return full if "." in full else socket.gethostname()


def written(table: settings.Table, names: Iterable[str]) -> dict[str, str]:
    """Settings as main.cf has them."""
    return {name: _written(getattr(table, name)) for name in names}


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
