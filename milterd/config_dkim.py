"""The keys of [filter.dkim], beside those of every filter.  OpenDKIM's settings are named where
they mean the same."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from milterd.base.fields import Duration, Kind
from milterd.base.settings import Table
from milterd.filters.dkim import OVERSIGN, SIGN, DkimOptions, SigningKey, Verifying
from milterd.filters.dkim_verify import VerifyOptions
from milterd.ports.dkim_dns import DnsOptions, parse_server


def _forms(text: str) -> str:
    forms = text.split("/")
    if len(forms) != 2 or not {*forms} <= {"simple", "relaxed"}:
        raise ValueError('expected "relaxed/relaxed", or with simple in place of either')
    return text


def _server(text: str) -> str:
    try:
        parse_server(text)
    except ValueError as error:
        raise ValueError(
            f'expected an address such as "192.0.2.1" or "[::1]:53": {error}'
        ) from None
    return text


def _no_length(value: bool) -> bool:
    if value:
        raise ValueError(
            "expected false: what is added after the octets that l= counts looks signed to a "
            "reader (RFC 6376 section 8.2), so no signature has one"
        )
    return value


def _field_name(text: str) -> str:
    if not re.fullmatch(r"[!-9;-~]+", text):
        raise ValueError("expected the name of a header field, without a colon")
    return text


def _authserv_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]*", text):
        raise ValueError('expected a host name such as "mx.example.net" (RFC 8601 section 2.5)')
    return text


FieldName = Annotated[str, AfterValidator(_field_name), Kind("text")]
AuthservId = Annotated[str, AfterValidator(_authserv_id), Kind("text")]
Forms = Annotated[str, AfterValidator(_forms), Kind("canonical forms")]
NameServer = Annotated[str, AfterValidator(_server), Kind("address")]
NoLength = Annotated[bool, AfterValidator(_no_length)]


class SigningKeySettings(Table):
    """One signing key."""

    domain: str = Field(description="of the address in From")
    selector: str = Field(description="the key's name in DNS: SELECTOR._domainkey.DOMAIN")
    key: Path = Field(
        description="the file with the private key, readable by milterd alone, or "
        '"credential:NAME" for one that systemd passes'
    )
    subdomains: bool = Field(
        default=False,
        description="sign for domains below it too, where no nearer row exists (SubDomains)",
    )
    identity: str = Field(
        default="", description='i= of its signatures, such as "@%": % is the author\'s domain'
    )


class DkimKeySettings(Table):
    """Which keys sign, and for whom."""

    signing_table: tuple[SigningKeySettings, ...] = Field(
        default=(),
        description="which key signs for which domain; several of one domain sign side by side",
        json_schema_extra={"inline": True},
        examples=[
            ({"domain": "example.net", "selector": "s1", "key": "/etc/gatepost/keys/s1.pem"},)
        ],
    )
    opendkim_key_table: str = Field(
        default="",
        description="OpenDKIM's KeyTable, as it is; docs/dkim.md has the kinds of tables",
        examples=["file:/etc/opendkim/KeyTable"],
    )
    opendkim_signing_table: str = Field(
        default="",
        description="OpenDKIM's SigningTable, asked where signing_table has no row",
        examples=["refile:/etc/opendkim/SigningTable"],
    )
    multiple_signatures: bool = Field(
        default=False,
        description="every row of opendkim_signing_table that fits signs, not only the first "
        "(MultipleSignatures)",
    )
    rotation_file: Path | None = Field(
        default=None,
        description="state file of milterd dkim rotate, whose keys sign where no table has one",
        examples=["/var/lib/gatepost/dkim/rotation.json"],
    )
    key_groups: frozenset[str] = Field(
        default=frozenset(), description="groups that may read key files, besides root"
    )
    sender_headers: tuple[FieldName, ...] = Field(
        default=("From",),
        description="the first of these fields that a mail has decides which key signs "
        "(SenderHeaders); From has to have exactly one address in any case",
    )
    third_party: bool = Field(
        default=True,
        description="tables may let a domain sign that is not the author's or above it",
    )
    on_key_error: Literal["tempfail", "accept"] = Field(
        default="tempfail",
        description="when a key or table cannot be read: the mail waits, or goes unsigned",
    )


class DkimSignSettings(Table):
    """How signatures are made."""

    lifetime: Duration = Field(
        default=0.0,
        description="how long a signature is valid; 0 is without end (SignatureTTL)",
    )
    canonicalization: Forms = Field(
        default="relaxed/relaxed", description="forms of header and body (Canonicalization)"
    )
    oversign: tuple[FieldName, ...] = Field(
        default=OVERSIGN,
        description="header fields nobody may add to a signed mail (OversignHeaders)",
    )
    sign: tuple[FieldName, ...] = Field(
        default=SIGN,
        description="header fields that are signed where they are present (SignHeaders)",
    )
    omit: tuple[FieldName, ...] = Field(
        default=(), description="fields taken out of both lists (OmitHeaders)"
    )
    body_length_limit: NoLength = Field(
        default=False, description="l= is never made: true is an error that says why"
    )


class DkimVerifySettings(Table):
    """Verifying the signatures of inbound mail."""

    verify: bool = Field(
        default=False, description="check inbound mail and add Authentication-Results"
    )
    authserv_id: AuthservId = Field(
        default="", description="our name in that field; empty means this machine's (AuthservID)"
    )
    remove_forged: bool = Field(
        default=True,
        description="take Authentication-Results off that came in our name; false where a "
        "milter before this one adds its own",
    )
    signature_limit: int = Field(
        default=10, ge=1, le=100, description="signatures of a mail that are looked at"
    )
    must_be_signed: tuple[FieldName, ...] = Field(
        default=(),
        description="fields that a signature has to cover where they are there (MustBeSigned)",
    )
    clock_skew: Duration = Field(
        default=300.0, ge=0, description="how far clocks may differ (ClockDrift)"
    )
    nameservers: tuple[NameServer, ...] = Field(
        default=(), description="asked for keys, in this order; none means /etc/resolv.conf"
    )
    dns_timeout: Duration = Field(default=5.0, gt=0, description="for one key (DNSTimeout)")
    dns_time: Duration = Field(default=10.0, gt=0, description="for all keys of a mail")
    on_dns_error: Literal["tempfail", "accept"] = Field(
        default="accept",
        description="when no key can be asked for and no signature is good: the mail waits, or "
        "goes on marked (On-DNSError)",
    )
    threads: int = Field(
        default=100,  # as many as Postfix has clients, unless told otherwise
        ge=1,
        le=256,
        description="mails at a time of a native host's process that are long, or wait for "
        "databases or name servers",
    )


class DkimTable(DkimVerifySettings, DkimSignSettings, DkimKeySettings):
    """All of them."""

    @model_validator(mode="after")
    def _both_tables(self) -> DkimTable:
        if bool(self.opendkim_key_table) != bool(self.opendkim_signing_table):
            raise ValueError("expected both opendkim_key_table and opendkim_signing_table, or none")
        return self

    def options(self) -> DkimOptions:
        """For the filter."""
        header, _, body = self.canonicalization.partition("/")
        tables = (self.opendkim_key_table, self.opendkim_signing_table)
        return DkimOptions(
            signing_table=tuple(
                SigningKey(each.domain, each.selector, each.key, each.subdomains, each.identity)
                for each in self.signing_table
            ),
            lifetime=int(self.lifetime),
            key_groups=self.key_groups,
            oversign=self.oversign,
            sign=self.sign,
            omit=self.omit,
            forms=(header, body),
            tables=tables if all(tables) else None,
            several=self.multiple_signatures,
            rotation=self.rotation_file,
            sender_headers=self.sender_headers,
            third_party=self.third_party,
            defer=self.on_key_error == "tempfail",
            verifying=self._verifying() if self.verify else None,
        )

    def _verifying(self) -> Verifying:
        must = tuple(each.lower().encode("ascii", "replace") for each in self.must_be_signed)
        judging = VerifyOptions(self.signature_limit, self.dns_time, int(self.clock_skew), must)
        servers = tuple(map(parse_server, self.nameservers))
        return Verifying(
            self.authserv_id or socket.gethostname(),
            self.remove_forged,
            self.on_dns_error == "tempfail",
            judging,
            DnsOptions(servers, self.dns_timeout),
        )
