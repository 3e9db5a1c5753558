"""Whether an S/MIME signature is of the content that it stands by: its digest alone is compared.

Whom to trust is the reader's affair, and needs certificates.  That the content is not what was
signed needs none: the digest among the signed attributes says so (RFC 5652 section 5.4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

PROOF_LIMIT = 1_048_576
"""Octets of the largest signature that is read."""
SIGNERS = 3
"""Of one signature; where there are more, it counts as good."""

_SEQUENCE, _SET, _OID, _OCTETS, _CONTEXT = 0x30, 0x31, 0x06, 0x04, 0xA0
_SIGNED_DATA = bytes.fromhex("2a864886f70d010702")
_MESSAGE_DIGEST = bytes.fromhex("2a864886f70d010904")
_HASHES = {
    bytes.fromhex("2b0e03021a"): "sha1",
    bytes.fromhex("608648016503040201"): "sha256",
    bytes.fromhex("608648016503040202"): "sha384",
    bytes.fromhex("608648016503040203"): "sha512",
}


class _Unknown(Exception):  # noqa: N818  # no error of ours: a form that is not read here
    """Not DER, or not of the shape that is looked for."""


def differs(content: bytes, proof: bytes) -> bool:
    """Whether no signer has signed `content`, for certain: a signature that cannot be read, or a
    digest that is not known, may be good.  Never raises for what a mail may hold."""
    if len(proof) > PROOF_LIMIT:
        return False
    try:
        signed = {_signed(each) for each in _signers(proof)}
        return bool(signed) and not any(_digest(name, content) == each for name, each in signed)
    except _Unknown:
        return False


def _signers(proof: bytes) -> Iterator[list[tuple[int, bytes]]]:
    """The SignerInfos of a SignedData."""
    kind, wrapped = _all(_one(proof, _SEQUENCE), 2)
    if kind != (_OID, _SIGNED_DATA) or wrapped[0] != _CONTEXT:
        raise _Unknown
    last = list(_items(_one(wrapped[1], _SEQUENCE)))[-1]
    if last[0] != _SET:
        raise _Unknown
    for number, (tag, octets) in enumerate(_items(last[1])):
        if tag != _SEQUENCE or number >= SIGNERS:
            raise _Unknown
        yield list(_items(octets))


def _digest(name: str, content: bytes) -> bytes:
    return hashlib.new(name, content, usedforsecurity=False).digest()


def _signed(signer: list[tuple[int, bytes]]) -> tuple[str, bytes]:
    """The kind of digest that a signer has signed, and the digest.  Raises _Unknown."""
    if len(signer) < 4 or signer[2][0] != _SEQUENCE or signer[3][0] != _CONTEXT:  # RFC 5652 5.3
        raise _Unknown
    algorithm = next(_items(signer[2][1]), (0, b""))
    name = _HASHES.get(algorithm[1])
    if algorithm[0] != _OID or name is None:
        raise _Unknown
    for tag, octets in _items(signer[3][1]):
        attribute = list(_items(octets)) if tag == _SEQUENCE else []
        if attribute[:1] == [(_OID, _MESSAGE_DIGEST)] and len(attribute) > 1:
            return name, _one(attribute[1][1], _OCTETS)
    raise _Unknown


def _one(octets: bytes, tag: int) -> bytes:
    """What the first item holds, which has that tag; the rest does not matter."""
    found = next(_items(octets), (0, b""))
    if found[0] != tag:
        raise _Unknown
    return found[1]


def _all(octets: bytes, count: int) -> list[tuple[int, bytes]]:
    found = list(_items(octets))
    if len(found) != count:
        raise _Unknown
    return found


def _items(octets: bytes) -> Iterator[tuple[int, bytes]]:
    """The items that stand one after the other (X.690 section 8.1), of definite length."""
    at = 0
    while at < len(octets):
        if len(octets) - at < 2 or octets[at] & 0x1F == 0x1F:  # tag and length
            raise _Unknown
        tag, size = octets[at], octets[at + 1]
        at += 2
        if size & 0x80:
            width = size & 0x7F
            if not 1 <= width <= 4 or len(octets) - at < width:  # 4 GiB
                raise _Unknown
            size = int.from_bytes(octets[at : at + width])
            at += width
        if len(octets) - at < size:
            raise _Unknown
        yield tag, octets[at : at + size]
        at += size
