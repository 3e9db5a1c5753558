"""The settings of [smtpgw] and of its listeners about how clients log in (SASL_README)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from milterd.base import settings

Property = Literal[
    "noplaintext", "noactive", "nodictionary", "noanonymous", "forward_secrecy", "mutual_auth"
]


class ServerSasl(settings.Table):
    """How clients log in (SASL_README)."""

    smtpd_sasl_auth_enable: bool = Field(
        default=False,
        description="let clients log in; without this key, the profiles submission and "
        "submissions do",
    )
    smtpd_sasl_type: Literal["dovecot", "file"] = Field(
        default="file",
        description='who judges a login: "file" is a file of ours that `smtpgw passwd` writes, '
        '"dovecot" is Dovecot',
    )
    smtpd_sasl_path: str = Field(
        default="",
        description='the password file, or Dovecot\'s socket: a path, "unix:/path" or '
        '"inet:host:port"; a relative path is below queue.directory.  Empty means '
        "/etc/gatepost/passwd, or private/auth",
        examples=["/var/spool/postfix/private/auth"],
    )
    smtpd_sasl_service: str = Field(
        default="smtp",
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9_.-]+$",
        description="the name of our service, as Dovecot is told",
    )
    smtpd_sasl_local_domain: str = Field(
        default="",
        description="what stands behind the @ of login names without one, in the password file; "
        "Dovecot has auth_default_realm",
    )
    smtpd_sasl_security_options: tuple[Property, ...] = Field(
        default=("noanonymous",),
        description="what a mechanism must have, or must not, to be offered without TLS",
        examples=[["noanonymous", "noplaintext"]],
    )
    smtpd_sasl_tls_security_options: tuple[Property, ...] | None = Field(
        default=None,
        description="the same under TLS; without this key, smtpd_sasl_security_options",
        examples=[["noanonymous"]],
    )
    smtpd_sasl_mechanism_filter: str = Field(
        default="!external, static:rest",
        description="which mechanisms are offered: the first pattern that fits decides, `!` makes "
        'it a no, "static:rest" fits all; empty means all',
    )
    smtpd_sasl_exceptions_networks: str = Field(
        default="",
        description="networks whose clients are not told of AUTH, for those that ask for a "
        "password where none is needed",
        examples=["$mynetworks"],
    )
    smtpd_sasl_response_limit: int = Field(
        default=12288,
        ge=12288,
        le=131072,
        description="octets of a client's response, in base64 (RFC 4954 section 4)",
    )
    smtpd_sasl_auth_limit: int = Field(
        default=10,
        ge=1,
        description="logins that fail before the connection is closed (not in Postfix)",
    )
    smtpd_sasl_authenticated_header: bool = Field(
        default=False, description="write the login name into the Received field"
    )
    broken_sasl_auth_clients: bool = Field(
        default=False, description="say `AUTH=` too, for clients of before RFC 2554"
    )
    smtpd_tls_auth_only: bool = Field(
        default=True,
        description="logins only over TLS (postconf(5) has no here, which shows passwords to the "
        "network)",
    )
