"""Whether an OpenPGP signature is of the text that it stands by, as far as it tells without a key.

A signature carries the first two octets of the digest that it signs (RFC 9580 section 5.2.3).
Where they are others, the text is not what was signed; where they are the same, it may be good.
"""

from __future__ import annotations

import binascii
import hashlib
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import _Hash

PROOF_LIMIT = 65_536
"""Octets of the largest signature that is read."""
PACKETS, ALGORITHMS = 10, 2
"""Signatures in one armour, and kinds of digest among them: each kind reads the text anew."""

_SIGNATURE = 2
_V4 = 4
_BINARY, _TEXT = 0, 1
_HASHES = {1: "md5", 2: "sha1", 8: "sha256", 9: "sha384", 10: "sha512", 11: "sha224"}


class _Unknown(Exception):  # noqa: N818  # no error of ours: a form that is not read here
    """Not a signature of a form that is known here."""


def differs(text: bytes, armour: bytes) -> bool:
    """Whether no signature in the armour is of `text`, for certain.  Never raises for what a mail
    may hold."""
    if len(armour) > PROOF_LIMIT:
        return False
    try:
        signatures = list(itertools.islice(_packets(_binary(armour)), PACKETS + 1))
        kinds = {(each[1], each[3]) for each in map(_known, signatures)}
        if not signatures or len(signatures) > PACKETS or len(kinds) > ALGORITHMS:
            return False
        begun = {(form, kind): _begun(text, form, kind) for form, kind in kinds}
        return not any(_may_be_of(begun[each[1], each[3]], each) for each in signatures)
    except _Unknown:
        return False


def _binary(armour: bytes) -> bytes:
    """What armour holds (RFC 9580 section 6.2); its checksum is not looked at."""
    lines = armour.replace(b"\r\n", b"\n").split(b"\n")
    starts = [at for at, each in enumerate(lines) if each.startswith(b"-----BEGIN PGP SIGNATURE")]
    if not starts:
        raise _Unknown
    rest = lines[starts[0] + 1 :]
    blank = next((at for at, each in enumerate(rest) if not each.strip()), -1)
    data = []
    for each in rest[blank + 1 :]:
        if each.startswith((b"=", b"-----END")):
            break
        data.append(each)
    try:
        return binascii.a2b_base64(b"".join(data))
    except binascii.Error as error:
        raise _Unknown from error


def _packets(octets: bytes) -> Iterator[bytes]:
    """The bodies of signature packets, of definite length and with nothing else among them
    (section 4.2)."""
    at = 0
    while at < len(octets):
        first = octets[at]
        new = first & 0x40
        kind = first & 0x3F if new else (first & 0x3C) >> 2
        head = octets[at + 1 : at + 6]
        if not first & 0x80 or kind != _SIGNATURE or not head:
            raise _Unknown
        skip, size = _new_length(head) if new else _old_length(first & 3, head)
        start = at + 1 + skip
        if len(octets) - start < size or len(head) < skip:
            raise _Unknown
        yield octets[start : start + size]
        at = start + size


def _new_length(head: bytes) -> tuple[int, int]:
    """Section 4.2.1."""
    if head[0] < 192:  # the section's own numbers, here and below
        return 1, head[0]
    if head[0] < 224 and len(head) > 1:
        return 2, ((head[0] - 192) << 8) + head[1] + 192
    if head[0] == 255:
        return 5, int.from_bytes(head[1:5])
    raise _Unknown


def _old_length(form: int, head: bytes) -> tuple[int, int]:
    """Section 4.2.2."""
    width = (1, 2, 4, 0)[form]
    if not width:
        raise _Unknown
    return width, int.from_bytes(head[:width])


def _known(packet: bytes) -> bytes:
    """A signature of a form that is known here (section 5.2.3)."""
    if len(packet) < 6 or packet[0] != _V4:  # its fixed octets
        raise _Unknown
    if packet[1] not in (_BINARY, _TEXT) or packet[3] not in _HASHES:
        raise _Unknown
    return packet


def _begun(text: bytes, form: int, kind: int) -> list[_Hash]:
    """The digests of the text's readings, before what each signature adds to them."""
    name = _HASHES[kind]
    return [hashlib.new(name, each, usedforsecurity=False) for each in _readings(text, form)]


def _may_be_of(begun: Sequence[_Hash], packet: bytes) -> bool:
    """Section 5.2.4.  Raises _Unknown where that cannot be told."""
    end = 6 + int.from_bytes(packet[4:6])
    after = end + 2 + int.from_bytes(packet[end : end + 2])
    if len(packet) < after + 2:
        raise _Unknown
    signed, start = packet[:end], packet[after : after + 2]
    trailer = signed + bytes((_V4, 0xFF)) + len(signed).to_bytes(4)
    for each in begun:
        whole = each.copy()
        whole.update(trailer)
        if whole.digest()[:2] == start:
            return True
    return False


def _readings(text: bytes, form: int) -> Iterator[bytes]:
    """The text as signers hash it: as it is, and, since programs differ in that, with no white
    space at the ends of lines and with and without the last line end."""
    yield text
    if form == _TEXT:
        bare = b"\r\n".join(each.rstrip(b" \t") for each in text.split(b"\r\n"))
        yield bare
        yield text + b"\r\n"
        yield bare + b"\r\n"
    else:
        yield text + b"\r\n"
