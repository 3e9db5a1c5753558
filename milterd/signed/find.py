"""Finding the signatures in a header: DKIM (RFC 6376) and ARC (RFC 8617)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from milterd.core.mail import HeaderField
from milterd.signed.dkim_field import FieldError, SignatureField, claimed, read, read_arc
from milterd.signed.signature import FieldSignature, Kind

SIGNATURE_LIMIT = 50
"""Signature fields of a mail that are looked at, from the top; verifiers look at fewer."""
HOP_LIMIT = 50
"""ARC sets of a mail (RFC 8617 section 4.2.1)."""

DKIM = b"dkim-signature"
ARC_RESULTS = b"arc-authentication-results"
ARC_MESSAGE = b"arc-message-signature"
ARC_SEAL = b"arc-seal"
ARC_SET = (ARC_RESULTS, ARC_MESSAGE, ARC_SEAL)
"""An ARC set, in the order in which a seal hashes it (RFC 8617 section 5.1.1)."""

_KINDS = {DKIM: Kind.DKIM, ARC_MESSAGE: Kind.ARC_MESSAGE, ARC_SEAL: Kind.ARC_SEAL}
_HOP = re.compile(rb"(?:\A|;)[ \t\r\n]*i[ \t\r\n]*=[ \t\r\n]*(\d{1,3})[ \t\r\n]*(?:;|\Z)")
_HOP_WITHIN = 4096


def in_header(fields: Sequence[HeaderField]) -> tuple[FieldSignature, ...]:
    """The signatures among the fields, top to bottom.  Bounded in time; never raises."""
    if not may_sign(fields):
        return ()
    found: list[FieldSignature] = []
    for position, each in enumerate(fields):
        kind = _KINDS.get(each.name.lower())
        if kind is not None:
            found.append(_signature(kind, position, each, fields))
            if len(found) == SIGNATURE_LIMIT:
                break
    return tuple(found)


def may_sign(fields: Sequence[HeaderField]) -> bool:
    """Whether there is a field of a name that signatures bear: a quick look."""
    return not _KINDS.keys().isdisjoint([each.name.lower() for each in fields])


def hop_of(field: HeaderField) -> int:
    """The `i=` of an ARC field; 0 where it has none that can be."""
    match = _HOP.search(field.value[:_HOP_WITHIN])
    hop = int(match[1]) if match else 0
    return hop if hop <= HOP_LIMIT else 0


def read_as(kind: Kind, field: HeaderField) -> SignatureField | FieldError | None:
    """What a signature field of that kind says; None for a seal, which names no fields."""
    if kind is Kind.ARC_SEAL:
        return None
    try:
        return read(field) if kind is Kind.DKIM else read_arc(field)
    except FieldError as error:
        return error


def arc_sets(fields: Sequence[HeaderField], hop: int) -> list[HeaderField]:
    """The fields of the ARC sets up to `hop`, as a seal hashes them."""
    arc = [(each, each.name.lower()) for each in fields if each.name.lower() in ARC_SET]
    keyed = [(hop_of(each), ARC_SET.index(name), each) for each, name in arc]
    wanted = (each for each in keyed if 0 < each[0] <= hop)
    return [each for _, _, each in sorted(wanted, key=lambda found: found[:2])]


def _signature(
    kind: Kind, position: int, field: HeaderField, fields: Sequence[HeaderField]
) -> FieldSignature:
    hop = 0 if kind is Kind.DKIM else hop_of(field)
    found = read_as(kind, field)
    if isinstance(found, SignatureField) and (hop or kind is Kind.DKIM):
        return FieldSignature(kind, position, found.domain, found.selector, hop, found)
    fault = str(found) if isinstance(found, FieldError) else ""
    if kind is not Kind.DKIM and not hop:
        fault = "i= is no number from 1"
    elif kind is Kind.ARC_SEAL and len(arc_sets(fields, hop)) != len(ARC_SET) * hop:
        fault = "an ARC set up to it is not whole"
    return FieldSignature(kind, position, *claimed(field), hop, fault=fault)
