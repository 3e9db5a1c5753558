"""Private DKIM keys: read from files once, then only asked to sign.

A key file that others than its owner and trusted groups can read, or that others
than root and this process's user own, is refused: its key must be taken for
known.  `credential:NAME` is the file that systemd passes as that credential
(LoadCredential= of systemd.exec(5)).  A key never appears in a repr, an error or a
log line.
"""

from __future__ import annotations

import base64
import binascii
import grp
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

MIN_RSA_BITS = 1024
"""RFC 8301 section 3.2: signers must not use less (and should use 2048)."""
MAX_RSA_BITS = 4096
"""RFC 8301 section 3.2: verifiers need not know more."""
FILE_LIMIT = 65_536
CREDENTIAL = "credential:"

_PADDING, _PREHASHED = padding.PKCS1v15(), Prehashed(hashes.SHA256())


class KeyFileError(Exception):
    """A key file that cannot be used: which, why, and what to do about it."""

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        super().__init__(f"key file {path}: {problem}; {remedy}")
        self.path, self.problem, self.remedy = path, problem, remedy


class PrivateKey(Protocol):
    """A key that signs SHA-256 digests."""

    @property
    def algorithm(self) -> str:
        """The `a=` tag of its signatures (RFC 6376 section 3.3, RFC 8463)."""
        ...

    @property
    def record(self) -> str:
        """The TXT record that publishes it (RFC 6376 section 3.6.1)."""
        ...

    def sign(self, digest: bytes) -> bytes:
        """The signature of a 32-octet SHA-256 digest."""
        ...


@dataclass(frozen=True, slots=True)
class RsaKey:
    """An RSA key, for rsa-sha256."""

    key: rsa.RSAPrivateKey = field(repr=False)
    algorithm: str = "rsa-sha256"

    @property
    def record(self) -> str:
        public = self.key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return f"v=DKIM1; k=rsa; p={base64.b64encode(public).decode('ascii')}"

    def sign(self, digest: bytes) -> bytes:
        return self.key.sign(digest, _PADDING, _PREHASHED)


@dataclass(frozen=True, slots=True)
class Ed25519Key:
    """An Ed25519 key, which signs the digest as its message (RFC 8463 section 3)."""

    key: ed25519.Ed25519PrivateKey = field(repr=False)
    algorithm: str = "ed25519-sha256"

    @property
    def record(self) -> str:
        public = base64.b64encode(self.key.public_key().public_bytes_raw())
        return f"v=DKIM1; k=ed25519; p={public.decode('ascii')}"

    def sign(self, digest: bytes) -> bytes:
        return self.key.sign(digest)


SigningKey = RsaKey | Ed25519Key


def load(
    path: Path, groups: frozenset[str] = frozenset(), environ: Mapping[str, str] = os.environ
) -> SigningKey:
    """The key in a PEM file (PKCS#1 or PKCS#8), or in one that holds a base64 Ed25519 seed.

    `groups` are the groups, besides root, that may read the file.  Raises
    :class:`KeyFileError`.
    """
    path = located(path, environ)
    return parse(path, _read(path, groups))


def located(path: Path, environ: Mapping[str, str] = os.environ) -> Path:
    """The file that a setting means: itself, or a credential's.  Raises KeyFileError."""
    text = str(path)
    if not text.startswith(CREDENTIAL):
        return path
    name, directory = text.removeprefix(CREDENTIAL), environ.get("CREDENTIALS_DIRECTORY", "")
    if not name or "/" in name or name in (".", ".."):
        raise KeyFileError(path, "is no name of a credential", "write credential:NAME")
    if not directory:
        raise KeyFileError(
            path, "there are no credentials", f"put LoadCredential={name}:FILE into the unit"
        )
    return Path(directory) / name


def parse(path: Path, octets: bytes) -> SigningKey:
    """The key that a file or a table's row holds; `path` is its name in an error.

    Besides what :func:`load` takes, the base64 of a DER key, as tables of
    OpenDKIM have it.  Raises KeyFileError.
    """
    if b"-----BEGIN" not in octets:
        return _base64(path, octets)
    return _loaded(path, lambda: serialization.load_pem_private_key(octets, password=None))


def _loaded(path: Path, load_key: Callable[[], object]) -> SigningKey:
    try:
        key = load_key()
    except TypeError:
        raise KeyFileError(
            path, "is protected by a passphrase", "store it without one, readable by its owner only"
        ) from None
    except (ValueError, UnsupportedAlgorithm):
        # The parser's words may quote the file; they stay out of the message.
        raise KeyFileError(
            path, "holds no private key that can be read", "make one with milterd dkim keygen"
        ) from None
    match key:
        case rsa.RSAPrivateKey():
            return _rsa(path, key)
        case ed25519.Ed25519PrivateKey():
            return Ed25519Key(key)
    raise KeyFileError(
        path, "is neither an RSA nor an Ed25519 key", "DKIM knows only these two (RFC 8463)"
    )


def _rsa(path: Path, key: rsa.RSAPrivateKey) -> RsaKey:
    if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise KeyFileError(
            path,
            f"is an RSA key of {key.key_size} bits, expected {MIN_RSA_BITS} to {MAX_RSA_BITS}",
            "make one of 2048 bits, publish it under a new selector, then use it here",
        )
    return RsaKey(key)


def _base64(path: Path, octets: bytes) -> SigningKey:
    """A key without PEM's lines: a seed, or DER."""
    try:
        inside = base64.b64decode(octets.strip(), validate=True)
    except binascii.Error:
        inside = b""
    if len(inside) > 64:
        return _loaded(path, lambda: serialization.load_der_private_key(inside, password=None))
    if len(inside) != 32:
        raise KeyFileError(
            path,
            "is neither PEM nor the base64 of a 32-octet Ed25519 seed",
            "make one with milterd dkim keygen",
        )
    return Ed25519Key(ed25519.Ed25519PrivateKey.from_private_bytes(inside))


def _read(path: Path, groups: frozenset[str]) -> bytes:
    """The file's octets, after its owner and mode were found good on the open file."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _check_access(path, os.fstat(number), groups)
            return os.read(number, FILE_LIMIT)
        finally:
            os.close(number)
    except OSError as error:
        raise KeyFileError(
            path, f"cannot be read ({error.strerror})", "check the path and its permissions"
        ) from None


def _check_access(path: Path, status: os.stat_result, groups: frozenset[str]) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeyFileError(path, "is not a regular file", "name the key file itself")
    mode = f"has mode {stat.S_IMODE(status.st_mode):04o}"
    if status.st_uid not in (0, os.geteuid()):
        raise KeyFileError(
            path, f"belongs to user {status.st_uid}", f"run chown root {path} (or our own user)"
        )
    if status.st_mode & (stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP):
        raise KeyFileError(path, f"{mode}: others can reach it", f"run chmod 0600 {path}")
    if status.st_mode & stat.S_IRGRP and status.st_gid != 0:
        name = _group_name(status.st_gid)
        if name not in groups:
            raise KeyFileError(
                path,
                f"{mode}: group {name} can read it",
                f"run chmod 0600 {path}, or list the group in key_groups",
            )


def _group_name(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
