"""The macros that milters are told about a session (postconf(5), milter_connect_macros)."""

from __future__ import annotations

from smtpgw.edge.road import Connection, Hello, PeerCertificate


def of_listener(connection: Connection) -> dict[str, bytes]:
    """Where the client has connected to."""
    return {
        "daemon_addr": connection.local_address,
        "daemon_port": b"%d" % connection.local_port,
    }


def of_peer(connection: Connection) -> dict[str, bytes]:
    """What is known of the client's name."""
    return connection.peer.macros if connection.peer is not None else {}


def of_tls(hello: Hello) -> dict[str, bytes]:
    """What was negotiated, and whose certificate was shown."""
    if hello.tls is None:
        return {}
    return {
        "tls_version": hello.tls.version.encode(),
        "cipher": hello.tls.cipher.encode(),
        "cipher_bits": b"%d" % hello.tls.bits,
        **_of_certificate(hello.tls.certificate),
    }


def _of_certificate(shown: PeerCertificate | None) -> dict[str, bytes]:
    """Whom a CA of ours vouches for; of others milters hear nothing, as with Postfix."""
    if shown is None or not shown.trusted:
        return {}
    return {"cert_subject": shown.subject.encode(), "cert_issuer": shown.issuer.encode()}
