"""New DKIM keys: made and stored so that nobody but their owner ever could read them."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from milterd.ports.keys import MAX_RSA_BITS, Ed25519Key, RsaKey

USUAL_BITS = 2048
"""What RFC 8301 section 3.2 says signers should use."""


def make(kind: str, bits: int = USUAL_BITS) -> RsaKey | Ed25519Key:
    """A key of kind "rsa" or "ed25519".  Raises ValueError for a size that DKIM does not have."""
    if kind == "ed25519":
        return Ed25519Key(ed25519.Ed25519PrivateKey.generate())
    if kind != "rsa":
        raise ValueError(f"{kind!r} is neither rsa nor ed25519")
    if not USUAL_BITS <= bits <= MAX_RSA_BITS:
        raise ValueError(f"{bits} bits, expected {USUAL_BITS} to {MAX_RSA_BITS}")
    return RsaKey(rsa.generate_private_key(65537, bits))


def store(path: Path, key: RsaKey | Ed25519Key, owner: tuple[int, int] | None = None) -> None:
    """Write a key into a new file of mode 0600, PKCS#8 in PEM, and onto the disk.

    `owner` is a user's and a group's number, for who is root.  Raises OSError,
    FileExistsError for a file that is there: a key is never overwritten.
    """
    octets = key.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(number, "wb") as file:
        os.fchmod(number, 0o600)
        if owner is not None:
            os.fchown(number, *owner)
        file.write(octets)
        file.flush()
        os.fsync(number)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Put the names in a directory onto the disk.  Raises OSError."""
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(number)
    finally:
        os.close(number)
