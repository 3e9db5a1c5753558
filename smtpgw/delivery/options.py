"""What a postmaster may say about the dialogue with a peer, by Postfix's names (smtp(8)).

A room of its own keeps it apart from TOML: `smtpgw.wiring` fills these in.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Chunking = Literal["never", "when needed", "always"]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; each is Postfix's smtp_NAME_timeout or lmtp_NAME_timeout (`helo`:
    lmtp_lhlo_timeout), except that `starttls` bounds the handshake too.

    `data_xfer` bounds a stretch in which the peer reads nothing of the message, the queue's
    lease_time the whole; `quit`, how long a connection may take to close.
    """

    connect: float = 30.0
    helo: float = 300.0
    starttls: float = 300.0
    mail: float = 300.0
    rcpt: float = 300.0
    data_init: float = 120.0
    data_xfer: float = 180.0
    data_done: float = 600.0
    rset: float = 20.0
    quit: float = 300.0


@dataclass(frozen=True, slots=True)
class ClientOptions:
    """One of the two dialogues: SMTP or LMTP.

    `helo_name` is smtp_helo_name or lmtp_lhlo_name.  `smtp_use_chunking`: BDAT, which Postfix
    does not send, "when needed" for lines over the limit and NUL octets.
    `smtp_line_length_limit` is in octets without CRLF; 0 for none.
    """

    helo_name: str = "localhost"
    timeouts: Timeouts = field(default_factory=Timeouts)
    smtp_line_length_limit: int = 998
    smtp_use_chunking: Chunking = "when needed"
    disable_mime_output_conversion: bool = False


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """STARTTLS (RFC 3207), as in Postfix's TLS_README.

    `policies` are smtp_tls_policy_maps: what :func:`smtpgw.delivery.tls.parse_policy` takes,
    by nexthop.  Without CAfile and CApath the system's own trust store counts.
    """

    smtp_tls_security_level: str = "may"
    lmtp_tls_security_level: str = "none"
    policies: tuple[tuple[str, str], ...] = ()
    smtp_tls_CAfile: str = ""  # noqa: N815 - spelled as Postfix spells it
    smtp_tls_CApath: str = ""  # noqa: N815 - spelled as Postfix spells it
    smtp_tls_cert_file: str = ""
    smtp_tls_key_file: str = ""
    smtp_tls_protocols: str = ">=TLSv1.2"
    smtp_tls_mandatory_protocols: str = ">=TLSv1.2"


@dataclass(frozen=True, slots=True)
class SaslOptions:
    """AUTH (RFC 4954), as in Postfix's SASL_README.

    `smtp_sasl_password_maps` is the path of a password file.  Security options are
    `noplaintext` (no PLAIN, no LOGIN) and `noanonymous`, which is always in force.
    """

    smtp_sasl_auth_enable: bool = False
    smtp_sasl_password_maps: str = ""
    smtp_sasl_security_options: tuple[str, ...] = ("noplaintext", "noanonymous")
    smtp_sasl_tls_security_options: tuple[str, ...] = ("noanonymous",)
    smtp_sasl_mechanism_filter: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reuse:
    """Seconds and mails, Postfix's smtp_ and lmtp_connection_NAME_limit.

    `cache_time` an idle connection is kept, 0 for not at all; after `reuse_time` and
    `reuse_count` mails (0 for any number) it is not used again.
    """

    cache_time: float = 2.0
    reuse_time: float = 300.0
    reuse_count: int = 0


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """Connections: how they are kept, and where they come from.

    `kept` idle ones for one peer, `idle` for all.  An empty bind address leaves the choice
    to the system.
    """

    kept: int = 20
    idle: int = 200
    smtp_reuse: Reuse = field(default_factory=Reuse)
    lmtp_reuse: Reuse = field(default_factory=Reuse)
    smtp_bind_address: str = ""
    smtp_bind_address6: str = ""
    smtp: ClientOptions = field(default_factory=ClientOptions)
    lmtp: ClientOptions = field(default_factory=ClientOptions)
    tls: TlsOptions = field(default_factory=TlsOptions)
    sasl: SaslOptions = field(default_factory=SaslOptions)

    def limits(self, *, lmtp: bool) -> Reuse:
        """How connections of that kind are kept."""
        return self.lmtp_reuse if lmtp else self.smtp_reuse
