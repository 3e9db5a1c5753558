"""What signatures cover: an edit said to spare them does, by dkimpy's word."""

from __future__ import annotations

import dkim
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from milterd.core.actions import (
    AddHeader,
    ChangeHeader,
    Edit,
    InsertHeader,
)
from milterd.core.apply import apply
from milterd.core.mail import HeaderField, Mail, parse_message
from milterd.filters.header_rules.run import Limits, run
from milterd.signed.survive import predict
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
        (found,) = predict(mail, [edit])
        assert found.survives is verifies(changed)


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
