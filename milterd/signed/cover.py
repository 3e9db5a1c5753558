"""What a signature covers of its mail, for a reader: fields, names nobody may add, the body."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from milterd.core.mail import HeaderField, Mail
from milterd.signed import find
from milterd.signed.canonical import Header
from milterd.signed.dkim_field import SignatureField
from milterd.signed.signature import FieldSignature, Kind, PartSignature, Signature


@dataclass(frozen=True, slots=True)
class Cover:
    """`fields` are places in the mail's header, from 0; `closed` are names, as `h=` has them,
    of which another field would break the signature; `body` and `forms` are in words."""

    fields: tuple[int, ...] = ()
    closed: tuple[str, ...] = ()
    body: str = ""
    forms: str = ""


def cover(mail: Mail, signature: Signature) -> Cover:
    """What it covers; nothing where it has a fault."""
    if isinstance(signature, PartSignature):
        return Cover(body=f"{signature.size} octets: {signature.where}")
    if signature.fault:
        return Cover()
    places = {id(each): at for at, each in enumerate(mail.headers)}
    if signature.kind is Kind.ARC_SEAL:
        sets = find.arc_sets(mail.headers, signature.hop)
        return Cover(_places(places, sets), body="not covered", forms="relaxed")
    field = signature.field
    assert field is not None  # noqa: S101  # only what has a fault has none
    header = Header(mail.headers)
    mentions = Counter(field.names)
    closed = (name for name, count in mentions.items() if count > header.count(name))
    return Cover(
        _places(places, header.chosen(field.names)),
        tuple(each.decode("ascii", "backslashreplace") for each in closed),
        _body(field),
        f"{field.header_form}/{field.body_form}",
    )


def _places(places: dict[int, int], fields: list[HeaderField]) -> tuple[int, ...]:
    return tuple(sorted(places[id(each)] for each in fields))


def _body(field: SignatureField) -> str:
    if field.length is None:
        return "whole"
    return f"its first {field.length} octets" if field.length else "not covered"


def shown(signature: FieldSignature | PartSignature) -> dict[str, object]:
    """A signature's own facts, for a program."""
    if isinstance(signature, PartSignature):
        return {"kind": signature.kind.value, "where": signature.where}
    facts: dict[str, object] = {
        "kind": signature.kind.value,
        "domain": signature.domain,
        "selector": signature.selector,
    }
    return facts | ({"hop": signature.hop} if signature.hop else {})
