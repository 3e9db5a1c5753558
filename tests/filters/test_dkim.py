"""Signatures as other people's verifiers see them."""

from __future__ import annotations

import dataclasses
import os
import random
import re
import tempfile
import tracemalloc
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from milterd.core.apply import apply
from milterd.core.mail import (
    BytesBody,
    Direction,
    FileBody,
    HeaderField,
    Mail,
    Session,
    body_octets,
    parse_message,
)
from milterd.filters.dkim import (
    AT_ONCE,
    HEADER_AT_ONCE,
    DkimFilter,
    DkimOptions,
    NotSigned,
    Signed,
    SigningKey,
)
from tests.filters.verifiers import Verifiers

NOW = 1_763_700_000.7
BOTH = {"r": "pass", "e": "pass"}


def write_key(path: Path, key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> Path:
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[SigningKey, ...]:
    directory = tmp_path_factory.mktemp("keys")
    slow = write_key(directory / "r.pem", rsa.generate_private_key(65537, 2048))
    fast = write_key(directory / "e.pem", ed25519.Ed25519PrivateKey.generate())
    return (SigningKey("Example.NET", "r", slow), SigningKey("example.net", "e", fast))


@pytest.fixture(scope="module")
def signer(rows: tuple[SigningKey, ...]) -> DkimFilter:
    return DkimFilter(DkimOptions(rows), lambda: NOW)


@pytest.fixture(scope="module")
def verifiers(signer: DkimFilter, tmp_path_factory: pytest.TempPathFactory) -> Verifiers:
    return Verifiers(signer, tmp_path_factory.mktemp("verifiers"))


HEADER = (
    b"Received: from a (b [192.0.2.1])\r\n\tby c; Fri, 21 Nov 2025 09:00:00 +0000\r\n"
    b"From: =?utf-8?q?J=C3=BCrgen?= (a (nested) comment)\r\n <juergen@EXAMPLE.net>\r\n"
    b"To: b@example.org,\r\n\tc@example.org\r\n"
    b"Subject:  two   spaces \t and\r\n\t a fold \r\n"
    b"Date: Fri, 21 Nov 2025 09:00:00 +0000\r\nMessage-ID: <1@example.net>\r\n"
    b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
)


def mail_of(body: bytes, header: bytes = HEADER) -> Mail:
    mail = parse_message(header + b"\r\n" + body)
    return dataclasses.replace(mail, session=Session(direction=Direction.ORIGINATING))


def signed(signer: DkimFilter, mail: Mail) -> Mail:
    facts = signer.gather(mail)
    assert isinstance(facts, Signed), facts
    return apply(mail, signer.decide(mail, facts).edits)


def sent(mail: Mail) -> bytes:
    """The octets that a verifier will get: the last line has its end."""
    octets = b"".join(mail.pieces())
    return octets if octets.endswith(b"\r\n") else octets + b"\r\n"


BODIES = {
    "empty": b"",
    "one line end": b"\r\n",
    "only line ends": b"\r\n\r\n\r\n",
    "no line end": b"text",
    "no line end after white space": b"text \t ",
    "white space alone": b" \t",
    "lines of white space alone": b" \r\n\t\r\n \t \r\n",
    "trailing blank lines": b"text\r\n\r\n\r\n",
    "trailing lines of white space": b"text\r\n \r\n\t\t\r\n",
    "leading blank lines": b"\r\n\r\ntext\r\n",
    "blank lines inside": b"a\r\n\r\n\r\n \r\nb\r\n",
    "white space inside and at ends": b"  a \t b\t\tc \t\r\n\td\r\n",
    "dots": b".\r\n..\r\n. \r\n",
    "8-bit": "Grüße, £5\r\n".encode() + b"\xff\xfe\x80\r\n",
    "long line": b"x" * 5000 + b"\r\n",
    "long white space": b"x" + b" \t" * 5000 + b"y" + b" " * 5000 + b"\r\n",
    "looks like a header": b"Subject: other\r\nDKIM-Signature: v=1\r\n\r\nx\r\n",
    "large": b"".join(b"line %d  of a body \t \r\n" % each for each in range(20_000)),
}


def test_both_verifiers_pass_every_body(signer: DkimFilter, verifiers: Verifiers) -> None:
    messages = [sent(signed(signer, mail_of(each))) for each in BODIES.values()]
    by_opendkim = dict(zip(BODIES, verifiers.opendkim(messages), strict=True))
    assert by_opendkim == dict.fromkeys(BODIES, BOTH)
    by_perl = dict(zip(BODIES, verifiers.mail_dkim(messages), strict=True))
    assert {key: each["r"] for key, each in by_perl.items()} == dict.fromkeys(BODIES, "pass")


HEADERS = {
    "only From": b"From: a@example.net\r\n",
    "no space after colons": b"From:a@example.net\r\nSubject:x\r\nTo:\r\n",
    "8-bit": "From: a@example.net\r\nSubject: Grüße\r\n".encode() + b"To: \xe4 <b@c.example>\r\n",
    "fields twice": b"Subject: 1\r\nFrom: a@example.net\r\nSubject: 2\r\n"
    b"To: b@c.example\r\nTo: d@e.f\r\n",
    "odd folds": b"From: a@example.net\r\nSubject:\r\n x\r\n \r\n y\r\n\t\r\n",
    "odd case": b"FROM: a@example.net\r\nsUBJECT: x\r\ncontent-TYPE: text/plain\r\n",
    "lists": b"From: a@example.net\r\nList-Id: <x>\r\nList-Unsubscribe: <mailto:a@b.c>\r\n",
    "resent": b"Resent-From: z@c.example\r\nFrom: a@example.net\r\nResent-From: y@c.example\r\n",
    "signed before": b"DKIM-Signature: v=1; a=rsa-sha256; d=x.example; s=z; h=from; bh=AA==;\r\n"
    b" b=AA==\r\nFrom: a@example.net\r\n",
    "no separator": b"From: a@example.net\r\nSubject: x\r\n",
    "long": b"From: a@example.net\r\nReferences: " + b" <12345@example.net>\r\n" * 200,
}


def test_both_verifiers_pass_every_header(signer: DkimFilter, verifiers: Verifiers) -> None:
    mails = {key: mail_of(b"text\r\n", each) for key, each in HEADERS.items()}
    bare = mails["no separator"]
    mails["no separator"] = dataclasses.replace(bare, separator=b"", body=BytesBody())
    messages = [sent(signed(signer, each)) for each in mails.values()]
    for found, key in zip(verifiers.opendkim(messages), HEADERS, strict=True):
        assert {each: found.get(each) for each in BOTH} == BOTH, key
    for found, key in zip(verifiers.mail_dkim(messages), HEADERS, strict=True):
        assert found.get("r") == "pass", key


def test_dkimpy_passes_too(signer: DkimFilter) -> None:
    octets = sent(signed(signer, mail_of(BODIES["blank lines inside"])))
    records = {f"{name}.": record for name, record in signer.records().items()}

    def resolve(name: bytes, timeout: int = 5) -> bytes | None:
        record = records.get(name.decode())
        return record.encode() if record else None

    assert dkim.DKIM(octets).verify(dnsfunc=resolve)
    changed = octets.replace(b"two   spaces", b"2   spaces")
    assert not dkim.DKIM(changed).verify(dnsfunc=resolve)


ADDED = (
    b"From: boss@bank.example",
    b"From : boss@bank.example",
    b"Sender: boss@bank.example",
    b"Reply-To: boss@bank.example",
    b"To: all@example.org",
    b"Cc: all@example.org",
    b"Subject: other",
    b"Date: Thu, 20 Nov 2025 09:00:00 +0000",
    b"Message-ID: <2@example.net>",
    b"In-Reply-To: <2@example.net>",
    b"References: <2@example.net>",
    b"MIME-Version: 1.0",
    b"Content-Type: text/html",
    b"Content-Transfer-Encoding: base64",
)


@pytest.mark.parametrize("below", [False, True])
def test_no_field_that_can_be_forged_can_be_added(
    signer: DkimFilter, verifiers: Verifiers, *, below: bool
) -> None:
    mail = signed(signer, mail_of(b"text\r\n"))
    head, body = mail.head().removesuffix(b"\r\n"), b"\r\ntext\r\n"
    forged = [
        head + each + b"\r\n" + body if below else each + b"\r\n" + head + body for each in ADDED
    ]
    harmless = b"X-Other: field\r\nReceived: from x by y; now\r\n" + head + body
    by_perl, by_opendkim = verifiers.mail_dkim([*forged, harmless]), verifiers.opendkim(forged)
    assert by_perl[-1]["r"] == "pass"
    for each, perl, opendkim in zip(ADDED, by_perl, by_opendkim, strict=False):
        assert perl["r"].startswith("fail"), each
        assert "pass" not in opendkim.values(), each


def test_every_octet_of_the_body_counts(signer: DkimFilter, verifiers: Verifiers) -> None:
    body = b"One line\r\nand another, \xc3\xa4\r\n\r\nlast\r\n"
    mail = signed(signer, mail_of(body))
    head = mail.head()
    texts = [at for at, octet in enumerate(body) if octet not in b" \r\n"]
    changed = [body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :] for at in texts]
    changed += [
        body[:-2] + b"x\r\n",
        b"x" + body,
        body + b"appended\r\n",
        body[:-6],
        b"\r\n" + body,
    ]
    messages = [head + each for each in [*changed, body]]
    by_perl, by_opendkim = verifiers.mail_dkim(messages), verifiers.opendkim(messages)
    assert by_perl.pop()["r"] == "pass"
    assert by_opendkim.pop() == BOTH
    assert all(each["r"].startswith("fail") for each in by_perl)
    assert all("pass" not in each.values() for each in by_opendkim)


def test_removing_or_changing_a_signed_field_breaks_it(
    signer: DkimFilter, verifiers: Verifiers
) -> None:
    mail = signed(signer, mail_of(b"text\r\n"))
    messages = []
    for at, each in enumerate(mail.headers):
        if each.name in (b"DKIM-Signature", b"Received"):
            continue
        other = (*mail.headers[:at], *mail.headers[at + 1 :])
        messages.append(sent(mail.with_headers(other)))
        edited = HeaderField(each.name, each.value + b"x")
        messages.append(
            sent(mail.with_headers((*mail.headers[:at], edited, *mail.headers[at + 1 :])))
        )
    assert all(each["r"].startswith("fail") for each in verifiers.mail_dkim(messages))
    assert all("pass" not in each.values() for each in verifiers.opendkim(messages))


def test_the_signature_field_is_well_formed(signer: DkimFilter) -> None:
    first, second, *rest = signed(signer, mail_of(b"text\r\n")).headers
    assert [each.raw for each in rest] == [each.raw for each in mail_of(b"").headers]
    for field, algorithm in ((first, b"rsa-sha256"), (second, b"ed25519-sha256")):
        assert field.name == b"DKIM-Signature"
        assert all(len(line.expandtabs()) <= 76 for line in field.raw.split(b"\r\n"))
        assert re.fullmatch(rb"(?:[ -~]|\r\n\t(?! )|\t)+", field.value)
        tags = dict(re.findall(rb"(\w+)=([^;]*)", re.sub(rb"\s", b"", field.value)))
        assert tags[b"a"] == algorithm
        assert tags[b"c"] == b"relaxed/relaxed"
        assert tags[b"t"] == b"1763700000"
        assert not {b"x", b"l", b"i", b"z"} & set(tags)
        names = tags[b"h"].split(b":")
        assert (names.count(b"from"), names.count(b"subject"), names.count(b"cc")) == (2, 2, 1)


def test_a_lifetime_sets_the_expiry(rows: tuple[SigningKey, ...]) -> None:
    signer = DkimFilter(DkimOptions(rows, lifetime=604_800), lambda: NOW)
    for field in signed(signer, mail_of(b"x\r\n")).headers[:2]:
        assert b"t=1763700000; x=1764304800;" in field.value.replace(b"\r\n\t", b" ")


def test_a_spooled_body_is_signed_like_one_in_memory(signer: DkimFilter) -> None:
    body = random.Random(1).randbytes(300_000).replace(b"\n", b"\r\n")
    with tempfile.TemporaryFile() as file:
        file.write(b"before" + body)
        file.flush()
        view = FileBody(file, 6, len(body))
        mail = mail_of(body)
        assert body_octets(mail.body) == body
        assert signer.gather(dataclasses.replace(mail, body=view)) == signer.gather(mail)


@pytest.mark.parametrize(
    ("header", "why"),
    [
        (b"Subject: x\r\n", "no-from"),
        (b"From: a@example.net\r\nFrom: a@example.net\r\n", "several-from"),
        (b"From: a@example.net\r\nFrom : b@bank.example\r\n", "several-from"),
        (b"From: a@example.net, b@example.net\r\n", "several-authors"),
        (b"From: group: a@example.net;\r\n", "unreadable-from"),
        (b"From: a@example.net <b@bank.example>\r\n", "unreadable-from"),
        (b"From: <a@example.net>b@bank.example\r\n", "unreadable-from"),
        (b"From:\r\n", "unreadable-from"),
        (b"From: " + b"(" * 2000 + b" a@example.net\r\n", "unreadable-from"),
        ("From: a@exämple.net\r\n".encode(), "unreadable-from"),
        (b"From: a@example.org\r\n", "no-key"),
        (b"From: a@sub.example.net\r\n", "no-key"),
        (b"From: a@net\r\n", "no-key"),
        (b"From: a@example.net.example.org\r\n", "no-key"),
        (b"From: a@[192.0.2.1]\r\n", "no-key"),
        (b"From: a@example.net\r\n" + b"Subject: x\r\n" * 300, "too-many-fields"),
    ],
)
def test_what_is_not_signed(signer: DkimFilter, header: bytes, why: str) -> None:
    mail = mail_of(b"x\r\n", header)
    facts = signer.gather(mail)
    assert isinstance(facts, NotSigned)
    assert facts.why == why
    decision = signer.decide(mail, facts)
    assert decision.edits == ()
    assert decision.reasons[0].facts["why"] == why


def test_inbound_mail_is_never_signed(signer: DkimFilter) -> None:
    mail = dataclasses.replace(mail_of(b"x\r\n"), session=Session())
    assert signer.gather(mail) == NotSigned("inbound")


def test_mail_is_signed_at_once_unless_it_is_long(signer: DkimFilter) -> None:
    mail, unsigned = mail_of(b"x\r\n"), mail_of(b"x\r\n", b"Subject: of nobody\r\n")
    for each in (mail, unsigned, dataclasses.replace(mail, session=Session())):
        assert signer.at_once(each) == signer.gather(each) is not None
    assert isinstance(signer.at_once(mail), Signed)
    assert signer.at_once(mail_of(b"x" * AT_ONCE)) is not None
    assert signer.at_once(mail_of(b"x" * (AT_ONCE + 1))) is None
    room = HEADER_AT_ONCE - sum(len(each.name) + len(each.value) for each in mail.headers)
    for more, at_once in ((room, True), (room + 1, False)):
        header = HEADER + b"X:" + b"x" * (more - 1) + b"\r\n"
        assert (signer.at_once(mail_of(b"x\r\n", header)) is not None) is at_once


def test_a_row_for_subdomains_serves_them_unless_one_is_nearer(
    rows: tuple[SigningKey, ...], verifiers: Verifiers
) -> None:
    table = (
        dataclasses.replace(rows[0], subdomains=True),
        SigningKey("near.example.net", "e", rows[1].key),
    )
    signer = DkimFilter(DkimOptions(table), lambda: NOW)

    def domain(author: bytes) -> str:
        facts = signer.gather(mail_of(b"", b"From: " + author + b"\r\n"))
        return facts.domain if isinstance(facts, Signed) else facts.why

    assert domain(b"a@example.net") == "example.net"
    assert domain(b"a@x.y.Example.net") == "example.net"
    assert domain(b"a@near.example.net") == "near.example.net"
    assert domain(b"a@x.near.example.net") == "example.net"
    assert domain(b"a@notexample.net") == "no-key"
    below = signed(signer, mail_of(b"text\r\n", b"From: a@x.example.net\r\n"))
    assert verifiers.opendkim([sent(below)])[0]["r"] == "pass"


def test_a_mail_with_hidden_fields_is_signed_as_it_is_shown(
    signer: DkimFilter, verifiers: Verifiers
) -> None:
    mail = mail_of(b"text\r\n")
    ours = HeaderField(b"Received", b" from x by gateway; now", hidden=True)
    mail = mail.with_headers((ours, *mail.headers))
    result = signed(signer, mail)
    assert [each.name for each in result.headers[:3]] == [b"DKIM-Signature"] * 2 + [b"Received"]
    assert verifiers.opendkim([sent(result)]) == [BOTH]


def test_signing_does_not_use_memory_for_the_body(signer: DkimFilter, tmp_path: Path) -> None:
    """A sparse file of 64 MiB is hashed in pieces: the peak stays far below its size."""
    path = tmp_path / "body"
    path.touch()
    os.truncate(path, 64 << 20)
    with path.open("rb") as file:
        mail = dataclasses.replace(mail_of(b""), body=FileBody(file, 0, 64 << 20))
        tracemalloc.start()
        try:
            assert isinstance(signer.gather(mail), Signed)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert peak < 2 << 20
