"""Certificate chains and their keys, from PEM files (postconf(5), smtpd_tls_chain_files).

A file is read once, whole, so that what is loaded is what was looked at.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from smtpgw.tls.options import Files

MAX_FILE = 1_048_576
"""Octets of a file that are read; a chain has a few thousand."""

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----\r?\n.*?-----END \1-----", re.DOTALL)


class ChainError(Exception):
    """A file that does not serve: which, and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


@dataclass(frozen=True, slots=True)
class Chain:
    """A private key and its certificates, the leaf first, as PEM; where they are from."""

    key: bytes
    certificates: bytes
    path: Path

    def load(self, context: ssl.SSLContext) -> None:
        """Show this chain too.  Raises ChainError."""
        certificates, key = _paper(self.certificates), _paper(self.key)
        try:
            context.load_cert_chain(
                f"/proc/self/fd/{certificates}", f"/proc/self/fd/{key}", password=_no_password
            )
        except (OSError, ssl.SSLError, ValueError) as error:
            raise ChainError(self.path, _plain(error)) from error
        finally:
            os.close(certificates)
            os.close(key)


def read(files: Sequence[Files]) -> tuple[Chain, ...]:
    """All chains of some files, in their order.  Raises ChainError."""
    found: list[Chain] = []
    for each in files:
        if each.key is None:
            found += _groups(each.chain)
        else:
            found.append(_pair(each.chain, each.key))
    return tuple(found)


def _pair(chain: Path, key: Path) -> Chain:
    certificates = [block for kind, block in _blocks(chain) if kind == b"CERTIFICATE"]
    keys = [block for kind, block in _blocks(key) if kind.endswith(b"PRIVATE KEY")]
    if not certificates:
        raise ChainError(chain, "no certificate in it")
    if not keys:
        raise ChainError(key, "no private key in it")
    return Chain(keys[0], b"\n".join(certificates), chain)


def _groups(path: Path) -> Iterator[Chain]:
    key, certificates = b"", list[bytes]()
    for kind, block in _blocks(path):
        if kind.endswith(b"PRIVATE KEY"):
            if key:
                yield _group(path, key, certificates)
            key, certificates = block, []
        elif kind == b"CERTIFICATE":
            if not key:
                raise ChainError(path, "a certificate before any private key")
            certificates.append(block)
    if not key:
        raise ChainError(path, "no private key in it")
    yield _group(path, key, certificates)


def _group(path: Path, key: bytes, certificates: list[bytes]) -> Chain:
    if not certificates:
        raise ChainError(path, "a private key without a certificate behind it")
    return Chain(key, b"\n".join(certificates), path)


def _blocks(path: Path) -> Iterator[tuple[bytes, bytes]]:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ChainError(path, error.strerror or str(error)) from error
    if len(content) > MAX_FILE:
        raise ChainError(path, f"more than {MAX_FILE} octets")
    for match in _BLOCK.finditer(content):
        yield match[1], match[0]


def _paper(content: bytes) -> int:
    """The octets as a file in memory, which is the only form in which ssl takes them."""
    number = os.memfd_create("gatepost-pem", os.MFD_CLOEXEC)
    try:
        os.pwrite(number, content + b"\n", 0)
    except BaseException:
        os.close(number)
        raise
    return number


def _no_password() -> str:
    """OpenSSL would ask at the terminal otherwise."""
    raise ValueError("the private key has a password, which nobody could type here")


def _plain(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    return str(error)
