"""The hashes that signatures are about, of body and of header (RFC 6376 section 3.7)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping

from milterd.core.mail import PIECE, Body, BytesBody, HeaderField
from milterd.core.values import value
from milterd.signed.canonical import BODY_FORMS, HEADER_FORMS, Header, usual_form
from milterd.signed.dkim_tags import without_b

AT_ONCE = 4 * PIECE
"""Octets of the largest body in memory that is formed as one, not piece by piece."""


@value
class BodyHashes:
    """SHA-256 of one form of a body: whole, and of its first octets where they were asked for.

    `size` is the length of that form in octets; a length beyond it is not in `first`.
    """

    whole: bytes
    size: int
    first: Mapping[int, bytes]


def hash_body(body: Body, form: str, lengths: Collection[int] = ()) -> BodyHashes:
    """Read the body once; memory stays at a few pieces."""
    if not lengths and isinstance(body, BytesBody) and body.size <= AT_ONCE:
        formed = usual_form(body.octets, form)
        if formed is not None:
            return BodyHashes(hashlib.sha256(formed).digest(), len(formed), {})
    digest, size = hashlib.sha256(), 0
    cuts, first = sorted({*lengths}, reverse=True), {}
    for piece in _formed(body, form):
        done = 0
        while cuts and cuts[-1] <= size + len(piece):
            cut = cuts.pop()
            digest.update(piece[done : cut - size])
            done = cut - size
            first[cut] = digest.copy().digest()
        digest.update(piece[done:] if done else piece)
        size += len(piece)
    if cuts and cuts[-1] == 0:
        first[0] = hashlib.sha256().digest()
    return BodyHashes(digest.digest(), size, first)


def _formed(body: Body, form: str) -> Iterator[bytes]:
    shape = BODY_FORMS[form]()
    for piece in body.pieces():
        yield from shape.feed(piece)
    yield from shape.finish()


def covered(header: Header, names: Iterable[bytes], form: str) -> bytes:
    """The fields that an `h=` covers, in their form."""
    return b"".join([each + b"\r\n" for each in header.signed(names, form)])


def digest(fields: bytes, signature: HeaderField, form: str) -> bytes:
    """SHA-256 of covered fields and of the signature's own field with an empty `b=`."""
    bare = HeaderField(signature.name, without_b(signature.value), signature.gap)
    return hashlib.sha256(fields + HEADER_FORMS[form](bare)).digest()
