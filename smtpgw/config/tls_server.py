"""The settings of [smtpgw] and of its listeners about TLS with clients (TLS_README)."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from milterd.base import settings
from milterd.base.fields import Duration, Kind
from smtpgw.config.tables import Tables, Words
from smtpgw.tls import ciphers, versions


def _versions(value: str) -> str:
    if "$" not in value:
        versions.parse(value)
    return value


def _grade(value: str) -> str:
    if "$" not in value and value not in ciphers.GRADES:
        raise ValueError(f"expected one of {', '.join(ciphers.GRADES)}")
    return value


Versions = Annotated[str, AfterValidator(_versions), Kind("TLS versions")]
Grade = Annotated[str, AfterValidator(_grade), Kind("cipher grade")]


class ServerTls(settings.Table):
    """TLS with clients (TLS_README)."""

    smtpd_tls_security_level: Literal["", "none", "may", "encrypt"] = Field(
        default="",
        description='"none", "may" (STARTTLS is offered), "encrypt" (no mail without it; never on '
        'a public MX); empty means "may" where there is a certificate',
    )
    smtpd_tls_wrappermode: bool = Field(
        default=False, description="TLS from the first octet, as on port 465, and no STARTTLS"
    )
    smtpd_tls_chain_files: Words = Field(
        default=(),
        description="PEM files, in each a private key, its certificate and the chain behind it, "
        "perhaps several times: ECDSA and RSA on one listener.  They take the place of the next "
        "four keys",
        examples=["/etc/gatepost/tls/ecdsa.pem, /etc/gatepost/tls/rsa.pem"],
    )
    smtpd_tls_cert_file: str = Field(
        default="",
        description="certificate chain in PEM; every file is read again when it has changed",
    )
    smtpd_tls_key_file: str = Field(
        default="$smtpd_tls_cert_file", description="its private key in PEM"
    )
    smtpd_tls_eccert_file: str = Field(
        default="", description="a second certificate chain, of an ECDSA key"
    )
    smtpd_tls_eckey_file: str = Field(
        default="$smtpd_tls_eccert_file", description="its private key in PEM"
    )
    tls_server_sni_maps: Tables = Field(
        default=(),
        description="names that clients ask for (and .parent for all below it), and the chain "
        "files to show to them",
    )
    smtpd_tls_protocols: Versions = Field(
        default=">=TLSv1.2",
        description='TLS versions at level "may"; Postfix 3.7 begins with TLSv1, which RFC 8996 '
        "forbids",
    )
    smtpd_tls_mandatory_protocols: Versions = Field(
        default=">=TLSv1.2", description='TLS versions at level "encrypt" and in wrapper mode'
    )
    smtpd_tls_ciphers: Grade = Field(
        default="medium", description='least grade of ciphers at level "may"'
    )
    smtpd_tls_mandatory_ciphers: Grade = Field(
        default="medium", description='the same at level "encrypt" and in wrapper mode'
    )
    smtpd_tls_exclude_ciphers: Words = Field(
        default=(),
        description="ciphers and kinds of ciphers that are never used (ciphers(1))",
    )
    smtpd_tls_mandatory_exclude_ciphers: Words = Field(
        default=(), description='more of them at level "encrypt" and in wrapper mode'
    )
    tls_export_cipherlist: str = Field(
        default="aNULL:-aNULL:HIGH:MEDIUM:LOW:EXPORT:+RC4:@STRENGTH",
        description="what the grade export stands for",
    )
    tls_low_cipherlist: str = Field(
        default="aNULL:-aNULL:HIGH:MEDIUM:LOW:+RC4:@STRENGTH",
        description="what the grade low stands for",
    )
    tls_medium_cipherlist: str = Field(
        default="aNULL:-aNULL:HIGH:MEDIUM:+RC4:@STRENGTH",
        description="what the grade medium stands for",
    )
    tls_high_cipherlist: str = Field(
        default="aNULL:-aNULL:HIGH:@STRENGTH", description="what the grade high stands for"
    )
    tls_null_cipherlist: str = Field(
        default="eNULL:!aNULL", description="what the grade null stands for"
    )
    tls_preempt_cipherlist: bool = Field(
        default=False, description="choose the cipher by our order, not by the client's"
    )
    tls_ssl_options: Words = Field(
        default=(),
        description="options of OpenSSL by name, NO_TICKET, or as a number; NO_COMPRESSION and "
        "NO_RENEGOTIATION always count",
    )
    smtpd_tls_eecdh_grade: Literal["auto", "none", "strong", "ultra"] = Field(
        default="auto",
        description="elliptic curves: those of OpenSSL, no ECDHE before TLS 1.3, "
        "$tls_eecdh_strong_curve, or $tls_eecdh_ultra_curve",
    )
    tls_eecdh_strong_curve: str = Field(
        default="prime256v1", description='the curve of smtpd_tls_eecdh_grade "strong"'
    )
    tls_eecdh_ultra_curve: str = Field(
        default="secp384r1", description='the curve of smtpd_tls_eecdh_grade "ultra"'
    )
    smtpd_tls_dh1024_param_file: str = Field(
        default="",
        description="Diffie-Hellman parameters in PEM; without them no DHE ciphers before TLS 1.3",
    )
    smtpd_tls_ask_ccert: bool = Field(
        default=False, description="ask clients for a certificate, whoever vouches for it"
    )
    smtpd_tls_req_ccert: bool = Field(
        default=False,
        description="serve only clients with a certificate that a CA of ours vouches for, where "
        "TLS is required",
    )
    smtpd_tls_CAfile: str = Field(  # noqa: N815 - spelled as Postfix spells it
        default="", description="certificates of the CAs that vouch for clients, in PEM"
    )
    smtpd_tls_CApath: str = Field(  # noqa: N815 - spelled as Postfix spells it
        default="", description="a directory of such certificates"
    )
    smtpd_tls_ccert_verifydepth: int = Field(
        default=9, ge=0, le=16, description="certificates between a client's and that of a CA"
    )
    smtpd_tls_fingerprint_digest: Literal["md5", "sha1", "sha256", "sha384", "sha512"] = Field(
        default="sha256", description="how fingerprints of certificates and keys are made"
    )
    smtpd_tls_session_cache_timeout: Duration = Field(
        default=3600.0,
        ge=0,
        le=8640000,
        description="how long a client may go on with an earlier TLS session, at most; 0 means "
        "never",
    )
    smtpd_tls_received_header: bool = Field(
        default=True,
        description="version, cipher and client certificate in the Received field; Postfix's own "
        "default is not to",
    )
    smtpd_tls_loglevel: int = Field(
        default=1,
        ge=0,
        le=4,
        description="0: only what went wrong with certificates of ours; 1: one line for every "
        "handshake; more is the same",
    )
    smtpd_starttls_timeout: Duration = Field(
        default=30.0, gt=0, description="for a TLS handshake; 300s in Postfix, 10s under stress"
    )
