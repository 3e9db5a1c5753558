"""What a postmaster may set about the edge, under Postfix's names."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from smtpgw.edge.auth import AuthOptions
from smtpgw.edge.dialogue_options import DialogueOptions, UpstreamOptions
from smtpgw.edge.tls import FixedSecurity, Security

BareNewline = Literal["normalize", "reject"]
StressMode = Literal["auto", "yes", "no"]


@dataclass(frozen=True, slots=True)
class ContentOptions:
    """Limits on a message.

    `message_size_limit` and `header_size_limit` are octets as stored, after dots
    and line ends; `hopcount_limit` is Received fields; `spool_threshold` is the
    octets of a body kept in memory, beyond which it goes to an unlinked file in
    `spool_directory` (None: the system's directory for temporary files).
    `bare_newline` is what becomes of a line ended by LF alone: made CRLF, or the
    message refused (postconf(5), smtpd_forbid_bare_newline).  A bare CR or a NUL
    is always refused.
    """

    message_size_limit: int = 26_214_400
    header_size_limit: int = 102_400
    hopcount_limit: int = 50
    bare_newline: BareNewline = "normalize"
    spool_threshold: int = 1_048_576
    spool_directory: Path | None = None


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds until we give up waiting.

    `smtpd_timeout`: for a whole command line to arrive, for the next piece of a
    message, and for the client to take a reply.  With `per_request` it is for a
    whole message too, and longer only by the time that its octets take at
    `min_data_rate` octets a second; without, that holds once a message takes longer
    than `data`.  `starttls`: for the TLS handshake.  `processing`: for the road's
    answer; below the ten minutes that clients wait (RFC 5321 section 4.5.3.2.6).
    """

    smtpd_timeout: float = 300.0
    data: float = 3600.0
    starttls: float = 30.0
    processing: float = 570.0
    per_request: bool = False
    min_data_rate: int = 500

    @property
    def grace(self) -> float:
        """Seconds of a message before its client has to keep up the least rate."""
        return self.smtpd_timeout if self.per_request else self.data


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a dialogue one client gets (postconf(5), the names with smtpd_ before).

    `junk_command_limit`, `soft_error_limit` and `hard_error_limit` count since the
    last accepted mail; from the soft one on each reply waits `error_sleep_time`
    seconds.  `recipient_overshoot_limit` is how many recipients too many are
    refused before each counts as an error.  `connections` is for one listener in
    one process; `stress` says when its sessions go by shorter limits.
    """

    recipient_limit: int = 1000
    recipient_overshoot_limit: int = 1000
    junk_command_limit: int = 100
    soft_error_limit: int = 10
    hard_error_limit: int = 20
    error_sleep_time: float = 1.0
    connections: int = 1000
    stress: StressMode = "auto"


@dataclass(frozen=True, slots=True)
class EdgeOptions:
    """One listener.

    `strict_rfc821_envelopes` wants angle brackets and no space before them.
    `greet_delay` is seconds of silence asked of a client before the banner; one
    that talks is refused (0: not asked).  `forbid_unauth_pipelining` closes on a
    client that sends the message before our 354.  STARTTLS is offered where `tls`
    is given (or `tls_context`, which never changes), and all mail before it refused
    with `tls_required` (never on a public MX, RFC 3207 section 4).  With `tls_wrapper`
    TLS begins before the banner (RFC 8314); with `tls_certificate` who has shown no
    certificate that a CA of ours vouches for is sent away.  ETRN (RFC 1985) is offered
    with `etrn`, AUTH (RFC 4954) with `auth`.  `banner` is the text after 220, empty for
    the usual one.  With `upstream` a header of the PROXY protocol comes before all else.
    Without `helo_required` MAIL and ETRN may come first; `soft_bounce` makes 4xx of 5xx.
    """

    listener: str = "mx"
    myhostname: str = "localhost"
    mail_name: str = "Gatepost"
    content: ContentOptions = field(default_factory=ContentOptions)
    deadlines: Deadlines = field(default_factory=Deadlines)
    limits: Limits = field(default_factory=Limits)
    strict_rfc821_envelopes: bool = False
    forbid_unauth_pipelining: bool = True
    greet_delay: float = 0.0
    tls_context: ssl.SSLContext | None = None
    tls_required: bool = False
    etrn: bool = False
    tls: Security | None = None
    tls_wrapper: bool = False
    tls_certificate: bool = False
    tls_logged: bool = True
    banner: str = ""
    auth: AuthOptions | None = None
    dialogue: DialogueOptions = field(default_factory=DialogueOptions)
    upstream: UpstreamOptions | None = None
    helo_required: bool = True
    soft_bounce: bool = False

    @property
    def security(self) -> Security | None:
        """How TLS is done here, if it is."""
        if self.tls is None and self.tls_context is not None:
            return FixedSecurity(self.tls_context)
        return self.tls
