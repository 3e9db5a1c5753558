"""What the tests of DKIM share: keys, a DNS in memory, and signatures made by hand."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from milterd.core.apply import apply
from milterd.core.mail import Direction, HeaderField, Mail, Session, parse_message
from milterd.filters.dkim import DkimFilter, Signed
from milterd.ports.dkim_dns import Absent, Answer, NoAnswer, Texts
from milterd.ports.dkim_make import store
from milterd.ports.keys import Ed25519Key, RsaKey
from milterd.signed.canonical import Header
from milterd.signed.dkim_hash import covered, digest, hash_body

NOW = 1_763_700_000
RSA = RsaKey(rsa.generate_private_key(65537, 2048))
ED25519 = Ed25519Key(ed25519.Ed25519PrivateKey.generate())
MAIL = (
    b"From: a@example.net\r\nTo: b@example.org\r\nSubject: one\r\n"
    b"Date: Fri, 21 Nov 2025 09:00:00 +0000\r\n\r\nhello\r\n"
)


class Dns:
    """TXT records in memory; `asked` are the names, in order."""

    def __init__(self, records: Mapping[str, str | bytes | Answer]) -> None:
        self.records = dict(records)
        self.asked: list[str] = []

    def texts(self, name: str, limit: float) -> Answer:
        self.asked.append(name)
        if limit <= 0:
            return NoAnswer("no time left for DNS")
        found = self.records.get(name)
        if found is None:
            return Absent(60)
        if isinstance(found, Texts | Absent | NoAnswer):
            return found
        return Texts((found.encode() if isinstance(found, str) else found,), 60)


def write_key(path: Path, key: RsaKey | Ed25519Key) -> Path:
    store(path, key)
    return path


def originating(octets: bytes) -> Mail:
    return dataclasses.replace(
        parse_message(octets), session=Session(direction=Direction.ORIGINATING)
    )


def signed(filter_: DkimFilter, octets: bytes) -> Mail:
    """The mail as the filter signs it."""
    mail = originating(octets)
    facts = filter_.gather(mail)
    assert isinstance(facts, Signed), facts
    return apply(mail, filter_.decide(mail, facts).edits)


def by_hand(
    octets: bytes, key: RsaKey | Ed25519Key = RSA, *, form: str = "relaxed", **tags: str | None
) -> Mail:
    """The mail under a signature with these tags instead of the usual ones; None leaves a tag
    out.  `bh` and `b` are right for what the tags say, unless they are given."""
    mail = parse_message(octets)
    usual: dict[str, str | None] = {
        "v": "1", "a": key.algorithm, "c": f"{form}/{form}", "d": "example.net", "s": "s",
        "t": str(NOW), "h": "from:to:subject:date:from", "bh": None,
    }  # fmt: skip
    length = tags.get("l") or ""
    hashes = hash_body(mail.body, form, [int(length)] if length.isdigit() else [])
    whole = hashes.first.get(int(length), hashes.whole) if length.isdigit() else hashes.whole
    usual["bh"] = base64.b64encode(whole).decode()
    given = {**usual, **tags}
    text = "".join(f" {name}={value};" for name, value in given.items() if value is not None)
    field = HeaderField(b"DKIM-Signature", (text + ("" if "b" in tags else " b=")).encode())
    if "b" not in tags:
        names = [each.strip().lower().encode() for each in (given["h"] or "").split(":")]
        hashed = digest(covered(Header(mail.headers), names, form), field, form)
        value = field.value + base64.b64encode(key.sign(hashed))
        field = HeaderField(field.name, value)
    return mail.with_headers((field, *mail.headers))


def sha256(octets: bytes) -> bytes:
    return hashlib.sha256(octets).digest()
