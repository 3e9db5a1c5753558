"""A DKIM-Signature field, read strictly (RFC 6376 section 3.5, RFC 8463); one of ARC likewise."""

from __future__ import annotations

from dataclasses import dataclass

from milterd.core.mail import HeaderField
from milterd.signed.dkim_names import is_domain, is_within, key_name
from milterd.signed.dkim_tags import TagError, octets, tags, words

FIELD_LIMIT = 65_536
"""Octets of the longest signature field that is read."""
NAMES_LIMIT = 2_000
"""Names of the longest `h=` that is read."""
ALGORITHMS = {"rsa-sha256": "rsa", "ed25519-sha256": "ed25519", "rsa-sha1": "rsa"}
"""What `a=` may be, and the `k=` of its key."""
_DIGITS = 12
"""Of the largest number of seconds; section 3.5 asks for that many."""
_LENGTH_DIGITS = 76


class FieldError(ValueError):
    """A signature that can never be good; the text says why and quotes nothing."""


@dataclass(frozen=True, slots=True)
class SignatureField:
    """What a signature says of itself.

    `names` are those of `h=` in lower case; `length` is `l=`; `made` and `expires` are seconds
    since the epoch.  `header_form` and `body_form` are "simple" or "relaxed".
    """

    domain: str
    selector: str
    algorithm: str
    signature: bytes
    body_hash: bytes
    names: tuple[bytes, ...]
    identity: bytes
    header_form: str = "simple"
    body_form: str = "simple"
    length: int | None = None
    made: int | None = None
    expires: int | None = None

    @property
    def key_name(self) -> str:
        """Where its key is published."""
        return f"{self.selector}._domainkey.{self.domain}".lower()

    @property
    def identity_domain(self) -> str:
        """The domain of `i=`, in lower case."""
        return self.identity.rpartition(b"@")[2].decode("ascii", "replace").lower()


def read(field: HeaderField) -> SignatureField:
    """Raises FieldError."""
    if len(field.value) > FIELD_LIMIT:
        raise FieldError(f"longer than {FIELD_LIMIT} octets")
    try:
        return _read(tags(field.value))
    except TagError as error:
        raise FieldError(str(error)) from None


def read_arc(field: HeaderField) -> SignatureField:
    """An ARC-Message-Signature: DKIM's but for `v=`, and `i=`, which counts hops (RFC 8617
    section 4.1.2).  Raises FieldError."""
    if len(field.value) > FIELD_LIMIT:
        raise FieldError(f"longer than {FIELD_LIMIT} octets")
    try:
        found = tags(field.value)
        return _read({each: found[each] for each in found if each != b"i"} | {b"v": b"1"})
    except TagError as error:
        raise FieldError(str(error)) from None


@dataclass(frozen=True, slots=True)
class Seal:
    """An ARC-Seal: its key and octets as those of a signature that names no fields, and whether
    it says that the chain had failed before it (`cv=fail`)."""

    signature: SignatureField
    failed: bool


def read_seal(field: HeaderField) -> Seal:
    """RFC 8617 section 4.1.3.  Raises FieldError."""
    if len(field.value) > FIELD_LIMIT:
        raise FieldError(f"longer than {FIELD_LIMIT} octets")
    try:
        found = tags(field.value)
        for name in (b"a", b"b", b"cv", b"d", b"s"):
            if not found.get(name):
                raise FieldError(f"{name.decode('ascii')}= is missing or empty")
        if _text(found, b"a") not in ALGORITHMS:
            raise FieldError("a= is not known")
        domain, selector = _text(found, b"d").lower(), _text(found, b"s")
        if key_name(domain, selector) is None:
            raise FieldError("d= and s= are no name in DNS")
        own = octets(found[b"b"], "b")
    except TagError as error:
        raise FieldError(str(error)) from None
    signature = SignatureField(
        domain, selector, _text(found, b"a"), own, b"", (), b"@" + domain.encode("ascii")
    )
    return Seal(signature, _text(found, b"cv").lower() == "fail")


def claimed(field: HeaderField) -> tuple[str, str]:
    """Domain and selector of a field that may be malformed, for a report; empty where unknown."""
    try:
        found = tags(field.value[:FIELD_LIMIT])
    except TagError:
        return "", ""
    domain = found.get(b"d", b"").decode("ascii", "replace").lower()
    selector = found.get(b"s", b"").decode("ascii", "replace")
    return (domain if is_domain(domain) else "", selector if is_domain(selector) else "")


def _read(found: dict[bytes, bytes]) -> SignatureField:
    for name in (b"v", b"a", b"b", b"bh", b"d", b"h", b"s"):
        if not found.get(name):
            raise FieldError(f"{name.decode('ascii')}= is missing or empty")
    if found[b"v"] != b"1":
        raise FieldError("v= is not 1")
    algorithm = _text(found, b"a")
    if algorithm not in ALGORITHMS:
        raise FieldError("a= is not known")
    if b"dns/txt" not in (each.lower() for each in words(found.get(b"q", b"dns/txt"))):
        raise FieldError("q= does not have dns/txt")
    domain, selector = _text(found, b"d").lower(), _text(found, b"s")
    if key_name(domain, selector) is None:
        raise FieldError("d= and s= are no name in DNS")
    header_form, body_form = _forms(_text(found, b"c", "simple/simple"))
    made, expires = _number(found, b"t", _DIGITS), _number(found, b"x", _DIGITS)
    if made is not None and expires is not None and expires < made:
        raise FieldError("x= is before t=")
    return SignatureField(
        domain, selector, algorithm, octets(found[b"b"], "b"), octets(found[b"bh"], "bh"),
        _names(found[b"h"]), _identity(found, domain), header_form, body_form,
        _number(found, b"l", _LENGTH_DIGITS), made, expires,
    )  # fmt: skip


def _text(found: dict[bytes, bytes], name: bytes, default: str = "") -> str:
    return found.get(name, default.encode("ascii")).decode("ascii", "replace")


def _forms(text: str) -> tuple[str, str]:
    header, _, body = text.partition("/")
    forms = (header.lower(), (body or "simple").lower())
    if not {*forms} <= {"simple", "relaxed"}:
        raise FieldError("c= is not known")
    return forms


def _names(value: bytes) -> tuple[bytes, ...]:
    if value.count(b":") >= NAMES_LIMIT:
        raise FieldError(f"h= has more than {NAMES_LIMIT} names")
    names = tuple(each.lower() for each in words(value))
    if b"from" not in names:
        raise FieldError("h= does not have From")
    return names


def _identity(found: dict[bytes, bytes], domain: str) -> bytes:
    identity = found.get(b"i", b"@" + domain.encode("ascii"))
    at = identity.rpartition(b"@")
    below = at[2].decode("ascii", "replace").lower()
    if not at[1] or not is_domain(below) or not is_within(below, domain):
        raise FieldError("i= is not within d=")
    return identity


def _number(found: dict[bytes, bytes], name: bytes, digits: int) -> int | None:
    value = found.get(name)
    if value is None:
        return None
    if not value.isdigit() or len(value) > digits:
        raise FieldError(f"{name.decode('ascii')}= is not a number")
    return int(value)
