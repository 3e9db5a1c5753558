"""The settings of [smtpgw] and of its listeners about who may do what (SMTPD_ACCESS_README)."""

from __future__ import annotations

from pydantic import Field

from milterd.base.fields import VERBATIM
from smtpgw.config.codes import ReplyCodes
from smtpgw.config.tables import Clients, Restrictions, Tables, Words


class Access(ReplyCodes):
    """Restriction lists, and what they go by."""

    smtpd_client_restrictions: Restrictions = Field(
        default=(),
        description="who may speak",
        examples=[["permit_mynetworks", "reject_unknown_reverse_client_hostname"]],
    )
    smtpd_helo_restrictions: Restrictions = Field(
        default=(),
        description="what may stand behind EHLO and HELO",
        examples=[["permit_mynetworks", "reject_invalid_helo_hostname"]],
    )
    smtpd_sender_restrictions: Restrictions = Field(
        default=(), description="whose mail is taken", examples=[["reject_unknown_sender_domain"]]
    )
    smtpd_relay_restrictions: Restrictions = Field(
        default=("permit_mynetworks", "permit_sasl_authenticated", "reject_unauth_destination"),
        description="whither mail may go; a refusal is 5xx where Postfix's default is 4xx, for "
        "nothing is gained by letting a stranger try again",
    )
    smtpd_recipient_restrictions: Restrictions = Field(
        default=(), description="for whom mail is taken", examples=[["reject_unverified_recipient"]]
    )
    smtpd_data_restrictions: Restrictions = Field(
        default=(), description="at DATA", examples=[["reject_unauth_pipelining"]]
    )
    smtpd_end_of_data_restrictions: Restrictions = Field(
        default=(), description="once the whole message is here"
    )
    smtpd_etrn_restrictions: Restrictions = Field(
        default=(), description="who may ask for waiting mail by ETRN"
    )
    smtpd_restriction_classes: Words = Field(
        default=(),
        description="names of [smtpgw.define] that are restriction lists, which other lists and "
        "tables may name",
    )
    smtpd_delay_reject: bool = Field(
        default=True,
        description="ask the client, helo and sender lists at RCPT (the first two at ETRN too), "
        "when all that they may look at is known",
    )
    smtpd_relay_before_recipient_restrictions: bool = Field(
        default=True, description="ask smtpd_relay_restrictions first"
    )
    smtpd_reject_unlisted_recipient: bool = Field(
        default=True,
        description="refuse recipients whom the list of their class has not, our own clients' too",
    )
    smtpd_reject_unlisted_sender: bool = Field(
        default=False, description="refuse senders of ours whom the list of their class has not"
    )
    smtpd_sender_login_maps: Tables = Field(
        default=(),
        description="who owns a sender address: login names, for "
        "reject_authenticated_sender_login_mismatch and the like",
        examples=[["hash:/etc/gatepost/senders"]],
    )
    relay_clientcerts: Tables = Field(
        default=(),
        description="fingerprints of certificates, or of their public keys, for "
        "permit_tls_clientcerts",
    )
    permit_mx_backup_networks: Clients = Field(
        default=(),
        description="where the best mail exchangers of a domain must all be that permit_mx_backup "
        "takes mail for; empty: anywhere",
    )
    rbl_reply_maps: Tables = Field(
        default=(), description="by the domain of a list in DNS: what to say for default_rbl_reply"
    )
    maps_rbl_domains: Words = Field(default=(), description="the lists that reject_maps_rbl asks")
    smtpd_helo_required: bool = Field(
        default=True,
        description="want EHLO or HELO before MAIL, as RFC 5321 does; Postfix's default does not",
    )
    soft_bounce: bool = Field(
        default=False, description="answer 4xx where it would be 5xx, to try settings out"
    )
    smtpd_reject_footer: str = Field(
        default="",
        json_schema_extra={VERBATIM: True},
        description="a line behind each refusal of restrictions, limits and milters; `\\n` begins "
        "another, `\\c` at the start goes on in the same line",
        examples=["For assistance, write to postmaster and name $client_address, $localtime."],
    )
    smtpd_reject_footer_maps: Tables = Field(
        default=(), description="by the text of the reply: the footer to use instead"
    )
    smtpd_null_access_lookup_key: str = Field(
        default="<>", min_length=1, description="what check_sender_access asks for the null sender"
    )
    allow_untrusted_routing: bool = Field(
        default=False,
        description="take mail for addresses of ours that say how to send on (u%there@ours) from "
        "anybody",
    )
