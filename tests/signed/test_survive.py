"""Which edits signatures survive, single ones: every kind of signature and of edit."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.actions import AddHeader, ChangeHeader, Edit, InsertHeader, ReplaceBody
from milterd.core.mail import BytesBody, HeaderField, Mail, body_octets, parse_message
from milterd.signed import find, parts
from milterd.signed.keep import EXACT_WORK, Guard, OnSigned, Wish, keep
from milterd.signed.signature import FieldSignature, Kind
from milterd.signed.survive import predict
from tests.filters.dkim_world import MAIL, by_hand

SIGNED = by_hand(
    b"X-A: top\r\nX-A: bottom\r\nX-B: free\r\n" + MAIL + b"  two  \r\n\r\n",
    h="from:subject:subject:x-a:from",
)


def survivors(mail: Mail, *edits: Edit) -> list[bool]:
    return [each.survives for each in predict(mail, edits)]


@pytest.mark.parametrize(
    ("edit", "survives"),
    [
        (ChangeHeader(b"x-a", 1, b" new"), True),
        (ChangeHeader(b"X-A", 2, b" new"), False),
        (ChangeHeader(b"X-A", 2, b"  bottom\r\n\t"), True),
        (ChangeHeader(b"X-A", 1, b""), True),
        (ChangeHeader(b"X-A", 2, b""), False),
        (ChangeHeader(b"X-A", 3, b""), True),
        (ChangeHeader(b"X-A", 3, b" new"), False),
        (ChangeHeader(b"X-B", 1, b""), True),
        (ChangeHeader(b"DKIM-Signature", 1, b""), False),
        (ChangeHeader(b"Subject", 1, b"  one"), True),
        (AddHeader(b"X-A", b" new"), False),
        (AddHeader(b"X-A", b" bottom"), True),
        (AddHeader(b"X-C", b" new"), True),
        (InsertHeader(0, b"X-A", b" new"), True),
        (InsertHeader(0, b"SUBJECT", b" new"), False),
        (InsertHeader(9, b"X-A", b" new"), False),
        (ReplaceBody(BytesBody(b"x")), False),
        (ReplaceBody(BytesBody(b"hello\r\n two\r\n")), True),
    ],
)
def test_single_edits(edit: Edit, *, survives: bool) -> None:
    # A field named twice that is there once, and put in again as it was: nobody can tell.
    assert survivors(SIGNED, edit) == [survives]


def test_two_edits_that_only_together_leave_it_whole() -> None:
    away, back = ChangeHeader(b"Subject", 1, b""), AddHeader(b"Subject", b" one")
    assert survivors(SIGNED, away) == [False]
    assert survivors(SIGNED, back) == [False]
    assert survivors(SIGNED, away, back) == [True]


def test_the_simple_form_sees_every_octet() -> None:
    mail = by_hand(MAIL, form="simple")
    assert survivors(mail, ChangeHeader(b"Subject", 1, b"  one")) == [False]
    assert survivors(mail, ChangeHeader(b"Subject", 1, b" one")) == [True]
    body = body_octets(mail.body)
    assert survivors(mail, ReplaceBody(BytesBody(body + b"\r\n\r\n"))) == [True]
    assert survivors(mail, ReplaceBody(BytesBody(body.replace(b"o\r", b"o \r")))) == [False]


def test_a_length_covers_no_more_than_it_says() -> None:
    mail = by_hand(MAIL + b"a list's footer\r\n", l="7")
    assert survivors(mail, ReplaceBody(BytesBody(b"hello\r\nanother\r\n"))) == [True]
    assert survivors(mail, ReplaceBody(BytesBody(b"hullo\r\n"))) == [False]
    assert survivors(mail, ReplaceBody(BytesBody(b"hell"))) == [False]


def test_a_signature_put_in_anew_as_it_was_is_the_same_one() -> None:
    field = SIGNED.headers[0]
    away = ChangeHeader(field.name, 1, b"")
    assert survivors(SIGNED, away, AddHeader(field.name, b" " + field.value)) == [True]
    other = field.value.replace(b"d=example.net", b"d=example.org")
    assert survivors(SIGNED, away, AddHeader(field.name, other)) == [False]


def test_each_of_several_has_its_own_word() -> None:
    one = by_hand(MAIL, h="from")
    two = by_hand(b"".join(one.pieces()), h="from:to", s="t")
    assert survivors(two, ChangeHeader(b"To", 1, b" c@example.org")) == [False, True]


ARC = parse_message(
    b"ARC-Seal: i=2; a=rsa-sha256; cv=pass; d=m.example; s=s; b=AA==\r\n"
    b"ARC-Message-Signature: i=2; a=rsa-sha256; d=m.example; s=s; h=from; bh=AA==; b=BB==\r\n"
    b"ARC-Authentication-Results: i=2; m.example; spf=pass\r\n"
    b"ARC-Seal: i=1; a=rsa-sha256; cv=none; d=l.example; s=s; b=AA==\r\n"
    b"ARC-Message-Signature: i=1; a=rsa-sha256; d=l.example; s=s; h=from:subject; bh=AA==;"
    b" b=CC==\r\n"
    b"ARC-Authentication-Results: i=1; l.example; spf=pass\r\n"
    b"From: a@b.example\r\nSubject: 1\r\nX: 1\r\n\r\nx\r\n"
)


def test_arc_sets_are_found() -> None:
    found = [(each.kind, each.hop, each.domain, each.fault) for each in find.in_header(ARC.headers)]
    assert found == [
        (Kind.ARC_SEAL, 2, "m.example", ""),
        (Kind.ARC_MESSAGE, 2, "m.example", ""),
        (Kind.ARC_SEAL, 1, "l.example", ""),
        (Kind.ARC_MESSAGE, 1, "l.example", ""),
    ]


@pytest.mark.parametrize(
    ("edit", "survives"),
    [
        (ChangeHeader(b"X", 1, b""), [True, True, True, True]),
        (ChangeHeader(b"Subject", 1, b" 2"), [True, True, True, False]),
        (ChangeHeader(b"ARC-Authentication-Results", 1, b" i=2; x"), [False, True, True, True]),
        (ChangeHeader(b"ARC-Authentication-Results", 2, b" i=1; x"), [False, True, False, True]),
        (ChangeHeader(b"ARC-Seal", 1, b""), [False, True, True, True]),
        (InsertHeader(0, b"ARC-Seal", b" i=3; cv=pass"), [True, True, True, True]),
        (InsertHeader(0, b"ARC-Seal", b" i=2; cv=pass"), [False, True, True, True]),
        (ReplaceBody(BytesBody(b"y\r\n")), [True, False, True, False]),
    ],
)
def test_what_arc_covers(edit: Edit, survives: list[bool]) -> None:
    assert survivors(ARC, edit) == survives


DETACHED = (
    b"Content-Type: multipart/signed; boundary=b; micalg=sha-256;\r\n"
    b' protocol="application/%b-signature"\r\n\r\npreamble\r\n--b\r\nContent-Type: text/plain\r\n'
    b"\r\nhello \r\n--b\r\nContent-Type: application/%b-signature\r\n%b\r\n%b\r\n--b--\r\n"
)
SMIME = DETACHED % (b"pkcs7", b"pkcs7", b"Content-Transfer-Encoding: base64\r\n", b"AAAA")
PGP = DETACHED % (b"pgp", b"pgp", b"", b"-----BEGIN PGP SIGNATURE-----\r\n\r\nAAAA")


def wrapped(octets: bytes) -> bytes:
    """The mail as one part of a list's mail."""
    return b'Content-Type: multipart/mixed; boundary="="\r\n\r\n--=\r\n%b\r\n--=\r\n\r\nf\r\n--=--'\
        % octets  # fmt: skip


@pytest.mark.parametrize("octets", [SMIME, PGP, wrapped(SMIME), wrapped(wrapped(PGP))])
def test_a_signed_part_is_found_and_held(octets: bytes) -> None:
    mail = parse_message(b"From: a@b.example\r\n" + octets)
    body = body_octets(mail.body)
    assert survivors(mail) == [True]
    for harmless in (b"preamble", b"f\r\n--=--"):
        new = body.replace(harmless, b"other" + harmless)
        assert survivors(mail, ReplaceBody(BytesBody(new))) == [True]
    for covered in (b"hello ", b"text/plain", b"AAAA"):
        new = body.replace(covered, covered.swapcase())
        assert survivors(mail, ReplaceBody(BytesBody(new))) == [False]
    assert survivors(mail, ReplaceBody(BytesBody(body.replace(b"hello ", b"hello")))) == [False]
    assert survivors(mail, ChangeHeader(b"Content-Type", 1, b" text/plain")) == [False]
    assert survivors(mail, ChangeHeader(b"Subject", 1, b" text/plain")) == [True]


def test_an_opaque_part_is_held_by_what_it_decodes_to() -> None:
    content = base64.encodebytes(b"x" * 200).replace(b"\n", b"\r\n")
    mail = parse_message(
        b"Content-Type: application/pkcs7-mime; smime-type=signed-data\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n" + content
    )
    assert survivors(mail, ReplaceBody(BytesBody(content.replace(b"\r\n", b"")))) == [True]
    assert survivors(mail, ReplaceBody(BytesBody(content[4:]))) == [False]


CLEAR = (
    b"before\r\n-----BEGIN PGP SIGNED MESSAGE-----\r\nHash: SHA256\r\n\r\n- -dash\r\nhello\r\n"
    b"-----BEGIN PGP SIGNATURE-----\r\n\r\nAAAA\r\n=BBBB\r\n-----END PGP SIGNATURE-----\r\n"
    b"after\r\n"
)


def test_signed_text_is_held_as_openpgp_reads_it() -> None:
    mail = parse_message(b"Subject: x\r\n\r\n" + CLEAR)
    (signature,) = parts.in_body(mail.headers, mail.body)
    assert (signature.kind, signature.size) == (Kind.PGP, len(b"-dash\r\nhello"))
    for old, new, survives in [
        (b"hello", b"hello \t", True),
        (b"hello", b"hullo", False),
        (b"after", b"footer", True),
        (b"AAAA\r\n", b"AAAA ", True),
        (b"AAAA", b"AAAB", False),
    ]:
        body = BytesBody(CLEAR.replace(old, new))
        assert survivors(mail, ReplaceBody(body)) == [survives], new
    encoded = [
        ReplaceBody(BytesBody(CLEAR.replace(b"=", b"=3D"))),
        AddHeader(b"Content-Transfer-Encoding", b" quoted-printable"),
    ]
    assert survivors(mail, *encoded) == [True]


def test_armour_of_a_message_is_found_in_a_part() -> None:
    text = b"-----BEGIN PGP MESSAGE-----\r\n\r\nAAAA\r\n-----END PGP MESSAGE-----\r\n"
    mail = parse_message(wrapped(b"Content-Type: text/plain\r\n\r\n" + text))
    assert [each.kind for each in parts.in_body(mail.headers, mail.body)] == [Kind.PGP]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"v=1",
        b"h",
        b"v=1; h=" + b"a:" * 10_000,
        b";" * 1000,
        b"h=a; h=b\xff;=;x",
        b"x" * 99_999,
    ],
)
def test_what_no_verifier_can_read_holds_nothing(value: bytes) -> None:
    mail = parse_message(b"DKIM-Signature: " + value + b"\r\na: 1\r\nFrom: a@b.example\r\n\r\n")
    (signature,) = find.in_header(mail.headers)
    assert signature.fault
    assert Guard(mail).broken([ChangeHeader(b"a", 1, b"")]) == ()


def test_signatures_beyond_the_limit_hold_nothing() -> None:
    many = b"".join(by_hand(MAIL, h="from").headers[0].raw + b"\r\n" for _ in range(3))
    mail = parse_message(b"DKIM-Signature: x\r\n" * find.SIGNATURE_LIMIT + many + MAIL)
    assert Guard(mail).broken([ChangeHeader(b"From", 1, b" x")]) == ()


# --- what becomes of edits ---------------------------------------------------------------

FREE = Wish("rule a", (ChangeHeader(b"X-B", 1, b""),))


def signed_edit(on_signed: OnSigned) -> Wish:
    return Wish("rule b", (ChangeHeader(b"Subject", 1, b" two"),), on_signed)


def test_skip_leaves_out_what_breaks_and_keeps_the_rest() -> None:
    kept = keep(Guard(SIGNED), [signed_edit(OnSigned.SKIP), FREE])
    assert kept.edits == FREE.edits
    assert kept.reply is None
    (reason,) = kept.reasons
    assert (reason.source, reason.outcome) == ("rule b", "kept-for-signature")
    assert reason.facts == {"signature": "DKIM d=example.net s=s"}


def test_force_makes_the_edit_and_says_what_it_breaks() -> None:
    wish = signed_edit(OnSigned.FORCE)
    # The second one finds nothing left to keep whole.
    kept = keep(Guard(SIGNED), [wish, Wish("c", (ChangeHeader(b"From", 1, b" x"),)), FREE])
    assert kept.edits == (*wish.edits, ChangeHeader(b"From", 1, b" x"), *FREE.edits)
    assert [each.outcome for each in kept.reasons] == ["breaks-signature"]


def test_reject_refuses_the_mail() -> None:
    kept = keep(Guard(SIGNED), [FREE, signed_edit(OnSigned.REJECT)])
    assert kept.edits == ()
    assert str(kept.reply).startswith("550 5.7.1 ")


def test_a_signature_that_is_void_anyway_holds_nothing_and_is_looked_at_once() -> None:
    asked = []

    def void(mail: Mail) -> frozenset[int]:
        asked.append(mail)
        return frozenset({0})

    guard = Guard(SIGNED, void)
    assert keep(guard, [FREE]).edits == FREE.edits
    assert not asked
    wish = signed_edit(OnSigned.SKIP)
    assert keep(guard, [wish, wish]).edits == wish.edits * 2
    assert asked == [SIGNED]


def test_many_edits_of_a_long_header_take_bounded_time() -> None:
    names = by_hand(MAIL, h="from:x").headers[0]
    count = 5_000
    mail = Mail(
        headers=(names, HeaderField(b"From", b" a@b.c"), *[HeaderField(b"X", b" 1")] * count)
    )
    wishes = [Wish("r", (ChangeHeader(b"X", at, b" 2"),)) for at in range(count, 0, -1)]
    began = time.process_time()
    kept = keep(Guard(mail), wishes)
    assert time.process_time() - began < 1
    assert EXACT_WORK // count - 2 < len(kept.edits) < EXACT_WORK // count + 2


@given(
    st.binary(max_size=100), st.sampled_from(["DKIM-Signature", *map(bytes.decode, find.ARC_SET)])
)
def test_any_octets_are_read(value: bytes, name: str) -> None:
    mail = Mail(headers=(HeaderField(name.encode(), value), HeaderField(b"From", b"x")))
    for each in predict(mail, [ChangeHeader(b"From", 1, b"y"), AddHeader(b"ARC-Seal", value)]):
        assert isinstance(each.signature, FieldSignature)


@given(st.binary(max_size=300))
def test_any_body_is_read(octets: bytes) -> None:
    for head in (SMIME, PGP, CLEAR, wrapped(PGP)):
        half = len(head) // 2
        mail = parse_message(head[:half] + octets + head[half:])
        assert survivors(mail, ReplaceBody(BytesBody(body_octets(mail.body) + b""))) in ([True], [])
