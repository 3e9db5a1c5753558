"""What signatures cover: an edit said to spare them does, by dkimpy's word."""

from __future__ import annotations

import time

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from milterd.core.actions import (
    AddHeader,
    AddRecipient,
    ChangeHeader,
    Edit,
    InsertHeader,
    Quarantine,
    ReplaceBody,
)
from milterd.core.apply import apply
from milterd.core.mail import BytesBody, HeaderField, Mail, parse_message
from milterd.filters.header_rules.run import Limits, run
from milterd.filters.signatures import breaks, covers
from tests.filters.test_rules import RULES, rule_set

KEY = rsa.generate_private_key(65537, 1024)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM,
    serialization.PrivateFormat.TraditionalOpenSSL,
    serialization.NoEncryption(),
)


def resolve(name: bytes, timeout: int = 5) -> bytes:
    public = KEY.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return b"v=DKIM1; p=" + b"".join(public.splitlines()[1:-1])


def verifies(mail: Mail) -> bool:
    try:
        return bool(dkim.DKIM(b"".join(mail.pieces())).verify(dnsfunc=resolve))
    except dkim.DKIMException:
        return False


NAMES = [b"A", b"B", b"C"]
EDITS = st.one_of(
    st.builds(AddHeader, st.sampled_from(NAMES), st.just(b" new")),
    st.builds(InsertHeader, st.integers(0, 8), st.sampled_from(NAMES), st.just(b" new")),
    st.builds(
        ChangeHeader, st.sampled_from(NAMES), st.integers(0, 4), st.sampled_from([b"", b" new"])
    ),
)


PRESENT = st.lists(st.sampled_from([b"A", b"a", b"B", b"X-1", b"X-Other"]), max_size=6)
NAMED = st.lists(st.sampled_from([b"a", b"b", b"c", b"x-1"]), max_size=5)


def really_signed(present: list[bytes], named: list[bytes]) -> Mail:
    """A mail with these fields and a signature that names those, besides From."""
    fields = [HeaderField(name, b" %d" % at) for at, name in enumerate(present)]
    mail = parse_message(b"From: a@example.net\r\n\r\nbody\r\n")
    mail = mail.with_headers((*fields, *mail.headers))
    field = dkim.DKIM(b"".join(mail.pieces())).sign(
        b"s", b"example.net", PEM, include_headers=[b"from", *named]
    )
    signature = HeaderField(b"DKIM-Signature", field[15:].removesuffix(b"\r\n"))
    mail = mail.with_headers((signature, *mail.headers))
    assert verifies(mail)
    return mail


@settings(max_examples=60)
@given(PRESENT, NAMED, EDITS)
def test_breaks_tells_what_a_verifier_would(
    present: list[bytes], named: list[bytes], edit: Edit
) -> None:
    mail = really_signed(present, named)
    changed = apply(mail, [edit])
    if changed != mail:
        assert breaks(covers(mail), edit) is not verifies(changed)


@settings(max_examples=60)
@given(PRESENT, NAMED, st.lists(RULES, min_size=1, max_size=4))
def test_rules_leave_an_inbound_signature_whole(
    present: list[bytes], named: list[bytes], rules: list[dict[str, object]]
) -> None:
    # A second From is none of the signature's business, but dkimpy refuses it.
    rules = [each | {"header": "A"} if each["header"] == "*" else each for each in rules]
    mail = really_signed(present, named)
    outcome = run([rule_set(*rules)], mail, Limits(10, 10), lambda: 0.0)
    assert verifies(apply(mail, outcome.edits))


SIGNED = parse_message(
    b"DKIM-Signature: v=1; d=x.example; h=From : Subject:\r\n\tsubject:x-a; l=12; b=AA==\r\n"
    b"X-A: top\r\nX-A: bottom\r\nFrom: a@x.example\r\nSubject: one\r\nX-B: free\r\n\r\nbody\r\n"
)


@pytest.mark.parametrize(
    ("edit", "broken"),
    [
        (ChangeHeader(b"x-a", 1, b" new"), False),
        (ChangeHeader(b"X-A", 2, b" new"), True),
        (ChangeHeader(b"X-A", 1, b""), False),
        (ChangeHeader(b"X-A", 2, b""), True),
        (ChangeHeader(b"X-A", 3, b""), False),
        (ChangeHeader(b"X-A", 3, b" new"), True),
        (ChangeHeader(b"X-B", 1, b""), False),
        (ChangeHeader(b"DKIM-Signature", 1, b""), True),
        (AddHeader(b"X-A", b" new"), True),
        (AddHeader(b"X-C", b" new"), False),
        (InsertHeader(0, b"X-A", b" new"), False),
        (InsertHeader(0, b"SUBJECT", b" new"), True),
        (InsertHeader(9, b"X-A", b" new"), True),
        (ReplaceBody(BytesBody(b"x")), True),
        (Quarantine(b"x"), False),
        (AddRecipient(b"a@b.example"), False),
    ],
)
def test_single_edits(edit: Edit, *, broken: bool) -> None:
    assert breaks(covers(SIGNED), edit) is broken


def test_what_is_read() -> None:
    (signature,) = covers(SIGNED).signatures
    assert signature.domain == "x.example"
    assert signature.names == {b"from": 1, b"subject": 2, b"x-a": 1}
    assert signature.body_length == 12


def test_nothing_is_covered_without_a_signature() -> None:
    mail = parse_message(b"From: a@b.example\r\nX: 1\r\n\r\nx")
    edits = [ChangeHeader(b"From", 1, b""), AddHeader(b"X", b""), ReplaceBody(BytesBody(b""))]
    assert not any(breaks(covers(mail), each) for each in edits)


def test_an_arc_set_is_covered() -> None:
    mail = parse_message(
        b"ARC-Seal: i=1; cv=none; d=l.example; s=s; b=AA==\r\n"
        b"ARC-Message-Signature: i=1; d=l.example; h=from:subject; bh=; b=\r\n"
        b"ARC-Authentication-Results: i=1; l.example; spf=pass\r\n"
        b"From: a@b.example\r\nSubject: 1\r\nX: 1\r\n\r\nx"
    )
    coverage = covers(mail)
    found = [each.name for at, each in enumerate(mail.headers) if coverage.covers_field(at)]
    assert found == [each.name for each in mail.headers[:-1]]
    assert not breaks(coverage, InsertHeader(0, b"ARC-Seal", b" i=2"))


@pytest.mark.parametrize(
    "value", [b"", b"v=1", b"h", b"v=1; h=" + b"a:" * 10_000, b";" * 1000, b"h=a; h=b\xff;=;x"]
)
def test_odd_signatures_are_read_carefully(value: bytes) -> None:
    mail = parse_message(b"DKIM-Signature: " + value + b"\r\na: 1\r\nFrom: a@b.example\r\n\r\n")
    assert covers(mail).covers_field(1)


def test_many_signatures_cover_everything() -> None:
    mail = parse_message(b"DKIM-Signature: v=1; h=from\r\n" * 51 + b"X: 1\r\n\r\n")
    assert covers(mail).covers_field(51)


def test_time_is_linear() -> None:
    mail = parse_message(b"DKIM-Signature: v=1; h=a:a:b\r\n" + b"a: 1\r\n" * 20_000 + b"\r\n")
    began = time.process_time()
    coverage = covers(mail)
    assert sum(coverage.covers_field(at) for at in range(20_001)) == 3
    assert time.process_time() - began < 1


@given(st.binary(max_size=100))
def test_any_octets_are_read(value: bytes) -> None:
    field = HeaderField(b"DKIM-Signature", value)
    covers(Mail(headers=(field,))).covers_addition(b"a", 0)
