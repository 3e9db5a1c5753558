"""The settings of [smtpgw] and of its listeners about what refusals say (postconf(5))."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from milterd.base import settings
from milterd.base.fields import VERBATIM
from smtpgw.policy.options import DEFAULT_RBL_REPLY, PRINTABLE

Tempfail = Literal["defer_if_permit", "defer"]


def _code(default: int, description: str) -> int:
    found: int = Field(default=default, ge=400, le=599, description=description)
    return found


class ReplyCodes(settings.Table):
    """The code of each kind of refusal, and its words."""

    access_map_defer_code: int = _code(450, "of DEFER in an access(5) table")
    access_map_reject_code: int = _code(554, "of REJECT in an access(5) table")
    defer_code: int = _code(450, "of defer")
    invalid_hostname_reject_code: int = _code(501, "of reject_invalid_helo_hostname")
    maps_rbl_reject_code: int = _code(554, "of reject_rbl_client and the like")
    multi_recipient_bounce_reject_code: int = _code(550, "of reject_multi_recipient_bounce")
    non_fqdn_reject_code: int = _code(
        504, "of reject_non_fqdn_helo_hostname, reject_non_fqdn_sender, reject_non_fqdn_recipient"
    )
    plaintext_reject_code: int = _code(450, "of reject_plaintext_session")
    reject_code: int = _code(554, "of reject")
    relay_domains_reject_code: int = Field(
        default=554,
        ge=500,
        le=599,
        description="of reject_unauth_destination; that of defer_unauth_destination is 100 less",
    )
    unknown_address_reject_code: int = _code(
        450, "of reject_unknown_sender_domain and reject_unknown_recipient_domain"
    )
    unknown_client_reject_code: int = _code(
        450, "of reject_unknown_client_hostname and reject_unknown_reverse_client_hostname"
    )
    unknown_hostname_reject_code: int = _code(450, "of reject_unknown_helo_hostname")
    unknown_local_recipient_reject_code: int = _code(550, "for whom local_recipient_maps has not")
    unknown_relay_recipient_reject_code: int = _code(550, "for whom relay_recipient_maps has not")
    unknown_virtual_alias_reject_code: int = _code(550, "for whom virtual_alias_maps has not")
    unknown_virtual_mailbox_reject_code: int = _code(550, "for whom virtual_mailbox_maps has not")
    unverified_recipient_defer_code: int = _code(
        450, "of reject_unverified_recipient while a probe has no answer"
    )
    unverified_recipient_reject_code: int = _code(
        450, "of reject_unverified_recipient where a probe was refused"
    )
    unverified_sender_defer_code: int = _code(
        450, "of reject_unverified_sender while a probe has no answer"
    )
    unverified_sender_reject_code: int = _code(
        450, "of reject_unverified_sender where a probe was refused"
    )
    unverified_recipient_reject_reason: str = Field(
        default="", description="what is said then, instead of what the other server has said"
    )
    unverified_sender_reject_reason: str = Field(
        default="", description="what is said then, instead of what the other server has said"
    )
    reject_tempfail_action: Tempfail = Field(
        default="defer_if_permit",
        description="what becomes of a restriction that cannot know now; "
        + " or ".join(get_args(Tempfail)),
    )
    unknown_address_tempfail_action: Tempfail | None = Field(
        default=None,
        description="the same for reject_unknown_sender_domain and reject_unknown_recipient_domain",
        examples=["defer"],
    )
    unknown_helo_hostname_tempfail_action: Tempfail | None = Field(
        default=None, description="the same for reject_unknown_helo_hostname", examples=["defer"]
    )
    unverified_recipient_tempfail_action: Tempfail | None = Field(
        default=None, description="the same for reject_unverified_recipient", examples=["defer"]
    )
    unverified_sender_tempfail_action: Tempfail | None = Field(
        default=None, description="the same for reject_unverified_sender", examples=["defer"]
    )
    default_rbl_reply: str = Field(
        default=DEFAULT_RBL_REPLY,
        json_schema_extra={VERBATIM: True},
        description="of reject_rbl_client and the like",
    )
    smtpd_expansion_filter: str = Field(
        default=PRINTABLE,
        json_schema_extra={VERBATIM: True},
        description="characters that `$name` may become in such a reply; others become `_`",
    )
