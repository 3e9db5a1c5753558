"""Who a client is by its certificate: names, fingerprints, and whether a CA of ours vouches.

A certificate is a stranger's octets: what cannot be read in it is an empty name, never a fault.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

from smtpgw.edge.road import PeerCertificate
from smtpgw.tls.options import ClientOptions

LONGEST_NAME = 255
"""Characters of a name in a certificate that are kept (CCERT_BUFSIZ of Postfix)."""
MAX_CHAIN = 20
"""Certificates of a client that are looked at."""


class Authorities:
    """The CAs that may vouch for clients.  Reads their files when they are first needed;
    raises OSError or ValueError then."""

    def __init__(self, options: ClientOptions) -> None:
        self._options = options

    @cached_property
    def store(self) -> Store | None:
        """All of them; None where there are none."""
        found: list[x509.Certificate] = []
        if self._options.ca_file is not None:
            found += x509.load_pem_x509_certificates(self._options.ca_file.read_bytes())
        if self._options.ca_path is not None:
            found += _in_directory(self._options.ca_path)
        return Store(found) if found else None

    def vouch(self, chain: Sequence[bytes], when: datetime) -> bool:
        """Whether one of them does for the first certificate of a chain (DER)."""
        if self.store is None:
            return False
        builder = PolicyBuilder().store(self.store).time(when)
        builder = builder.max_chain_depth(self._options.depth)
        builder = builder.extension_policies(
            ca_policy=ExtensionPolicy.webpki_defaults_ca(), ee_policy=_LENIENT
        )
        try:
            leaf, *others = (x509.load_der_x509_certificate(each) for each in chain[:MAX_CHAIN])
            builder.build_client_verifier().verify(leaf, others)
        except (VerificationError, ValueError, TypeError, x509.InvalidVersion):
            return False
        return True


_LENIENT = ExtensionPolicy.permit_all().may_be_present(
    x509.BasicConstraints, Criticality.AGNOSTIC, None
)
"""Clients have certificates of all kinds, as OpenSSL takes them too: no subjectAltName, say."""


def _in_directory(directory: Path) -> list[x509.Certificate]:
    """The certificates that `openssl rehash` has given names by their hash."""
    found: list[x509.Certificate] = []
    for each in sorted(directory.glob("????????.[0-9]*")):
        found += x509.load_pem_x509_certificates(each.read_bytes())
    return found


def certificate_of(
    connection: ssl.SSLObject, options: ClientOptions, authorities: Authorities, when: float
) -> PeerCertificate | None:
    """The client's certificate, if it has shown one.  `when` is seconds since the epoch."""
    octets = connection.getpeercert(True)
    if not octets:
        return None
    chain = _chain(connection) or [octets]
    trusted = authorities.vouch(chain, datetime.fromtimestamp(when, UTC))
    return described(octets, options.digest, trusted=trusted)


def described(octets: bytes, digest: str, *, trusted: bool = False) -> PeerCertificate:
    """The facts of a certificate in DER."""
    fingerprint = pairs(octets, digest)
    try:
        found = x509.load_der_x509_certificate(octets)
        key = found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        names = _common_name(found.subject), _common_name(found.issuer)
    except Exception:  # noqa: BLE001 - a stranger's octets; what is not understood has no names
        return PeerCertificate("", "", fingerprint, "", trusted=False)
    return PeerCertificate(*names, fingerprint, pairs(key, digest), trusted)


def pairs(octets: bytes, digest: str) -> str:
    """A digest as Postfix writes it: pairs of hexadecimal digits with colons."""
    found = hashlib.new(digest, octets, usedforsecurity=False).digest()
    return found.hex(":").upper()


def _chain(connection: ssl.SSLObject) -> list[bytes]:
    """All that the client has sent.  Python says it in public from 3.13 on only."""
    inner: Any = getattr(connection, "_sslobj", None)
    said = inner.get_unverified_chain() if inner is not None else None
    return [each.public_bytes(2) for each in said or ()]  # 2: DER, _ssl.ENCODING_DER


def _common_name(name: x509.Name) -> str:
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    text = str(found[0].value) if found else ""
    return "".join(each if each.isprintable() else "?" for each in text)[:LONGEST_NAME]
