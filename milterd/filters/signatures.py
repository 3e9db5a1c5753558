"""What the signatures a mail already carries cover, so that an edit can spare them.

Reads DKIM-Signature (RFC 6376) and the ARC fields (RFC 8617).  Nothing is
verified: whatever claims to be a signature is treated as one, so an answer may
be too careful, never too bold.  Edits that :func:`breaks` finds harmless one by
one are so together, as long as each still means the field it meant alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from milterd.core.actions import (
    AddHeader,
    ChangeHeader,
    Edit,
    InsertHeader,
    ReplaceBody,
)
from milterd.core.mail import HeaderField, Mail

SIGNATURE_LIMIT = 50
"""Signatures read from one mail; beyond, every field counts as covered."""
TAGS_LIMIT = 16_384
"""Octets of the longest signature field read; a longer one covers every field."""

ARC_SEAL = b"arc-seal"
ARC_FIELDS = (ARC_SEAL, b"arc-message-signature", b"arc-authentication-results")
_SIGNING = (b"dkim-signature", b"arc-message-signature")


@dataclass(frozen=True, slots=True)
class Signature:
    """What one signature covers.

    `names` counts the mentions in `h=`, in lower case; None stands for every
    field there is.  `body_length` is `l=`, or None for the whole body.
    """

    domain: str
    names: Counter[bytes] | None
    body_length: int | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """The signatures of a mail, and which fields they pin down.

    `needed` is, for each field name in lower case, how many instances of it,
    counted from the bottom, some signature covers; it may be more than there
    are, which forbids adding one.  `below` counts, for each field, those of the
    same name under it.
    """

    fields: tuple[HeaderField, ...]
    signatures: tuple[Signature, ...]
    needed: Counter[bytes]
    everything: bool
    below: tuple[int, ...]

    def covers_field(self, position: int) -> bool:
        """Whether the field at `position` in `fields`, from 0, must stay as it is."""
        name = self.fields[position].name.lower()
        if name in _SIGNING or name in ARC_FIELDS:
            return True
        return self.everything or self.below[position] < self.needed[name]

    def covers_addition(self, name: bytes, position: int) -> bool:
        """Whether another field of that name, put in at `position`, would break a signature.

        It does so where fewer instances stand under it than some signature covers.
        """
        needed = self.needed[name.lower()]
        if self.everything or not needed:
            return self.everything
        return needed > sum(1 for each in self.fields[position:] if each.named(name))


def covers(mail: Mail) -> Coverage:
    """Read the signatures of a mail.  Bounded in time; never raises."""
    fields = mail.headers
    found = [each for each in fields if each.name.lower() in _SIGNING]
    signatures = [_read(each) for each in found[:SIGNATURE_LIMIT]]
    everything = len(found) > SIGNATURE_LIMIT or any(each.names is None for each in signatures)
    needed: Counter[bytes] = Counter()
    for each in signatures:
        needed |= each.names or Counter()
    return Coverage(fields, tuple(signatures), needed, everything, _below(fields))


def _below(fields: tuple[HeaderField, ...]) -> tuple[int, ...]:
    """For each field, how many of its name stand under it."""
    seen: Counter[bytes] = Counter()
    counts = []
    for each in reversed(fields):
        name = each.name.lower()
        counts.append(seen[name])
        seen[name] += 1
    return tuple(reversed(counts))


def breaks(coverage: Coverage, edit: Edit) -> bool:
    """Whether this edit of the mail as it came would break a signature."""
    match edit:
        case AddHeader(name, _):
            return coverage.covers_addition(name, len(coverage.fields))
        case InsertHeader(index, name, _):
            return coverage.covers_addition(name, index)
        case ChangeHeader(name, index, value):
            position = _position(coverage.fields, name, index or 1)
            if position is not None:
                return coverage.covers_field(position)
            return bool(value) and coverage.covers_addition(name, len(coverage.fields))
        case ReplaceBody():
            return any(each.body_length != 0 for each in coverage.signatures)
        case _:
            return False


def _position(fields: Iterable[HeaderField], name: bytes, nth: int) -> int | None:
    for position, each in enumerate(fields):
        if not each.hidden and each.named(name):
            nth -= 1
            if nth == 0:
                return position
    return None


_TAG = re.compile(rb"([A-Za-z][A-Za-z0-9_]*+)\s*+=([^;]*+)")
_SPACE = re.compile(rb"\s+")


def _read(field: HeaderField) -> Signature:
    """What a signature field says it covers (RFC 6376 section 3.5)."""
    if len(field.value) > TAGS_LIMIT:
        return Signature("", None)
    tags: dict[bytes, bytes] = {}
    for each in field.value.split(b";"):
        match = _TAG.fullmatch(each.strip())
        if match is not None:
            tags.setdefault(match[1], _SPACE.sub(b"", match[2]))
    if b"h" not in tags:
        return Signature("", None)
    names = Counter(each.lower() for each in tags[b"h"].split(b":"))
    length = tags.get(b"l", b"")
    return Signature(
        tags.get(b"d", b"").decode("ascii", "replace"),
        names,
        int(length) if length.isdigit() and len(length) <= 20 else None,
    )
