"""Finding the signatures in a body: S/MIME (RFC 8551) and OpenPGP (RFC 3156, RFC 9580).

Structure is read as a mail program reads it, leniently.  Parts, depth and octets are bounded;
time is linear in the body and in its depth.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from milterd.core.mail import Body, HeaderField, body_octets, split_header
from milterd.signed import pgp_digest, smime_digest
from milterd.signed.signature import Kind, PartSignature

BODY_LIMIT = 64 * 2**20
"""Octets of the largest body whose parts are looked for; of a larger one that says it is signed,
the whole body counts as covered."""
MAX_DEPTH = 20
MAX_PARTS = 1000
MAX_FOUND = 100
CHECKED, CHECKED_OCTETS = 5, 8 * 2**20
"""Signatures of a mail whose digests are compared, and octets of the largest content; the others
count as good.  So the digests that a mail asks for are bounded."""
_VALUE_LIMIT = 4096

_PROTOCOLS = {
    b"application/pkcs7-signature": Kind.SMIME,
    b"application/x-pkcs7-signature": Kind.SMIME,
    b"application/pgp-signature": Kind.PGP,
}
_OPAQUE = (b"application/pkcs7-mime", b"application/x-pkcs7-mime")
_PARAMETER = re.compile(rb';\s*([^\s=;"]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;]*))', re.DOTALL)
_ARMOUR = re.compile(
    rb"^-----BEGIN PGP (SIGNED MESSAGE|MESSAGE)-----[ \t]*$"
    rb"|^-----(BEGIN|END) PGP (SIGNATURE|MESSAGE)-----[ \t]*$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class _Type:
    """A Content-Type, in lower case but for the boundary."""

    name: bytes
    boundary: bytes
    protocol: bytes


def in_body(fields: Sequence[HeaderField], body: Body) -> tuple[PartSignature, ...]:
    """The signatures of a mail's body, in order.  Never raises for what a mail may hold."""
    if body.size > BODY_LIMIT:
        return tuple(_whole(fields, body))
    found: list[PartSignature] = []
    for each in _walk(fields, body_octets(body)):
        found.append(each)
        if len(found) == MAX_FOUND:
            break
    return tuple(found)


def _whole(fields: Sequence[HeaderField], body: Body) -> Iterator[PartSignature]:
    kind = _type(fields)
    signed = _PROTOCOLS.get(kind.protocol) if kind.name == b"multipart/signed" else None
    if kind.name in _OPAQUE:
        signed = Kind.SMIME
    if signed is not None:
        whole = hashlib.sha256()
        for piece in body.pieces():
            whole.update(piece)
        yield PartSignature(signed, whole.digest(), b"", body.size, "a body too large to look into")


class _Checks:
    """Compares digests while that is allowed."""

    def __init__(self) -> None:
        self._left = CHECKED

    def differs(self, kind: Kind, content: bytes, proof: bytes) -> bool:
        """Whether the signature is of another content, for certain."""
        if not self._left or len(content) > CHECKED_OCTETS:
            return False
        self._left -= 1
        if kind is Kind.PGP:
            return pgp_digest.differs(content, proof)
        return smime_digest.differs(content, proof)


def _walk(fields: Sequence[HeaderField], octets: bytes) -> Iterator[PartSignature]:
    todo = [(fields, octets, 0)]
    count, checks = 0, _Checks()
    while todo and count < MAX_PARTS:
        fields, octets, depth = todo.pop()
        count += 1
        kind = _type(fields)
        if kind.name.startswith(b"multipart/") and kind.boundary:
            parts = _parts(octets, kind.boundary)
            if kind.name == b"multipart/signed" and len(parts) > 1:
                yield from _detached(kind, parts, checks)
            if depth < MAX_DEPTH:
                todo += [(*_split(each), depth + 1) for each in reversed(parts)]
        elif kind.name == b"message/rfc822" and depth < MAX_DEPTH:
            todo.append((*_split(_decoded(fields, octets)), depth + 1))
        elif kind.name in _OPAQUE:
            content = _decoded(fields, octets)
            yield _found(Kind.SMIME, content, b"", kind.name.decode("ascii"))
        elif kind.name.startswith(b"text/"):
            yield from _armoured(_decoded(fields, octets), checks)


def _split(part: bytes) -> tuple[Sequence[HeaderField], bytes]:
    fields, _, offset = split_header(part)
    return fields, part[offset:]


def _found(
    kind: Kind, covered: bytes, proof: bytes, where: str, *, differs: bool = False
) -> PartSignature:
    mark, made = (hashlib.sha256(each).digest() for each in (covered, proof))
    fault = "it is not of this content" if differs else ""
    return PartSignature(kind, mark, made, len(covered), where, fault)


def _detached(kind: _Type, parts: list[bytes], checks: _Checks) -> Iterator[PartSignature]:
    """A multipart/signed (RFC 1847): the first part as it stands, its header included."""
    fields, octets = _split(parts[1])
    signed = _PROTOCOLS.get(kind.protocol) or _PROTOCOLS.get(_type(fields).name)
    if signed is not None:
        proof = _decoded(fields, octets)
        differs = checks.differs(signed, parts[0], proof)
        if signed is Kind.PGP:
            proof = b"".join(proof.split())
        yield _found(signed, parts[0], proof, "multipart/signed", differs=differs)


def _type(fields: Sequence[HeaderField]) -> _Type:
    value = _value(fields, b"Content-Type") or b"text/plain"
    name, _, _ = value.partition(b";")
    given: dict[bytes, bytes] = {}
    for match in _PARAMETER.finditer(value):
        text = re.sub(rb"\\(.)", rb"\1", match[2]) if match[2] is not None else match[3]
        given.setdefault(match[1].lower(), text)
    protocol = given.get(b"protocol", b"").strip().lower()
    return _Type(name.strip().lower(), given.get(b"boundary", b"").rstrip(b" \t"), protocol)


def _value(fields: Sequence[HeaderField], name: bytes) -> bytes:
    for each in fields:
        if each.named(name):
            return each.value.replace(b"\r\n", b"")[:_VALUE_LIMIT].strip()
    return b""


def _parts(octets: bytes, boundary: bytes) -> list[bytes]:
    """What stands between the boundary lines (RFC 2046 section 5.1.1)."""
    delimiter, found = b"\r\n--" + boundary, []
    text, start = b"\r\n" + octets, -1
    at = text.find(delimiter)
    while at >= 0:
        end = text.find(b"\r\n", at + 2)
        line = text[at + len(delimiter) : end if end >= 0 else len(text)]
        closing = line.startswith(b"--")
        if closing or not line.strip(b" \t"):
            if start >= 0:
                found.append(text[start:at])
            if closing or end < 0 or len(found) >= MAX_PARTS:
                return found
            # The CRLF that ends the line is also the one before the next boundary line.
            start, at = end + 2, end - len(delimiter)
        at = text.find(delimiter, at + len(delimiter))
    if start >= 0:
        found.append(text[start:])
    return found


def _decoded(fields: Sequence[HeaderField], octets: bytes) -> bytes:
    encoding = _value(fields, b"Content-Transfer-Encoding").lower()
    if encoding == b"quoted-printable":
        return binascii.a2b_qp(octets)
    if encoding == b"base64":
        try:
            return binascii.a2b_base64(octets)
        except binascii.Error:  # no base64: what a reader sees is the text
            return octets
    return octets


def _armoured(text: bytes, checks: _Checks) -> Iterator[PartSignature]:
    """Armour in a text: a cleartext signature (RFC 9580 section 7), or a message in armour."""
    if b"-----BEGIN PGP " not in text:
        return
    text = text.replace(b"\r\n", b"\n")
    began: tuple[bytes, int] | None = None
    signature = -1
    for match in _ARMOUR.finditer(text):
        if match[1]:
            began, signature = (match[1], match.end() + 1), -1
        elif began is None:
            continue
        elif match[2] == b"BEGIN":
            signature = match.start()
        elif match[3] == b"MESSAGE" and began[0] == b"MESSAGE":
            yield _found(Kind.PGP, _content(text[began[1] : match.start()]), b"", "armour in text")
            began = None
        elif match[3] == b"SIGNATURE" and began[0] == b"SIGNED MESSAGE" and signature >= 0:
            covered = _cleartext(text[began[1] : signature])
            armour = text[signature : match.start()]
            differs = checks.differs(Kind.PGP, covered, armour)
            yield _found(Kind.PGP, covered, _content(armour), "signed text", differs=differs)
            began = None


def _content(armour: bytes) -> bytes:
    """What armour holds, without its own headers and white space."""
    _, blank, data = armour.partition(b"\n\n")
    return b"".join((data if blank else armour).split())


def _cleartext(text: bytes) -> bytes:
    """What a cleartext signature hashes: no white space at the ends of lines, no dashes put in
    before lines, no last line end (RFC 9580 section 7.2)."""
    _, _, text = (b"\n" + text).partition(b"\n\n")
    lines = (each.removeprefix(b"- ").rstrip(b" \t\r") for each in text.split(b"\n"))
    return b"\r\n".join(lines).removesuffix(b"\r\n")
