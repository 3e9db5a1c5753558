"""What a certificate of ours says of itself: for whom it is, and how long it is good."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from smtpgw.tls.chains import Chain, ChainError


@dataclass(frozen=True, slots=True)
class Shown:
    """`kind` of its key; `begin` and `end` are seconds since the epoch."""

    kind: str
    names: tuple[str, ...]
    begin: float
    end: float


def shown(chain: Chain) -> Shown:
    """The first certificate of a chain.  Raises ChainError."""
    try:
        found = x509.load_pem_x509_certificate(chain.certificates)
        key = found.public_key()
        names = _names(found)
    except ValueError as error:
        raise ChainError(chain.path, str(error)) from error
    kind = "RSA" if isinstance(key, rsa.RSAPublicKey) else "other"
    if isinstance(key, ec.EllipticCurvePublicKey):
        kind = "ECDSA"
    begin, end = found.not_valid_before_utc, found.not_valid_after_utc
    return Shown(kind, names, begin.timestamp(), end.timestamp())


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    return tuple(found.value.get_values_for_type(x509.DNSName))
