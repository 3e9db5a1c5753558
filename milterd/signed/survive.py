"""Whether a mail's signatures survive edits: what is hashed before and after, compared.

Nothing is a rule of thumb here.  The edits are applied as every MTA applies them
(:mod:`milterd.core.apply`); a signature survives if it is still there and if what a verifier
would feed to its hash is the same octets as before, in the signature's own canonical form.
What holds for all edits together holds for no part of them: see :meth:`Held.broken`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from milterd.core.actions import AddHeader, ChangeHeader, Edit, InsertHeader, ReplaceBody
from milterd.core.apply import apply
from milterd.core.mail import Body, HeaderField, Mail
from milterd.signed import find, parts
from milterd.signed.canonical import HEADER_FORMS, Header, relaxed
from milterd.signed.dkim_field import SignatureField
from milterd.signed.dkim_hash import hash_body
from milterd.signed.dkim_tags import TagError, octets, tags, without_b
from milterd.signed.signature import FieldSignature, Kind, PartSignature, Signature

_MIME = frozenset({b"content-type", b"content-transfer-encoding", b"mime-version"})
"""Fields that decide how a body is read."""
_TRACE = HeaderField(b"Received", b"", hidden=True)
_CARRIERS = _MIME | {find.DKIM, *find.ARC_SET}


@dataclass(frozen=True, slots=True)
class Survival:
    """One signature, and whether it survives."""

    signature: Signature
    survives: bool


class Held:
    """A mail and the signatures that hold it; what several questions need is made once."""

    def __init__(self, mail: Mail) -> None:
        self.mail = mail
        self.in_header = find.in_header(mail.headers)
        self._header: Header | None = None
        self._forms: dict[int, tuple[list[HeaderField], list[bytes]]] = {}
        self._bodies: dict[tuple[str, int | None], bytes] = {}
        self._in_body: tuple[PartSignature, ...] | None = None
        self._names = frozenset(_names(self.in_header))
        self._below: list[int] | None = None
        self._needed: Counter[bytes] = Counter()

    @property
    def in_body(self) -> tuple[PartSignature, ...]:
        """The signatures in the body, which is read for them once."""
        if self._in_body is None:
            self._in_body = parts.in_body(self.mail.headers, self.mail.body)
        return self._in_body

    def names(self, names: Iterable[bytes]) -> bool:
        """Whether a change to fields of these names might concern a signature: a quick look.
        False is certain."""
        return any(name in self._names or name in _MIME for name in map(bytes.lower, names))

    def free(self, position: int) -> bool:
        """Whether no signature covers the field there, whatever becomes of others of its name
        that are free too.  Looked up, not compared: cheap for a header of any length."""
        if self._below is None:
            self._below = _below(self.mail.headers)
            for each in self.in_header:
                if each.field is not None and not each.fault:
                    self._needed |= Counter(each.field.names)
        name = self.mail.headers[position].name.lower()
        return name not in _CARRIERS and self._below[position] >= self._needed[name]

    def touched(self, edits: Iterable[Edit]) -> bool:
        """The same, of edits."""
        for each in edits:
            match each:
                case ReplaceBody():
                    return True
                case AddHeader() | InsertHeader() | ChangeHeader():
                    if self.names((each.name,)):
                        return True
        return False

    def broken(self, edits: Sequence[Edit]) -> tuple[Signature, ...]:
        """The signatures that the edits, all together, would break.

        One that no verifier can take (see their `fault`) cannot be broken."""
        return self.broken_as(apply(self.mail, edits)) if self.touched(edits) else ()

    def broken_as(self, after: Mail) -> tuple[Signature, ...]:
        """The same, of the mail as the edits leave it; what is not touched is the same object."""
        header = Header(after.headers)
        bodies: dict[tuple[str, int | None], bytes] = {}
        found: list[Signature] = [
            each
            for each in self.in_header
            if not each.fault and not self._survives(each, after, header, bodies)
        ]
        return (*found, *self._broken_parts(after))

    def _broken_parts(self, after: Mail) -> list[PartSignature]:
        if after.body is self.mail.body and _mime(after) == _mime(self.mail):
            return []
        left = Counter(_mark(each) for each in parts.in_body(after.headers, after.body))
        broken = []
        for each in self.in_body:
            left[_mark(each)] -= 1
            if left[_mark(each)] < 0 and not each.fault:
                broken.append(each)
        return broken

    def _survives(
        self,
        signature: FieldSignature,
        after: Mail,
        header: Header,
        bodies: dict[tuple[str, int | None], bytes],
    ) -> bool:
        if signature.kind is Kind.ARC_SEAL:
            return self._seal(signature, after)
        field = signature.field
        assert field is not None  # noqa: S101  # only what has a fault has none
        own = self.mail.headers[signature.position]
        if not any(_same(signature, field, own, each) for each in after.headers):
            return False
        return self._same_fields(signature, field, header) and self._same_body(
            field, after.body, bodies
        )

    def _same_fields(self, signature: FieldSignature, field: SignatureField, after: Header) -> bool:
        if signature.position not in self._forms:
            self._header = self._header or Header(self.mail.headers)
            chosen = self._header.chosen(field.names)
            shape = HEADER_FORMS[field.header_form]
            self._forms[signature.position] = (chosen, [shape(each) for each in chosen])
        before, forms = self._forms[signature.position]
        now = after.chosen(field.names)
        if len(now) != len(before):
            return False
        shape = HEADER_FORMS[field.header_form]
        return all(
            new is old or shape(new) == form
            for new, old, form in zip(now, before, forms, strict=True)
        )

    def _same_body(
        self, field: SignatureField, after: Body, bodies: dict[tuple[str, int | None], bytes]
    ) -> bool:
        if after is self.mail.body:
            return True
        form = (field.body_form, field.length)
        if form not in self._bodies:
            self._bodies[form] = _hash(self.mail.body, *form)
        if form not in bodies:
            bodies[form] = _hash(after, *form)
        return bodies[form] == self._bodies[form] != b""

    def _seal(self, signature: FieldSignature, after: Mail) -> bool:
        before = find.arc_sets(self.mail.headers, signature.hop)
        now = find.arc_sets(after.headers, signature.hop)
        own = self.mail.headers[signature.position]
        if len(before) != len(now):
            return False
        return all(
            new is old or (_bare(new) == _bare(old) and _b(new) == _b(old))
            if old is own
            else relaxed(new) == relaxed(old)
            for new, old in zip(now, before, strict=True)
        )


def as_delivered(mail: Mail) -> Mail:
    """The mail as the MTA has it, which does not show the Received field that it put on top: an
    insertion counts it.  A mail that has a hidden field already is left as it is."""
    if any(each.hidden for each in mail.headers):
        return mail
    return mail.with_headers((_TRACE, *mail.headers))


def predict(mail: Mail, edits: Sequence[Edit]) -> tuple[Survival, ...]:
    """Every signature of the mail, and whether it survives all the edits."""
    held = Held(mail)
    broken = held.broken(edits)
    signatures: tuple[Signature, ...] = (*held.in_header, *held.in_body)
    return tuple(Survival(each, each not in broken) for each in signatures)


def _names(signatures: Iterable[FieldSignature]) -> Iterable[bytes]:
    """The fields that the signatures cover or stand in, in lower case."""
    for each in signatures:
        yield find.DKIM if each.kind is Kind.DKIM else find.ARC_MESSAGE
        if each.kind is not Kind.DKIM:
            yield from find.ARC_SET
        if each.field is not None:
            yield from each.field.names


def _below(fields: Sequence[HeaderField]) -> list[int]:
    """For each field, how many of its name stand under it."""
    seen: Counter[bytes] = Counter()
    counts = []
    for each in reversed(fields):
        name = each.name.lower()
        counts.append(seen[name])
        seen[name] += 1
    return counts[::-1]


def _same(
    signature: FieldSignature, field: SignatureField, own: HeaderField, other: HeaderField
) -> bool:
    """Whether another field is the same signature for a verifier."""
    if other is own:
        return True
    if not other.named(own.name):
        return False
    found = find.read_as(signature.kind, other)
    if not isinstance(found, SignatureField) or found.signature != field.signature:
        return False
    shape = HEADER_FORMS[field.header_form]
    return found == field and shape(_without_b(other)) == shape(_without_b(own))


def _without_b(field: HeaderField) -> HeaderField:
    return HeaderField(field.name, without_b(field.value), field.gap)


def _bare(field: HeaderField) -> bytes:
    return relaxed(_without_b(field))


def _b(field: HeaderField) -> bytes | None:
    try:
        return octets(tags(field.value).get(b"b", b""), "b")
    except TagError:
        return None


def _hash(body: Body, form: str, length: int | None) -> bytes:
    """The hash that `bh=` is of; empty where the body is shorter than `l=`."""
    hashes = hash_body(body, form, () if length is None else (length,))
    return hashes.whole if length is None else hashes.first.get(length, b"")


def _mime(mail: Mail) -> list[HeaderField]:
    return [each for each in mail.headers if each.name.lower() in _MIME]


def _mark(part: PartSignature) -> tuple[Kind, bytes, bytes]:
    return part.kind, part.covered, part.proof
