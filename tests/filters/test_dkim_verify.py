"""What a signature is worth: RFC 6376 section 6, RFC 8301, RFC 8463, and what attackers try."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import random
import re
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.actions import ChangeHeader, InsertHeader
from milterd.core.apply import apply
from milterd.core.decision import Verdict
from milterd.core.mail import HeaderField, Mail, parse_message
from milterd.filters.dkim import Checked, DkimFilter, DkimOptions, NotSigned, Verifying
from milterd.filters.dkim_record import RecordError
from milterd.filters.dkim_record import read as read_record
from milterd.filters.dkim_results import value
from milterd.filters.dkim_verify import Verified, Verifier, VerifyOptions
from milterd.ports.dkim_dns import Absent, DnsOptions, DnsTexts, NoAnswer, Texts, parse_server
from milterd.signed.dkim_field import FieldError
from milterd.signed.dkim_field import read as read_field
from milterd.signed.dkim_hash import hash_body
from milterd.signed.dkim_tags import TagError, tags, without_b
from tests.filters.dkim_world import ED25519, MAIL, NOW, RSA, Dns, by_hand, sha256
from tests.peers.dns import SERVFAIL, SILENT, TRUNCATED, dns_server

NAME = "s._domainkey.example.net"
USUAL = VerifyOptions()


def judged(mail: Mail, record: object = RSA.record, options: VerifyOptions = USUAL) -> Verified:
    (result,) = (
        Verifier(
            Dns({NAME: record}),
            options,
            lambda: NOW,  # type: ignore[dict-item]
        )
        .verify(mail)
        .results
    )
    return result


def outcome(mail: Mail, record: object = RSA.record) -> str:
    return judged(mail, record).outcome.value


@pytest.mark.parametrize("form", ["simple", "relaxed"])
@pytest.mark.parametrize("key", [RSA, ED25519], ids=["rsa", "ed25519"])
def test_a_right_signature_passes_and_a_changed_mail_fails(form: str, key: object) -> None:
    mail = by_hand(MAIL, key, form=form)  # type: ignore[arg-type]
    record = key.record  # type: ignore[attr-defined]
    assert outcome(mail, record) == "pass"
    octets = b"".join(mail.pieces())
    assert outcome(parse_message(octets.replace(b"hello", b"hallo")), record) == "fail"
    assert outcome(parse_message(octets.replace(b"one", b"two")), record) == "fail"
    other = octets.replace(b"Subject: one", b"SUBJECT:  one")
    assert outcome(parse_message(other), record) == ("pass" if form == "relaxed" else "fail")


TAGS = [
    # What section 3.5 and 6.1.1 say must not be.
    ({"v": "2"}, "permerror", "v= is not 1"),
    ({"v": None}, "permerror", "v= is missing"),
    ({"d": None}, "permerror", "d= is missing"),
    ({"s": ""}, "permerror", "s= is missing"),
    ({"h": "to:subject"}, "permerror", "h= does not have From"),
    ({"h": ""}, "permerror", "h= is missing"),
    ({"h": "dkim-signature"}, "permerror", "h= does not have From"),
    ({"a": "rsa-md5"}, "permerror", "a= is not known"),
    ({"c": "nowsp"}, "permerror", "c= is not known"),
    ({"q": "http"}, "permerror", "q= does not have dns/txt"),
    ({"i": "@example.org"}, "permerror", "i= is not within d="),
    ({"i": "@notexample.net"}, "permerror", "i= is not within d="),
    ({"i": "example.net"}, "permerror", "i= is not within d="),
    ({"bh": "!!!"}, "permerror", "bh= is not base64"),
    ({"b": "x"}, "permerror", "b= is not base64"),
    ({"t": "soon"}, "permerror", "t= is not a number"),
    ({"t": str(NOW), "x": str(NOW - 1)}, "permerror", "x= is before t="),
    ({"l": "-1"}, "permerror", "l= is not a number"),
    ({"l": "9999"}, "permerror", "l= is longer than the body"),
    ({"d": "a..b"}, "permerror", "no name in DNS"),
    ({"d": "*"}, "permerror", "no name in DNS"),
    ({"d": "exämple.net"}, "permerror", "no name in DNS"),
    ({"d": ".".join(["x" * 60] * 5)}, "permerror", "no name in DNS"),
    ({"s": "a b"}, "permerror", "no name in DNS"),
    ({"h": ":".join(["from"] * 2001)}, "permerror", "more than 2000 names"),
    # RFC 8301 section 3.1.
    ({"a": "rsa-sha1"}, "policy", "SHA-1"),
    # Times.
    ({"t": str(NOW - 9), "x": str(NOW - 8)}, "pass", ""),
    ({"t": str(NOW - 900), "x": str(NOW - 301)}, "fail", "expired"),
    ({"t": str(NOW + 299)}, "pass", ""),
    ({"t": str(NOW + 301)}, "fail", "future"),
    # l= (section 8.2).
    ({"l": "7"}, "pass", ""),
    ({"l": "3"}, "policy", "4 octets after l= are not signed"),
    ({"l": "0"}, "policy", "7 octets after l= are not signed"),
    # All that is allowed.
    ({"i": "user@sub.example.net", "q": "dns/txt", "z": "From:x|To:y"}, "pass", ""),
    ({"unknown": "x", "c": "relaxed/relaxed"}, "pass", ""),
    ({"h": "From : To:Subject:\r\n\tfrom : X-None"}, "pass", ""),
]


@pytest.mark.parametrize(("given_tags", "expected", "why"), TAGS)
def test_tags_of_a_signature(given_tags: dict[str, str | None], expected: str, why: str) -> None:
    found = judged(by_hand(MAIL, **given_tags))  # type: ignore[arg-type]
    assert found.outcome.value == expected, found
    assert why in found.why
    assert bool(found.why) == (expected != "pass")


P = RSA.record.partition("p=")[2]
RECORDS = [
    (f"p={P}", "pass", ""),
    (f"v=DKIM1; k=rsa; t=y; n=a note; g=nobody; x=; p={P};", "pass", ""),
    (f"v=DKIM1; h=sha1:sha256; s=email; p={P}", "pass", ""),
    (f"v=DKIM1; p={P[:40]} {P[40:]}", "pass", ""),
    (f"k=rsa; v=DKIM1; p={P}", "permerror", "v=DKIM1"),
    (f"v=DKIM2; p={P}", "permerror", "v=DKIM1"),
    ("v=DKIM1; p=", "permerror", "revoked"),
    ("v=DKIM1", "permerror", "no p="),
    ("", "permerror", "no p="),
    ("\xff\x00", "permerror", "cannot be read"),
    (f"v=DKIM1; p={P}; p={P}", "permerror", "twice"),
    (f"v=DKIM1; h=sha1; p={P}", "permerror", "sha256"),
    (f"v=DKIM1; s=tlsrpt; p={P}", "permerror", "e-mail"),
    (f"v=DKIM1; k=ed25519; p={P}", "permerror", "32 octets"),
    ("v=DKIM1; k=dsa; p=AAAA", "permerror", "neither"),
    (ED25519.record, "permerror", "another algorithm"),
    ("v=DKIM1; p=AAAA", "permerror", "no RSA key"),
    ("v=DKIM1; p=!", "permerror", "base64"),
    (f"v=DKIM1; p={P[:100]}", "permerror", ""),
    (Texts((RSA.record.encode(),) * 2), "permerror", "several records"),
    (Texts(()), "permerror", "no key in DNS"),
    (NoAnswer("SERVFAIL"), "temperror", "SERVFAIL"),
    (None, "permerror", "no key in DNS"),
]


@pytest.mark.parametrize(("record", "expected", "why"), RECORDS, ids=range(len(RECORDS)))
def test_tags_of_a_key_record(record: object, expected: str, why: str) -> None:
    found = judged(by_hand(MAIL), record)
    assert found.outcome.value == expected, found
    assert why in found.why


def test_a_strict_key_allows_no_subdomain() -> None:
    below = by_hand(MAIL, i="@sub.example.net")
    strict = RSA.record.replace("v=DKIM1;", "v=DKIM1; t=s:y;")
    assert outcome(below) == "pass"
    assert outcome(below, strict) == "permerror"
    assert judged(by_hand(MAIL), strict).testing


@pytest.mark.parametrize("bits", [512, 768, 16_384])
def test_keys_too_small_or_too_large_are_not_relied_on(bits: int, tmp_path: Path) -> None:
    """By a DER that says so; making a key of 16,384 bits would take minutes."""
    modulus = (1 << (bits - 1)) | 1
    inside = _der(0x02, modulus.to_bytes(bits // 8 + 1, "big")) + _der(0x02, b"\1\0\1")
    algorithm = _der(0x30, bytes.fromhex("06092a864886f70d0101010500"))
    key = _der(0x30, algorithm + _der(0x03, b"\0" + _der(0x30, inside)))
    found = judged(by_hand(MAIL), f"v=DKIM1; p={base64.b64encode(key).decode()}")
    assert found.outcome.value == ("policy" if bits < 1024 else "permerror")
    assert f"{bits} bits" in found.why


def _der(tag: int, octets: bytes) -> bytes:
    size = len(octets)
    head = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + head + octets


def test_a_real_key_of_512_bits_and_one_with_a_large_exponent(tmp_path: Path) -> None:
    command = ["openssl", "genrsa", "512"]
    private = subprocess.run(command, capture_output=True, check=True).stdout
    public = subprocess.run(
        ["openssl", "rsa", "-pubout", "-outform", "DER"], input=private, capture_output=True,
        check=True,
    ).stdout  # fmt: skip
    record = f"v=DKIM1; p={base64.b64encode(public).decode()}"
    assert read_record(record.encode()).weak == "RSA key of 512 bits, at least 1024 are needed"
    numbers = _der(0x02, b"\0" + b"\xff" * 256) + _der(0x02, b"\x7f" + b"\xff" * 200)
    with pytest.raises(RecordError, match=r"exponent|RSA key"):
        read_record(b"v=DKIM1; p=" + base64.b64encode(_der(0x30, numbers)))


@pytest.mark.parametrize(
    "name", [b"From", b"from", b"Subject", b"To", b"Date", b"FROM"], ids=bytes.decode
)
def test_a_field_put_above_the_signed_one_is_no_pass(name: bytes) -> None:
    """Signed without oversigning, as most of the world does."""
    mail = by_hand(MAIL, h="from:to:subject:date")
    assert outcome(mail) == "pass"
    forged = mail.with_headers((HeaderField(name, b" boss@bank.example"), *mail.headers))
    found = judged(forged)
    assert found.outcome.value == "policy"
    assert found.why == f"another {name.decode().lower()} field than the signed one"


def test_fields_that_must_be_signed() -> None:
    options = VerifyOptions(must_be_signed=(b"to", b"reply-to"))
    assert judged(by_hand(MAIL), options=options).outcome.value == "pass"
    found = judged(by_hand(MAIL, h="from:subject"), options=options)
    assert (found.outcome.value, found.why) == ("policy", "field to is not signed")


def test_a_thousand_signatures_cost_bounded_time_and_few_questions() -> None:
    """Each good, of a domain of its own, with an l= of its own, over a body of 1 MB."""
    body = b"x" * 70 + b"\r\n"
    one = by_hand(MAIL + body * 14_000)
    fields = [
        HeaderField(b"DKIM-Signature", re.sub(b"d=example", b"d=e%d" % each, one.headers[0].value))
        for each in range(1000)
    ]
    mail = one.with_headers((*fields, *one.headers[1:]))
    dns = Dns({})
    dns.records = {f"s._domainkey.e{each}.net": RSA.record for each in range(1000)}
    began = time.process_time()
    found = Verifier(dns, clock=lambda: NOW).verify(mail)
    assert time.process_time() - began < 1.0
    assert (len(found.results), found.ignored, len(dns.asked)) == (10, 990, 10)


def test_a_mail_waits_for_dns_no_longer_than_is_allowed() -> None:
    """Every question takes all the time it is given."""
    ticks = [0.0]

    class Slow(Dns):
        def texts(self, name: str, limit: float) -> Texts | NoAnswer:  # type: ignore[override]
            if limit > 0:
                self.asked.append(name)
                ticks[0] += min(limit, 4.0)
            return NoAnswer("slow")

    one = by_hand(MAIL)
    mail = one.with_headers((one.headers[0],) * 8 + one.headers[1:])
    dns = Slow({})
    found = Verifier(dns, VerifyOptions(dns_time=10.0), lambda: NOW, lambda: ticks[0]).verify(mail)
    assert {each.outcome.value for each in found.results} == {"temperror"}
    assert len(dns.asked) == 3
    assert ticks[0] == 10.0


@given(st.binary(max_size=300))
def test_no_octets_make_the_readers_raise_anything_else(octets: bytes) -> None:
    for read in (tags, read_record, lambda each: read_field(HeaderField(b"DKIM-Signature", each))):
        for text in (octets, b"v=1; a=rsa-sha256; d=a.b; s=c; h=from; b=AA==; bh=AA==;" + octets):
            with contextlib.suppress(TagError, RecordError, FieldError):
                read(text)


@given(st.binary(max_size=200), st.lists(st.integers(0, 250), max_size=4))
def test_prefixes_of_a_body_are_hashed_in_the_same_pass(octets: bytes, lengths: list[int]) -> None:
    mail = parse_message(b"From: a@b.c\r\n\r\n" + octets)
    found = hash_body(mail.body, "simple", lengths)
    form = re.sub(rb"(?:\r\n)*\Z", b"", octets) + b"\r\n"
    assert found.whole == sha256(form)
    assert found.size == len(form)
    wanted = {each for each in lengths if each <= len(form)}
    assert found.first == {each: sha256(form[:each]) for each in wanted}


def test_the_value_of_b_is_taken_out_and_nothing_else() -> None:
    assert without_b(b" bh=x; b = AB\r\n C ; c=b=;") == b" bh=x; b =; c=b=;"
    assert without_b(b"b=AB\r\n\t") == b"b="
    assert without_b(b" ab=1; bb=2") == b" ab=1; bb=2"


def verifying(records: dict[str, object], **settings: object) -> DkimFilter:
    options = DkimOptions(verifying=Verifying("mx.example.org", **settings))  # type: ignore[arg-type]
    return DkimFilter(options, lambda: NOW, dns=Dns(records))  # type: ignore[arg-type]


def test_only_mail_without_a_signature_is_judged_at_once() -> None:
    filter_ = verifying({NAME: RSA.record})
    plain = parse_message(MAIL)
    assert filter_.at_once(plain) == filter_.gather(plain) == Checked(())
    assert filter_.at_once(by_hand(MAIL, RSA)) is None  # its key may have to be asked for
    # Such a field takes 150 ms to read, and other mail would wait.
    long = parse_message(b"Authentication-Results: " + b"a." * 32_000 + b"\r\n" + MAIL)
    assert filter_.at_once(long) is None
    signing = DkimFilter(DkimOptions(), lambda: NOW)
    assert signing.at_once(long) == NotSigned("inbound")  # which nothing is read for


def results(filter_: DkimFilter, mail: Mail) -> tuple[Mail, str]:
    """The mail as it goes on, and what Authentication-Results says."""
    decision = filter_.decide(mail, filter_.gather(mail))
    after = apply(mail, decision.edits)
    assert after.headers[0].name == b"Authentication-Results"
    return after, re.sub(rb"\s+", b" ", after.headers[0].value).decode().strip()


def test_authentication_results_say_all_there_is_to_say() -> None:
    mail = by_hand(MAIL, i='"odd name"@sub.example.net'.replace(" ", "=20"))
    start = re.search(rb" b=(.{8})", mail.headers[0].value)
    assert start
    _, text = results(verifying({NAME: RSA.record}), mail)
    assert text == (
        'mx.example.org; dkim=pass header.d=example.net header.i=""odd=20name""@sub.example.net '
        f'header.s=s header.a=rsa-sha256 header.b="{start[1].decode()}"'
    ).replace('""odd=20name""', '"_odd=20name_"')
    _, text = results(verifying({}), parse_message(MAIL))
    assert text == "mx.example.org; dkim=none"
    _, text = results(verifying({NAME: "v=DKIM1; p="}), by_hand(MAIL))
    assert text.startswith('mx.example.org; dkim=permerror reason="the key is revoked" header.d=ex')
    two = by_hand(MAIL).with_headers((*by_hand(MAIL).headers[:1] * 2, *by_hand(MAIL).headers[1:]))
    assert results(verifying({NAME: RSA.record}), two)[1].count("dkim=pass") == 2


def test_what_was_forged_in_our_name_goes_and_the_rest_stays() -> None:
    theirs = (
        b"Authentication-Results: mx.example.org; dkim=pass header.d=bank.example\r\n"
        b"Authentication-Results: mx.elsewhere.example; dkim=pass\r\n"
        b'authentication-results: (c) "MX.example.org" 1; dkim=pass\r\n'
        b"Authentication-Results: (never closed mx.example.org; dkim=pass\r\n"
    )
    after, text = results(verifying({}), parse_message(theirs + MAIL))
    assert text == "mx.example.org; dkim=none"
    left = [each.value for each in after.headers if each.named(b"Authentication-Results")]
    assert left[1:] == [b" mx.elsewhere.example; dkim=pass"]
    kept, _ = results(verifying({}, remove_forged=False), parse_message(theirs + MAIL))
    assert len(kept.values(b"Authentication-Results")) == 5
    flood = parse_message(theirs.split(b"\r\n")[0] + b"\r\n" + MAIL)
    flood = flood.with_headers(flood.headers[:1] * 101 + flood.headers[1:])
    filter_ = verifying({})
    assert filter_.decide(flood, filter_.gather(flood)).verdict is Verdict.REJECT


def test_a_mail_without_a_sure_answer_waits_only_if_told_to() -> None:
    down = {NAME: NoAnswer("SERVFAIL")}
    mail = by_hand(MAIL)
    _, text = results(verifying(down), mail)
    assert "dkim=temperror" in text
    filter_ = verifying(down, defer=True)
    decision = filter_.decide(mail, filter_.gather(mail))
    assert str(decision.reply) == "451 4.7.5 Signature cannot be checked now, try again later"
    other = by_hand(MAIL, s="other")
    both = other.with_headers((mail.headers[0], *other.headers))
    filter_ = verifying(down | {"other._domainkey.example.net": RSA.record}, defer=True)
    assert filter_.decide(both, filter_.gather(both)).verdict is Verdict.CONTINUE


@given(st.text(max_size=60), st.text(max_size=60))
def test_nobodys_octets_become_header_syntax(why: str, identity: str) -> None:
    found = Verified(0, judged(by_hand(MAIL)).outcome, why, "a.b", "s", identity)
    text = value("mx.example.org", [found])
    assert re.fullmatch(rb"(?:[ -~]|\r\n\t\t?)+", text)


def test_facts_of_a_verified_mail_decide_alone() -> None:
    filter_ = verifying({NAME: RSA.record})
    mail = by_hand(MAIL)
    facts = filter_.gather(mail)
    assert isinstance(facts, Checked)
    forged = dataclasses.replace(facts, forged=(ChangeHeader(b"X", 1, b""),))
    assert filter_.decide(mail, forged).edits[0] == forged.forged[0]
    assert isinstance(filter_.decide(mail, facts).edits[-1], InsertHeader)


def test_records_come_from_real_name_servers_and_are_kept() -> None:
    long = RSA.record
    half = f'"{long[:200]}" "{long[200:]}"'
    zone = {NAME: {"TXT": [half]}, "none._domainkey.example.net": {"A": ["192.0.2.1"]}}
    with dns_server(zone) as server:
        dns = DnsTexts(DnsOptions((("127.0.0.1", server.port),), timeout=5.0))
        assert dns.texts(NAME, 5.0) == Texts((long.encode(),), pytest.approx(60, abs=3600))
        before = len(server.asked)
        assert judged_by(dns).outcome.value == "pass"
        assert len(server.asked) == before
        for absent in ("no._domainkey.example.net", "none._domainkey.example.net"):
            assert isinstance(dns.texts(absent, 5.0), Absent)


@pytest.mark.parametrize("fault", [SERVFAIL, SILENT, TRUNCATED])
def test_name_servers_that_fail(fault: str) -> None:
    zone = {NAME: {"TXT": [f'"{RSA.record[:200]}" "{RSA.record[200:]}"']}}
    with dns_server(zone) as server:
        server.faults[NAME] = fault
        limit = 1.0 if fault == SILENT else 20.0
        dns = DnsTexts(DnsOptions((("127.0.0.1", server.port),), timeout=limit))
        began = time.monotonic()
        found = judged_by(dns).outcome.value
        assert found == ("pass" if fault == TRUNCATED else "temperror")
        assert time.monotonic() - began < 15


def judged_by(dns: DnsTexts) -> Verified:
    (result,) = Verifier(dns, clock=lambda: NOW).verify(by_hand(MAIL)).results
    return result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.0.2.1", ("192.0.2.1", 53)),
        ("192.0.2.1:5353", ("192.0.2.1", 5353)),
        ("2001:db8::1", ("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", ("2001:db8::1", 5353)),
        ("dns.example", None),
        ("192.0.2.1:0", None),
        ("[::1", None),
    ],
)
def test_name_servers_as_they_are_written(text: str, expected: tuple[str, int] | None) -> None:
    if expected is None:
        with pytest.raises(ValueError, match=r"."):
            parse_server(text)
    else:
        assert parse_server(text) == expected


def test_random_damage_never_passes() -> None:
    chance = random.Random(7)
    octets = b"".join(by_hand(MAIL).pieces())
    for _ in range(300):
        at = chance.randrange(len(octets))
        changed = octets[:at] + bytes([octets[at] ^ (1 << chance.randrange(8))]) + octets[at + 1 :]
        found = Verifier(Dns({NAME: RSA.record}), clock=lambda: NOW).verify(parse_message(changed))
        if found.passed:
            # Only case of names and tags, or white space, may differ.
            assert changed.lower() == octets.lower() or octets[at : at + 1] in b" \t;"
