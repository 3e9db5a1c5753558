"""Certificates for tests: of both kinds of keys, of any age, and of a CA or of nobody."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = dt.datetime.now(dt.UTC)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass(frozen=True)
class Issued:
    """A certificate and its key as PEM."""

    certificate: bytes
    key: bytes

    def write(self, path: Path) -> Path:
        """As a file of smtpd_tls_chain_files: the key first."""
        path.write_bytes(self.key + self.certificate)
        return path

    @property
    def parsed(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.certificate)

    @property
    def der(self) -> bytes:
        return self.parsed.public_bytes(Encoding.DER)

    @property
    def key_der(self) -> bytes:
        return self.parsed.public_key().public_bytes(
            Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        )


class Authority:
    """A CA of a test's own."""

    def __init__(self, name: str = "a CA") -> None:
        self._key, self._name = ec.generate_private_key(ec.SECP256R1()), _name(name)
        usage = x509.KeyUsage(
            digital_signature=False, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, key_cert_sign=True, crl_sign=True,
            encipher_only=False, decipher_only=False,
        )  # fmt: skip
        built = (
            x509.CertificateBuilder()
            .subject_name(self._name).issuer_name(self._name).public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - dt.timedelta(days=9)).not_valid_after(NOW + dt.timedelta(365))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), False)
            .sign(self._key, hashes.SHA256())
        )  # fmt: skip
        self.certificate = built.public_bytes(Encoding.PEM)

    def issue(self, name: str, *more: str, kind: str = "ecdsa", days: float = 30) -> Issued:
        """For these names, valid for so many days from now."""
        key = _key(kind)
        names = x509.SubjectAlternativeName([x509.DNSName(each) for each in (name, *more)])
        uses = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        own = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        built = (
            x509.CertificateBuilder()
            .subject_name(_name(name)).issuer_name(self._name).public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - dt.timedelta(days=5))
            .not_valid_after(NOW + dt.timedelta(days=days))
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(own, critical=False)
            .sign(self._key, hashes.SHA256())
        )  # fmt: skip
        return _issued(built, key)


def alone(name: str) -> Issued:
    """A certificate that nobody vouches for, of an old kind: no name but a common name."""
    key = _key("ecdsa")
    built = (
        x509.CertificateBuilder()
        .subject_name(_name(name)).issuer_name(_name(name)).public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(NOW - dt.timedelta(days=5)).not_valid_after(NOW + dt.timedelta(days=5))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    return _issued(built, key)


def _key(kind: str) -> ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    if kind == "rsa":
        return rsa.generate_private_key(65537, 2048)
    return ec.generate_private_key(ec.SECP256R1())


def _issued(built: x509.Certificate, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> Issued:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Issued(built.public_bytes(Encoding.PEM), private)
