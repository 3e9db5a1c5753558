"""Public DKIM keys: RSA and Ed25519, each asked whether a signature is good.

By `cryptography`, in tens of microseconds.  What a stranger publishes is bounded: an
RSA key beyond :data:`MAX_BITS`, or one with a large exponent, is not used.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

MIN_BITS = 1024
"""RFC 8301 section 3.2: verifiers must not take a signature by less for valid."""
MAX_BITS = 8192
"""RFC 8301 asks for 4096 at least; the time for one signature grows with the square."""
_MAX_EXPONENT = 2**32


class PublicKeyError(ValueError):
    """What `p=` holds is no key that can be used; the text says why."""


class WeakKeyError(PublicKeyError):
    """An RSA key of too few bits."""


@dataclass(frozen=True, slots=True)
class RsaPublic:
    """An RSA key, for rsa-sha256."""

    key: rsa.RSAPublicKey

    @property
    def bits(self) -> int:
        """The length of its modulus."""
        return self.key.key_size

    def verifies(self, signature: bytes, digest: bytes) -> bool:
        """Whether the signature of that SHA-256 digest is good (RSASSA-PKCS1-v1_5)."""
        try:
            self.key.verify(signature, digest, padding.PKCS1v15(), Prehashed(hashes.SHA256()))
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True, slots=True)
class Ed25519Public:
    """An Ed25519 key, whose message is the digest (RFC 8463 section 3)."""

    key: ed25519.Ed25519PublicKey
    bits: int = 256

    def verifies(self, signature: bytes, digest: bytes) -> bool:
        """Whether the signature of that SHA-256 digest is good."""
        try:
            self.key.verify(signature, digest)
        except InvalidSignature:
            return False
        return True


PublicKey = RsaPublic | Ed25519Public


def parse(kind: str, octets: bytes) -> PublicKey:
    """The key of a record's `k=` (rsa or ed25519) and `p=`.  Raises PublicKeyError.

    An RSA key is DER, with SubjectPublicKeyInfo round it as everybody publishes it, or bare
    as RFC 6376 section 3.6.1 has it.
    """
    if kind == "ed25519":
        if len(octets) != 32:
            raise PublicKeyError("the Ed25519 key is not of 32 octets")
        return Ed25519Public(ed25519.Ed25519PublicKey.from_public_bytes(octets))
    if kind != "rsa":
        raise PublicKeyError("k= is neither rsa nor ed25519")
    bits = _modulus_bits(octets)
    if bits < MIN_BITS:
        raise WeakKeyError(f"RSA key of {bits} bits, at least {MIN_BITS} are needed")
    if bits > MAX_BITS:
        raise PublicKeyError(f"RSA key of {bits} bits, more than {MAX_BITS}")
    try:
        key = serialization.load_der_public_key(octets)
    except (ValueError, UnsupportedAlgorithm):
        raise PublicKeyError("p= holds no RSA key") from None
    if not isinstance(key, rsa.RSAPublicKey):
        raise PublicKeyError("p= holds a key of another kind")
    if key.public_numbers().e >= _MAX_EXPONENT:
        raise PublicKeyError("the RSA key has a large exponent")
    return RsaPublic(key)


def _modulus_bits(octets: bytes) -> int:
    """The size of an RSA modulus, before a library that may refuse a small one looks.

    DER (X.690): SEQUENCE { SEQUENCE {...}, BIT STRING { SEQUENCE { INTEGER n, ... } } }, or the
    innermost SEQUENCE alone.
    """
    inside, _ = _value(octets, 0x30)
    if inside[:1] == b"\x30":
        _, after = _value(inside, 0x30)
        inside, _ = _value(after, 0x03)
        inside, _ = _value(inside[1:], 0x30)
    modulus, _ = _value(inside, 0x02)
    return int.from_bytes(modulus, "big").bit_length()


def _value(octets: bytes, tag: int) -> tuple[bytes, bytes]:
    """The contents of a DER element, and what follows it."""
    if len(octets) < 2 or octets[0] != tag:
        raise PublicKeyError("p= holds no RSA key")
    size, at = octets[1], 2
    if size & 0x80:
        count = size & 0x7F
        size, at = int.from_bytes(octets[2 : 2 + count], "big"), 2 + count
    if at + size > len(octets):
        raise PublicKeyError("p= holds a key that is cut short")
    return octets[at : at + size], octets[at + size :]
