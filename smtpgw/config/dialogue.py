"""The other settings of [smtpgw.delivery]: how peers are spoken to (smtp(8), lmtp(8))."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from milterd.base.fields import Duration, Kind
from smtpgw.config.delivery import Delivery
from smtpgw.config.types import OptionalDomain, OptionalIpAddress
from smtpgw.delivery import nexthop, tls


def _level(value: str) -> str:
    if tls.parse_policy(value).match and value != "verify" and value != "secure":
        raise ValueError("expected a level alone; names belong into [smtpgw.tls_policy]")
    return value


def _policy(value: str) -> str:
    tls.parse_policy(value)
    return value


def _protocols(value: str) -> str:
    tls.protocol_range(value)
    return value


def _peer(value: str) -> str:
    nexthop.parse(value.removeprefix("."))
    return value


TlsLevel = Annotated[str, AfterValidator(_level), Kind("TLS level")]
TlsPolicy = Annotated[str, AfterValidator(_policy), Kind("TLS policy")]
TlsProtocols = Annotated[str, AfterValidator(_protocols), Kind("TLS versions")]
TlsPeer = Annotated[str, AfterValidator(_peer), Kind("nexthop")]


class Peers(Delivery):
    """Where mail goes whose domain [smtpgw.transport] does not name, and how peers are
    spoken to."""

    smtp_helo_name: OptionalDomain = Field(
        default="", description="what EHLO says; empty means myhostname"
    )
    lmtp_lhlo_name: OptionalDomain = Field(
        default="", description="what LHLO says; empty means myhostname"
    )
    smtp_bind_address: OptionalIpAddress = Field(
        default="", description="our IPv4 address that connections come from; empty means any"
    )
    smtp_bind_address6: OptionalIpAddress = Field(
        default="", description="our IPv6 address that connections come from; empty means any"
    )
    smtp_connect_timeout: Duration = Field(default=30.0, gt=0, description="to connect")
    smtp_helo_timeout: Duration = Field(
        default=300.0, gt=0, description="for the greeting, and for the answers to EHLO and AUTH"
    )
    smtp_starttls_timeout: Duration = Field(
        default=300.0, gt=0, description="for the answer to STARTTLS, and for the handshake"
    )
    smtp_mail_timeout: Duration = Field(default=300.0, gt=0, description="for the answer to MAIL")
    smtp_rcpt_timeout: Duration = Field(default=300.0, gt=0, description="for the answer to RCPT")
    smtp_data_init_timeout: Duration = Field(
        default=120.0, gt=0, description="for the answer to DATA"
    )
    smtp_data_xfer_timeout: Duration = Field(
        default=180.0, gt=0, description="in which the peer has to read some of what is sent"
    )
    smtp_data_done_timeout: Duration = Field(
        default=600.0, gt=0, description="for the answer after the final dot"
    )
    smtp_rset_timeout: Duration = Field(
        default=20.0, gt=0, description="for the answer to RSET, before another mail"
    )
    smtp_quit_timeout: Duration = Field(
        default=300.0, gt=0, description="for a connection to close after QUIT"
    )
    lmtp_connect_timeout: Duration = Field(default=30.0, gt=0, description="to connect")
    lmtp_lhlo_timeout: Duration = Field(
        default=300.0, gt=0, description="for the greeting, and for the answers to LHLO and AUTH"
    )
    lmtp_starttls_timeout: Duration = Field(
        default=300.0, gt=0, description="for the answer to STARTTLS, and for the handshake"
    )
    lmtp_mail_timeout: Duration = Field(default=300.0, gt=0, description="for the answer to MAIL")
    lmtp_rcpt_timeout: Duration = Field(default=300.0, gt=0, description="for the answer to RCPT")
    lmtp_data_init_timeout: Duration = Field(
        default=120.0, gt=0, description="for the answer to DATA"
    )
    lmtp_data_xfer_timeout: Duration = Field(
        default=180.0, gt=0, description="in which the peer has to read some of what is sent"
    )
    lmtp_data_done_timeout: Duration = Field(
        default=600.0, gt=0, description="for the answers after the final dot"
    )
    lmtp_rset_timeout: Duration = Field(
        default=20.0, gt=0, description="for the answer to RSET, before another mail"
    )
    lmtp_quit_timeout: Duration = Field(
        default=300.0, gt=0, description="for a connection to close after QUIT"
    )
    smtp_connection_cache_time_limit: Duration = Field(
        default=2.0, description="an idle connection is kept for another mail; 0 for not at all"
    )
    smtp_connection_reuse_time_limit: Duration = Field(
        default=300.0, description="age of a connection after which it gets no other mail"
    )
    smtp_connection_reuse_count_limit: int = Field(
        default=0, ge=0, description="mails that a connection carries; 0 means any number"
    )
    lmtp_connection_cache_time_limit: Duration = Field(
        default=2.0, description="an idle connection is kept for another mail; 0 for not at all"
    )
    lmtp_connection_reuse_time_limit: Duration = Field(
        default=300.0, description="age of a connection after which it gets no other mail"
    )
    lmtp_connection_reuse_count_limit: int = Field(
        default=0, ge=0, description="mails that a connection carries; 0 means any number"
    )
    smtp_line_length_limit: int = Field(
        default=998,
        ge=12,
        le=2**20,
        description="octets of a line that leaves; a longer one is broken by CRLF and a space",
    )
    smtp_use_chunking: Literal["never", "when needed", "always"] = Field(
        default="when needed",
        description="send by BDAT where the peer offers CHUNKING, which breaks no long line: when "
        "a mail has lines over smtp_line_length_limit or NUL octets, or always",
    )
    disable_mime_output_conversion: bool = Field(
        default=False,
        description="bounce 8-bit mail for a peer that does not take it; without this key it is "
        "converted to quoted-printable and base64",
    )
    smtp_tls_security_level: TlsLevel = Field(
        default="may",
        description='"none", "may" (encrypt where the peer can), "encrypt" (or keep the mail), '
        '"verify" (with a trusted certificate for the host\'s name), "secure" (for the nexthop\'s)',
    )
    lmtp_tls_security_level: TlsLevel = Field(
        default="none", description="the same for LMTP; never on UNIX sockets"
    )
    smtp_tls_CAfile: Path | None = Field(  # noqa: N815 - spelled as Postfix spells it
        default=None,
        description="certificates of the CAs to trust, in PEM; without this key and the next, "
        "those of the system",
        examples=["/etc/ssl/certs/ca-certificates.crt"],
    )
    smtp_tls_CApath: Path | None = Field(  # noqa: N815 - spelled as Postfix spells it
        default=None,
        description="a directory of such certificates, as openssl rehash makes it",
        examples=["/etc/ssl/certs"],
    )
    smtp_tls_cert_file: Path | None = Field(
        default=None,
        description="our own certificate chain in PEM, for peers that ask for one",
        examples=["/etc/gatepost/tls/client.pem"],
    )
    smtp_tls_key_file: Path | None = Field(
        default=None,
        description="its private key; without this key, it is in the same file",
        examples=["/etc/gatepost/tls/client.key"],
    )
    smtp_tls_protocols: TlsProtocols = Field(
        default=">=TLSv1.2", description='TLS versions at level "may"; none before TLSv1.2'
    )
    smtp_tls_mandatory_protocols: TlsProtocols = Field(
        default=">=TLSv1.2", description="TLS versions at the other levels"
    )
    smtp_sasl_auth_enable: bool = Field(
        default=False, description="log in where smtp_sasl_password_maps has a password"
    )
    smtp_sasl_password_maps: Path | None = Field(
        default=None,
        description='a file of lines "[host]:port user:password", readable for its owner only; '
        "a change takes effect by itself",
        examples=["/etc/gatepost/sasl_passwd"],
    )
    smtp_sasl_security_options: tuple[Literal["noplaintext", "noanonymous"], ...] = Field(
        default=("noplaintext", "noanonymous"),
        description='what a mechanism must not do without TLS; "noplaintext" leaves CRAM-MD5',
    )
    smtp_sasl_tls_security_options: tuple[Literal["noplaintext", "noanonymous"], ...] = Field(
        default=("noanonymous",), description="the same under TLS"
    )
    smtp_sasl_mechanism_filter: tuple[Literal["PLAIN", "LOGIN", "CRAM-MD5"], ...] = Field(
        default=(), description="mechanisms to use; empty means all that are known"
    )

    @model_validator(mode="after")
    def _complete(self) -> Peers:
        if self.smtp_sasl_auth_enable and self.smtp_sasl_password_maps is None:
            raise ValueError("expected smtp_sasl_password_maps with smtp_sasl_auth_enable")
        if self.smtp_tls_key_file is not None and self.smtp_tls_cert_file is None:
            raise ValueError("expected smtp_tls_cert_file with smtp_tls_key_file")
        for name, wanted in (("smtp_bind_address", "."), ("smtp_bind_address6", ":")):
            if (value := getattr(self, name)) and wanted not in value:
                raise ValueError(f"expected an address of the other family for {name}: {value}")
        return self
