"""The parameters that restrictions go by, under Postfix's names (postconf(5)), and what they know
of this site.  Frozen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from smtpgw.address.clients import ClientList
from smtpgw.address.find import Maps
from smtpgw.address.known import Known
from smtpgw.address.resolve import Resolver

TempfailAction = Literal["defer_if_permit", "defer"]
DEFAULT_RBL_REPLY = (
    "$rbl_code Service unavailable; $rbl_class [$rbl_what] blocked using $rbl_domain"
    "${rbl_reason?; $rbl_reason}"
)
PRINTABLE = "\t" + "".join(map(chr, range(32, 127)))
"""smtpd_expansion_filter."""


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """`dns_limit` is how many seconds one mail may wait for the name service in all."""

    myhostname: str = "localhost"
    smtpd_delay_reject: bool = True
    smtpd_relay_before_recipient_restrictions: bool = True
    smtpd_reject_unlisted_recipient: bool = True
    smtpd_reject_unlisted_sender: bool = False
    smtpd_null_access_lookup_key: bytes = b"<>"
    smtpd_sasl_auth_enable: bool = False
    smtpd_policy_service_default_action: str = "451 4.3.5 Server configuration problem"
    allow_untrusted_routing: bool = False
    soft_bounce: bool = False
    access_parents: bool = True
    """Whether `smtpd_access_maps` stands in parent_domain_matches_subdomains."""
    access_map_defer_code: int = 450
    access_map_reject_code: int = 554
    defer_code: int = 450
    invalid_hostname_reject_code: int = 501
    maps_rbl_reject_code: int = 554
    multi_recipient_bounce_reject_code: int = 550
    non_fqdn_reject_code: int = 504
    plaintext_reject_code: int = 450
    reject_code: int = 554
    relay_domains_reject_code: int = 554
    unknown_address_reject_code: int = 450
    unknown_client_reject_code: int = 450
    unknown_hostname_reject_code: int = 450
    unknown_local_recipient_reject_code: int = 550
    unknown_relay_recipient_reject_code: int = 550
    unknown_virtual_alias_reject_code: int = 550
    unknown_virtual_mailbox_reject_code: int = 550
    unverified_recipient_defer_code: int = 450
    unverified_recipient_reject_code: int = 450
    unverified_sender_defer_code: int = 450
    unverified_sender_reject_code: int = 450
    unverified_recipient_reject_reason: str = ""
    unverified_sender_reject_reason: str = ""
    unknown_address_tempfail_action: TempfailAction = "defer_if_permit"
    unknown_helo_hostname_tempfail_action: TempfailAction = "defer_if_permit"
    unverified_recipient_tempfail_action: TempfailAction = "defer_if_permit"
    unverified_sender_tempfail_action: TempfailAction = "defer_if_permit"
    maps_rbl_domains: tuple[str, ...] = ()
    default_rbl_reply: str = DEFAULT_RBL_REPLY
    smtpd_expansion_filter: str = PRINTABLE
    smtpd_reject_footer: str = ""
    dns_limit: float = 60.0


@dataclass(frozen=True, slots=True)
class Site:
    """Whose addresses are ours, who is trusted, and the tables of postconf(5) that restrictions
    ask without naming them."""

    resolver: Resolver
    recipients: Known
    senders: Known
    mynetworks: ClientList = field(default_factory=ClientList)
    permit_mx_backup_networks: ClientList | None = None
    smtpd_sender_login_maps: Maps | None = None
    relay_clientcerts: Maps | None = None
    rbl_reply_maps: Maps | None = None
    smtpd_reject_footer_maps: Maps | None = None
    own_addresses: frozenset[str] = field(default_factory=frozenset)
    """inet_interfaces and proxy_interfaces, as text."""
