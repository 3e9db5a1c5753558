"""Which ARC signatures of a mail are good for nothing (RFC 8617 section 5.2).

A chain is good while its newest ARC-Message-Signature and all of its seals are, and none of them
says that it is not.  Of a chain that cannot be good, no signature needs care; of one that can, an
older ARC-Message-Signature that does not fit the header needs none either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from milterd.core.mail import HeaderField, Mail
from milterd.filters.dkim_record import KeyRecord
from milterd.ports.dkim_public import PublicKey
from milterd.signed import find
from milterd.signed.canonical import HEADER_FORMS
from milterd.signed.dkim_field import FieldError, SignatureField, read_seal
from milterd.signed.dkim_tags import without_b
from milterd.signed.signature import FieldSignature, Kind

Key = Callable[[SignatureField], KeyRecord | None]
"""The published key of a signature; None where there is none for certain.  Raises LookupError
where nobody can be asked now."""
Misfit = Callable[[HeaderField, SignatureField], bool]
"""Whether a signature of the header is certainly not good."""


def void(mail: Mail, key: Key, misfit: Misfit, limit: int) -> frozenset[int]:
    """The positions of the ARC signatures that cannot be good, of which `limit` are judged: the
    newest first, seals before the signatures of older sets."""
    arc = [each for each in find.in_header(mail.headers) if each.kind is not Kind.DKIM]
    if not arc:
        return frozenset()
    newest = max(each.hop for each in arc)
    order = sorted(arc, key=lambda each: (not _needed(each, newest), -each.hop))
    found: set[int] = set()
    for each in order[:limit]:
        if _is_void(mail, each, key, misfit):
            if _needed(each, newest):
                return frozenset(one.position for one in arc)
            found.add(each.position)
    return frozenset(found)


def _needed(signature: FieldSignature, newest: int) -> bool:
    """Whether the chain is no better than it."""
    return signature.kind is Kind.ARC_SEAL or signature.hop == newest


def _is_void(mail: Mail, signature: FieldSignature, key: Key, misfit: Misfit) -> bool:
    if signature.fault:
        return True
    field = mail.headers[signature.position]
    if signature.field is not None:
        return misfit(field, signature.field)
    try:
        seal = read_seal(field)
    except FieldError:
        return True
    if seal.failed:
        return True
    try:
        record = key(seal.signature)
    except LookupError:
        return False
    if record is None:
        return True
    sets = find.arc_sets(mail.headers, signature.hop)
    return record.key is not None and not _fits(sets, seal.signature, record.key)


def _fits(sets: Sequence[HeaderField], seal: SignatureField, key: PublicKey) -> bool:
    """Whether the seal is of these sets, whose last field is its own (RFC 8617 section 5.1.1)."""
    relaxed = HEADER_FORMS["relaxed"]
    own = HeaderField(sets[-1].name, without_b(sets[-1].value), sets[-1].gap)
    octets = b"\r\n".join([*map(relaxed, sets[:-1]), relaxed(own)])
    return key.verifies(seal.signature, hashlib.sha256(octets).digest())
