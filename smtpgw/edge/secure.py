"""From a plain connection to one under TLS, and what is said of it."""

from __future__ import annotations

import asyncio
import ssl
from typing import Protocol, runtime_checkable

from smtpgw.edge.road import Answer, Tls

NO_CERTIFICATE = Answer(421, "4.7.1", "No client certificate presented", hangup=True)
UNTRUSTED = Answer(421, "4.7.1", "Client certificate not trusted", hangup=True)


@runtime_checkable
class _Buffered(Protocol):
    """What uvloop and asyncio have between a transport and TLS."""

    def get_buffer(self, size: int) -> bytearray | memoryview: ...

    def buffer_updated(self, size: int) -> None: ...


async def secured(
    plain: asyncio.Transport,
    protocol: asyncio.Protocol,
    context: ssl.SSLContext,
    patience: float,
    early: bytes = b"",
) -> asyncio.Transport | None:
    """The transport under TLS, within `patience` seconds.

    `early` is the beginning of the client's hello, where it was read already.  Raises OSError
    and ssl.SSLError; None where the connection is gone.
    """
    loop = asyncio.get_running_loop()
    work = loop.create_task(
        loop.start_tls(plain, protocol, context, server_side=True, ssl_handshake_timeout=patience)
    )
    if early:
        # The loop makes the TLS layer in the task's first step and tells it of its transport in
        # the next round: what was read before is to come after that, and before what is read.
        loop.call_soon(loop.call_soon, _feed, plain, early)
    try:
        return await work
    except asyncio.CancelledError:
        work.cancel()
        raise


def _feed(plain: asyncio.Transport, octets: bytes) -> None:
    layer = plain.get_protocol()
    if plain.is_closing():
        return
    if not isinstance(layer, _Buffered):
        raise TypeError(f"{type(layer)} takes no octets")
    view = memoryview(octets)
    while view:
        room = memoryview(layer.get_buffer(len(view)))
        size = min(len(room), len(view))
        room[:size] = view[:size]
        layer.buffer_updated(size)
        view = view[size:]


def missing_certificate(tls: Tls) -> Answer | None:
    """Why a client is not served where a certificate is wanted that a CA of ours vouches for."""
    if tls.certificate is None:
        return NO_CERTIFICATE
    return None if tls.certificate.trusted else UNTRUSTED


def told(tls: Tls) -> dict[str, object]:
    """What the log says of a handshake."""
    found: dict[str, object] = {"version": tls.version, "cipher": tls.cipher, "bits": tls.bits}
    if tls.server_name:
        found["server_name"] = tls.server_name
    if tls.certificate is not None:
        found |= {
            "subject": tls.certificate.subject,
            "issuer": tls.certificate.issuer,
            "fingerprint": tls.certificate.fingerprint,
            "public_key_fingerprint": tls.certificate.public_key_fingerprint,
            "trusted": tls.certificate.trusted,
        }
    return found
