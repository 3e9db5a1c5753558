"""Signatures that are not good as they came need no care: what gpg, openssl and dkimpy signed is
told from what was changed since, and what cannot be told counts as good."""

from __future__ import annotations

import base64
import hashlib
import subprocess
from collections.abc import Iterator
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import example, given
from hypothesis import strategies as st

from milterd.core.actions import ChangeHeader, ReplaceBody
from milterd.core.mail import BytesBody, Mail, body_octets, parse_message
from milterd.filters.dkim_verify import Verifier
from milterd.ports.dkim_dns import NoAnswer
from milterd.ports.keys import RsaKey
from milterd.signed import parts, pgp_digest, smime_digest
from milterd.signed.find import in_header
from milterd.signed.keep import Guard
from milterd.signed.signature import Kind
from tests.filters.dkim_world import NOW, Dns
from tests.peers.process import directory, program

PART = b"Content-Type: text/plain; charset=utf-8\r\n\r\nhello \xc3\xa4\r\n- dash\r\n\r\nlast"
CLEAR = b"hello\n- dash\n\nFrom here  \nlast\n"


@pytest.fixture(scope="module")
def gpg() -> Iterator[list[str]]:
    """gpg with a key of its own, whose agent ends with it."""
    with directory("gpg") as home:
        home.chmod(0o700)
        command = [program("gpg", "gnupg"), "--homedir", str(home), "--batch", "--passphrase", ""]
        _run([*command, "--quick-generate-key", "a@example.net", "ed25519", "sign"], b"")
        yield command
        _run([program("gpgconf", "gnupg"), "--homedir", str(home), "--kill", "all"], b"")


@pytest.fixture(scope="module")
def openssl(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """openssl(1) as it signs with a certificate of its own."""
    home = tmp_path_factory.mktemp("smime")
    key, certificate = str(home / "key.pem"), str(home / "cert.pem")
    tool = program("openssl", "openssl")
    made = ["-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", certificate]
    _run([tool, "req", "-x509", *made, "-subj", "/CN=a@example.net"], b"")
    signer = ["-signer", certificate, "-inkey", key]
    return [tool, "cms", "-sign", "-binary", "-outform", "DER", *signer]


def _run(command: list[str], octets: bytes) -> bytes:
    done = subprocess.run(command, input=octets, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def detached(kind: str, part: bytes, proof: bytes) -> Mail:
    name = kind.encode()
    encoding = b"Content-Transfer-Encoding: base64\r\n" if kind == "pkcs7" else b""
    text = base64.encodebytes(proof) if kind == "pkcs7" else proof
    return parse_message(
        b"From: a@example.net\r\nContent-Type: multipart/signed; boundary=b;"
        b' protocol="application/' + name + b'-signature"\r\n\r\n--b\r\n' + part + b"\r\n--b\r\n"
        b"Content-Type: application/" + name + b"-signature\r\n" + encoding + b"\r\n"
        + text.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b"\r\n--b--\r\n"
    )  # fmt: skip


def faults(mail: Mail) -> list[bool]:
    return [bool(each.fault) for each in parts.in_body(mail.headers, mail.body)]


def changed(mail: Mail, old: bytes, new: bytes) -> Mail:
    body = body_octets(mail.body)
    assert old in body
    return Mail(headers=mail.headers, body=BytesBody(body.replace(old, new)))


@pytest.mark.parametrize("digest", ["SHA256", "SHA512", "SHA1"])
@pytest.mark.parametrize("form", [[], ["--textmode"]])
def test_a_part_that_gpg_signed(gpg: list[str], digest: str, form: list[str]) -> None:
    proof = _run([*gpg, "--digest-algo", digest, *form, "--armor", "--detach-sign"], PART)
    mail = detached("pgp", PART, proof)
    assert faults(mail) == [False]
    broken = changed(mail, b"hello", b"Hello")
    assert faults(broken) == [True]
    edit = ReplaceBody(BytesBody(body_octets(broken.body).replace(b"Hello", b"other")))
    assert Guard(broken).broken((edit,)) == ()
    assert len(Guard(mail).broken((edit,))) == 1


def test_a_text_that_gpg_signed(gpg: list[str]) -> None:
    text = _run([*gpg, "--armor", "--clear-sign"], CLEAR).replace(b"\n", b"\r\n")
    mail = parse_message(b"From: a@example.net\r\n\r\nsee:\r\n" + text + b"footer\r\n")
    assert faults(mail) == [False]
    assert faults(changed(mail, b"footer", b"other")) == [False]
    assert faults(changed(mail, b"hello", b"Hello")) == [True]


@pytest.mark.parametrize("digest", ["sha256", "sha512", "sha1"])
def test_a_part_that_openssl_signed(openssl: list[str], digest: str) -> None:
    mail = detached("pkcs7", PART, _run([*openssl, "-md", digest], PART))
    assert faults(mail) == [False]
    assert faults(changed(mail, b"hello", b"Hello")) == [True]


def test_what_cannot_be_told_counts_as_good(openssl: list[str], gpg: list[str]) -> None:
    bare = _run([*openssl, "-noattr"], PART)
    for proof in (bare, b"", b"0\x80", bare[:50]):
        assert not smime_digest.differs(b"other", proof)
    armour = _run([*gpg, "--armor", "--detach-sign"], PART)
    lines = armour.split(b"\n")
    for proof in (b"", armour[:90], armour.replace(lines[2], b"????"), b"\n".join(lines[:2])):
        assert not pgp_digest.differs(b"other", proof)
    assert pgp_digest.differs(b"other", armour)


@given(st.binary(max_size=200))
@example(b"\x30\x84\xff\xff\xff\xff")
@example(b"\xc2\xff\xff\xff\xff\xff\x04")
def test_no_octets_are_too_odd(octets: bytes) -> None:
    armour = base64.encodebytes(octets)
    framed = b"-----BEGIN PGP SIGNATURE-----\n\n" + armour + b"-----END PGP SIGNATURE-----\n"
    assert smime_digest.differs(b"x", octets) in (True, False)
    assert pgp_digest.differs(b"x", framed) in (True, False)


def test_the_digests_that_a_mail_asks_for_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of signatures of 12 octets, in a hundred parts."""
    packet = bytes((0xC2, 10, 4, 0, 1, 8, 0, 0, 0, 0, 1, 2))
    armour = base64.encodebytes(packet * 4000)
    many = b"-----BEGIN PGP SIGNATURE-----\n\n" + armour + b"-----END PGP SIGNATURE-----\n"
    few = many.replace(armour, base64.encodebytes(packet * 10))
    hashed: list[int] = []
    new = hashlib.new

    def counted(name: str, octets: bytes = b"", **more: Any) -> Any:
        hashed.append(len(octets))
        return new(name, octets, **more)

    monkeypatch.setattr(hashlib, "new", counted)
    assert not pgp_digest.differs(PART, many)
    assert hashed == []
    assert pgp_digest.differs(PART, few)
    assert len(hashed) <= 4 * pgp_digest.ALGORITHMS
    one = body_octets(detached("pgp", PART, few).body)
    kind = b"Content-Type: multipart/signed; boundary=b; protocol=application/pgp-signature\r\n\r\n"
    whole = b"".join(b"--=\r\n" + kind + one for _ in range(100)) + b"--=--\r\n"
    hashed.clear()
    mail = parse_message(b'Content-Type: multipart/mixed; boundary="="\r\n\r\n' + whole)
    assert sum(faults(mail)) == parts.CHECKED
    assert len(hashed) <= 4 * pgp_digest.ALGORITHMS * parts.CHECKED


KEY = rsa.generate_private_key(65537, 2048)
RECORD = RsaKey(KEY).record
NAMES = dict.fromkeys(("s._domainkey.l.example", "s._domainkey.m.example"), RECORD)


def sealed(octets: bytes, *domains: bytes, results: bytes = b"arc=pass") -> Mail:
    """The mail after lists of these domains, as dkimpy seals it."""
    pem = KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    for hop, domain in enumerate(domains, 1):
        said = b"spf=pass" if hop == 1 else results
        octets = b"Authentication-Results: " + domain + b"; " + said + b"\r\n" + octets
        made = dkim.arc_sign(octets, b"s", domain, pem, domain, timestamp=NOW)
        assert made
        octets = b"".join(made) + octets
    return parse_message(octets)


LETTER = b"From: a@example.net\r\nTo: b@example.org\r\nSubject: one\r\n\r\nhello\r\n"
ONCE = sealed(LETTER, b"l.example")
TWICE = sealed(LETTER, b"l.example", b"m.example")
FAILED = sealed(LETTER, b"l.example", b"m.example", results=b"arc=fail")


def replaced(mail: Mail, old: bytes, new: bytes) -> Mail:
    octets = b"".join(mail.pieces())
    assert old in octets
    return parse_message(octets.replace(old, new, 1))


def void(mail: Mail, records: dict[str, str | NoAnswer] | None = None) -> str:
    """Which ARC signatures are void: S for a seal, M for a message's signature, with the hop."""
    names = NAMES if records is None else records
    places = Verifier(Dns(dict(names)), clock=lambda: NOW).void(mail)
    letters = {Kind.ARC_SEAL: "S", Kind.ARC_MESSAGE: "M"}
    arc = [each for each in in_header(mail.headers) if each.position in places]
    return " ".join(sorted(f"{letters[each.kind]}{each.hop}" for each in arc))


@pytest.mark.parametrize(
    ("mail", "records", "expected"),
    [
        (ONCE, None, ""),
        (TWICE, None, ""),
        (replaced(TWICE, b"Subject: one", b"Subject: two"), None, "M1 M2 S1 S2"),
        (replaced(TWICE, b"i=1; l.example", b"i=1; x.example"), None, "M1 M2 S1 S2"),
        (ONCE, {}, "M1 S1"),
        (ONCE, {"s._domainkey.l.example": NoAnswer("SERVFAIL")}, ""),
        (TWICE, {"s._domainkey.m.example": RECORD}, "M1 M2 S1 S2"),
        (FAILED, None, "M1 M2 S1 S2"),
    ],
)
def test_arc_chains(mail: Mail, records: dict[str, str | NoAnswer] | None, expected: str) -> None:
    assert void(mail, records) == expected


def test_what_an_older_set_signed_may_be_gone_without_the_chain() -> None:
    """A list changes the subject and seals what it has made of it."""
    once = b"".join(ONCE.pieces()).replace(b"Subject: one", b"Subject: [l] one")
    again = sealed_again(once, b"m.example")
    assert void(again) == "M1"


def sealed_again(octets: bytes, domain: bytes) -> Mail:
    pem = KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    octets = b"Authentication-Results: " + domain + b"; arc=pass\r\n" + octets
    return parse_message(b"".join(dkim.arc_sign(octets, b"s", domain, pem, domain)) + octets)


@pytest.mark.parametrize(("records", "held"), [(NAMES, True), ({}, False)])
def test_a_void_chain_forbids_nothing(records: dict[str, str], *, held: bool) -> None:
    verifier = Verifier(Dns(dict(records)), clock=lambda: NOW)
    broken = Guard(ONCE, verifier.void).broken((ChangeHeader(b"Subject", 1, b" two"),))
    assert bool(broken) is held
