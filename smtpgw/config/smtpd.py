"""The settings of [smtpgw] and of its listeners about the dialogue itself (smtpd(8))."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from milterd.base import settings
from milterd.base.fields import Duration, Size
from smtpgw.config.tables import Clients, Tables, Words


class Smtpd(settings.Table):
    """How clients are spoken to, and how much they may have of anything."""

    smtpd_banner: str = Field(
        default="$myhostname ESMTP $mail_name",
        description="the text after 220; RFC 5321 wants $myhostname first",
    )
    disable_vrfy_command: bool = Field(default=False, description="do not take VRFY")
    smtpd_forbidden_commands: Words = Field(
        default=("CONNECT", "GET", "POST"),
        description="commands that close the connection; what is no SMTP at all always does",
    )
    smtpd_noop_commands: Words = Field(
        default=(), description="commands that do nothing, and are told that they have done it"
    )
    smtpd_discard_ehlo_keywords: Words = Field(
        default=(),
        description='what EHLO does not announce: "chunking, dsn"; with "silent-discard" the log '
        "says nothing of it",
    )
    smtpd_discard_ehlo_keyword_address_maps: Tables = Field(
        default=(), description="the same by the client's address, before the list for all"
    )
    smtpd_command_filter: Tables = Field(
        default=(),
        description="another line for a command line (a regexp: or pcre: table)",
    )
    smtputf8_enable: bool = Field(default=True, description="offer SMTPUTF8 (RFC 6531)")
    strict_rfc821_envelopes: bool = Field(
        default=False, description="want addresses in angle brackets, and no space before them"
    )
    smtpd_authorized_xclient_hosts: Clients = Field(
        default=(), description="clients that may say by XCLIENT that they are others"
    )
    smtpd_authorized_xforward_hosts: Clients = Field(
        default=(), description="clients that may say by XFORWARD where a mail came from"
    )
    smtpd_upstream_proxy_protocol: Literal["", "haproxy"] = Field(
        default="",
        description='"haproxy": every connection begins with a header of the PROXY protocol, '
        "version 1 or 2",
    )
    smtpd_upstream_proxy_hosts: Clients = Field(
        default=(),
        description="load balancers whose header is believed; others are sent away.  Not a setting "
        "of Postfix, which believes everybody",
    )
    smtpd_upstream_proxy_timeout: Duration = Field(
        default=5.0, gt=0, description="for that header to arrive"
    )
    header_size_limit: Size = Field(
        default=102400, ge=1024, description="octets of all header fields of a message"
    )
    hopcount_limit: int = Field(
        default=50, ge=1, description="Received fields at which a mail is looping"
    )
    bare_newline: Literal["normalize", "reject"] = Field(
        default="normalize",
        description="a line feed without carriage return in a message: made CRLF, never taken as "
        "the end of the message, or refused (smtpd_forbid_bare_newline)",
    )
    smtpd_recipient_limit: int = Field(
        default=1000, ge=100, description="recipients of a message; more are told 452"
    )
