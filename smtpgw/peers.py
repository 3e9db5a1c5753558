"""From the settings to how peers are spoken to: the options of the pool of connections."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from milterd.base.toml_file import Problem
from smtpgw.config import Smtpgw
from smtpgw.config.dialogue import Peers
from smtpgw.delivery.connect import Connector
from smtpgw.delivery.options import (
    ClientOptions,
    PoolOptions,
    Reuse,
    SaslOptions,
    Timeouts,
    TlsOptions,
)
from smtpgw.delivery.passwords import PasswordsUnusable


def pool(settings: Smtpgw) -> PoolOptions:
    """How connections are made, kept and used."""
    delivery = settings.delivery
    return PoolOptions(
        kept=delivery.default_destination_concurrency_limit,
        smtp_reuse=Reuse(
            delivery.smtp_connection_cache_time_limit,
            delivery.smtp_connection_reuse_time_limit,
            delivery.smtp_connection_reuse_count_limit,
        ),
        lmtp_reuse=Reuse(
            delivery.lmtp_connection_cache_time_limit,
            delivery.lmtp_connection_reuse_time_limit,
            delivery.lmtp_connection_reuse_count_limit,
        ),
        smtp_bind_address=delivery.smtp_bind_address,
        smtp_bind_address6=delivery.smtp_bind_address6,
        smtp=_client(delivery, delivery.smtp_helo_name or settings.hostname, _smtp(delivery)),
        lmtp=_client(delivery, delivery.lmtp_lhlo_name or settings.hostname, _lmtp(delivery)),
        tls=_tls(settings),
        sasl=_sasl(delivery),
    )


def _client(delivery: Peers, name: str, timeouts: Timeouts) -> ClientOptions:
    return ClientOptions(
        helo_name=name,
        timeouts=timeouts,
        smtp_line_length_limit=delivery.smtp_line_length_limit,
        smtp_use_chunking=delivery.smtp_use_chunking,
        disable_mime_output_conversion=delivery.disable_mime_output_conversion,
    )


def _smtp(delivery: Peers) -> Timeouts:
    return Timeouts(
        connect=delivery.smtp_connect_timeout,
        helo=delivery.smtp_helo_timeout,
        starttls=delivery.smtp_starttls_timeout,
        mail=delivery.smtp_mail_timeout,
        rcpt=delivery.smtp_rcpt_timeout,
        data_init=delivery.smtp_data_init_timeout,
        data_xfer=delivery.smtp_data_xfer_timeout,
        data_done=delivery.smtp_data_done_timeout,
        rset=delivery.smtp_rset_timeout,
        quit=delivery.smtp_quit_timeout,
    )


def _lmtp(delivery: Peers) -> Timeouts:
    return Timeouts(
        connect=delivery.lmtp_connect_timeout,
        helo=delivery.lmtp_lhlo_timeout,
        starttls=delivery.lmtp_starttls_timeout,
        mail=delivery.lmtp_mail_timeout,
        rcpt=delivery.lmtp_rcpt_timeout,
        data_init=delivery.lmtp_data_init_timeout,
        data_xfer=delivery.lmtp_data_xfer_timeout,
        data_done=delivery.lmtp_data_done_timeout,
        rset=delivery.lmtp_rset_timeout,
        quit=delivery.lmtp_quit_timeout,
    )


def _tls(settings: Smtpgw) -> TlsOptions:
    delivery = settings.delivery
    return TlsOptions(
        smtp_tls_security_level=delivery.smtp_tls_security_level,
        lmtp_tls_security_level=delivery.lmtp_tls_security_level,
        policies=tuple(settings.tls_policy.items()),
        smtp_tls_CAfile=_path(delivery.smtp_tls_CAfile),
        smtp_tls_CApath=_path(delivery.smtp_tls_CApath),
        smtp_tls_cert_file=_path(delivery.smtp_tls_cert_file),
        smtp_tls_key_file=_path(delivery.smtp_tls_key_file),
        smtp_tls_protocols=delivery.smtp_tls_protocols,
        smtp_tls_mandatory_protocols=delivery.smtp_tls_mandatory_protocols,
    )


def _sasl(delivery: Peers) -> SaslOptions:
    return SaslOptions(
        smtp_sasl_auth_enable=delivery.smtp_sasl_auth_enable,
        smtp_sasl_password_maps=_path(delivery.smtp_sasl_password_maps),
        smtp_sasl_security_options=delivery.smtp_sasl_security_options,
        smtp_sasl_tls_security_options=delivery.smtp_sasl_tls_security_options,
        smtp_sasl_mechanism_filter=delivery.smtp_sasl_mechanism_filter,
    )


def _path(value: Path | None) -> str:
    return "" if value is None else str(value)


def problems(settings: Smtpgw) -> Iterator[Problem]:
    """What is wrong with the files that these settings name."""
    try:
        Connector(pool(settings)).check()
    except PasswordsUnusable as error:
        where = "smtpgw.delivery.smtp_sasl_password_maps"
        yield Problem("settings", 0, where, str(error), "a password file for its owner's eyes")
    except ValueError as error:
        wanted = "certificates, and a key that fits its certificate, in PEM"
        yield Problem("settings", 0, "smtpgw.delivery", str(error), wanted)
