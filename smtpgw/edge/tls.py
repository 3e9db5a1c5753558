"""What the edge needs to know of TLS (RFC 3207, RFC 8996); how it is done is another room's."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Protocol

from smtpgw.edge.road import Tls


class Security(Protocol):
    """The TLS of one listener."""

    def context(self) -> ssl.SSLContext:
        """What the next handshake goes by."""
        ...

    def facts(self, connection: ssl.SSLObject) -> Tls:
        """What was negotiated, and with whom."""
        ...


class FixedSecurity:
    """A :class:`Security` that never changes and asks no client for a certificate."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context

    def context(self) -> ssl.SSLContext:
        return self._context

    def facts(self, connection: ssl.SSLObject) -> Tls:
        return facts(connection)


def server_context(certificate: Path, key: Path | None = None) -> ssl.SSLContext:
    """A context with this certificate chain: TLS 1.2 or later, no client certificate asked.

    Raises OSError or ssl.SSLError where the files do not serve.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.load_cert_chain(certificate, key)
    return context


def facts(connection: ssl.SSLObject) -> Tls:
    """What was negotiated, for milters and the Received field."""
    cipher = connection.cipher()
    name, bits = (cipher[0], cipher[2]) if cipher else ("", 0)
    return Tls(connection.version() or "", name, bits)
