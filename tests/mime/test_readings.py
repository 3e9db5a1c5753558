"""Doubtful MIME is seen to be so, and what any reader could find in it is found."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.mail import body_octets, parse_message
from milterd.mime.decodings import Allowance, TooMuch, decodings
from milterd.mime.doubts import (
    COMMON,
    MAX_DEPTH,
    MAX_DOUBTS,
    MAX_PARTS,
    REMEMBERED,
    doubts,
    read_again,
)
from tests.mime.eicar import ATTACHED, CASES, EICAR, FOLDED, MIXED, TEXT, Case, _multipart

PLAIN = (
    b"",
    b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n",
    b"MIME-Version: 1.0\r\nContent-Type: text/html\r\nContent-Transfer-Encoding: base64\r\n",
    b'MIME-Version: 1.0\r\nContent-Type: application/pdf; name="a b.pdf"\r\n',
)


def octets(text: bytes) -> tuple[str, ...]:
    mail = parse_message(text)
    return doubts(mail.headers, body_octets(mail.body))


@pytest.mark.parametrize("case", CASES, ids=[each.name for each in CASES])
def test_a_trick_is_seen_and_what_it_hides_is_found(case: Case) -> None:
    assert octets(case.octets)
    body = parse_message(case.octets).body
    found = list(decodings(body_octets(body), Allowance()))
    assert any(each.startswith(EICAR) for each in found)


@pytest.mark.parametrize("header", PLAIN)
def test_mail_as_it_should_be_is_in_no_doubt(header: bytes) -> None:
    assert octets(b"From: a@b\r\n" + header + b"\r\n" + base64.encodebytes(b"hello" * 20)
                  .replace(b"\n", b"\r\n")) == ()  # fmt: skip


def test_usual_multiparts_are_in_no_doubt() -> None:
    inner = b"Content-Type: multipart/alternative; boundary=\"=_in\"\r\n\r\n" + _multipart(
        b"=_in", TEXT, b"Content-Type: text/html; charset=utf-8\r\n"
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\n<p>=C3=A9=\r\n</p>\r\n"
    )  # fmt: skip
    forwarded = b"Content-Type: message/rfc822\r\n\r\nFrom: b@c\r\n\r\nhello\r\n"
    disposed = b"Content-Disposition: attachment; filename*=utf-8''a%20b\r\n" + ATTACHED
    body = b"This is a message in parts.\r\n" + _multipart(
        b"b", inner, forwarded, disposed + FOLDED + b"\r\n"
    )
    assert octets(b"From: a@b\r\n" + MIXED + b"\r\n" + body) == ()


def test_a_piece_of_a_message_is_named() -> None:
    header = b"MIME-Version: 1.0\r\nContent-Type: message/partial; id=x; number=1\r\n"
    assert "a message/partial" in octets(header + b"\r\nhello\r\n")


def test_depth_and_number_of_parts_are_bounded() -> None:
    deep = b"x\r\n"
    for each in range(MAX_DEPTH + 2):
        kind = b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n" % each
        deep = kind + _multipart(b"b%d" % each, deep)
    assert f"parts more than {MAX_DEPTH} deep" in octets(b"MIME-Version: 1.0\r\n" + deep)
    wide = _multipart(b"b", *[TEXT] * (MAX_PARTS + 1))
    assert octets(MIXED + b"\r\n" + wide) == (f"more than {MAX_PARTS} parts",)
    assert len(octets(MIXED * 30 + b"\r\n" + wide)) <= MAX_DOUBTS


@pytest.mark.parametrize(
    "text",
    [b"begin 644 x\n", b"\r\n\r\nx", b"=ybegin a\n", b"QUJD\n", b"--b\r\n", b"=\n", b"=41"],
)
def test_repetition_costs_no_more_than_its_length(text: bytes) -> None:
    """Four times as much takes about four times as long, not sixteen."""

    def seconds(size: int) -> float:
        body = (text * (size // len(text)))[:size]
        began = time.process_time()
        try:
            for _ in decodings(body, Allowance(200, 8 * size)):
                pass
        except TooMuch:
            pass
        doubts((), body)
        return time.process_time() - began

    small = max(min(seconds(400_000) for _ in range(2)), 0.01)
    assert seconds(1_600_000) < 12 * small


@given(st.binary(max_size=3000))
def test_nothing_is_too_strange_to_read(body: bytes) -> None:
    for header in (b"", MIXED):
        mail = parse_message(header + b"\r\n" + body)
        doubts(mail.headers, body_octets(mail.body))
    try:
        found = list(decodings(body, Allowance(50, 100_000)))
    except TooMuch:
        return
    assert sum(map(len, found)) <= 100_000


@given(st.binary(min_size=40, max_size=300), st.integers(20, 76), st.booleans())
def test_base64_is_found_wherever_it_stands(content: bytes, width: int, padded: bool) -> None:
    letters = base64.b64encode(content)
    letters = letters if padded else letters.rstrip(b"=")
    lines = b"\r\n".join(letters[at : at + width] for at in range(0, len(letters), width))
    found = list(
        decodings(b"some words here\r\n\r\n" + lines + b"\r\nmore of them\r\n", Allowance())
    )
    assert any(each.startswith(content) for each in found)


def test_too_much_is_said_and_not_passed_over() -> None:
    parts = [b"--b\r\n\r\nabcdefghijklmnopqrst%d\r\n" % each for each in range(300)]
    with pytest.raises(TooMuch):
        list(decodings(b"".join(parts), Allowance(10)))


@given(st.lists(st.sampled_from(
    [b"begin 644 x\r\n", b"=ybegin line=128 name=x\r\n", b"begin-base64 644 x\r\n",
     b"(This file must be converted with BinHex 4.0)\r\n", b"we begin (so)\r\n", b"x", b"\r\n"]
)))  # fmt: skip
def test_other_encodings_are_seen_wherever_a_line_begins(pieces: list[bytes]) -> None:
    body = b"".join(pieces)
    starts = (b"begin 644 ", b"begin-base64 ", b"=ybegin ", b"(This file must be")
    coded = any(each.startswith(starts) for each in body.split(b"\n"))
    assert bool(octets(b"From: a@b\r\n\r\n" + body)) is coded


def test_what_is_remembered_of_headers_is_bounded_and_changes_no_answer() -> None:
    odd = b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=a; charset=b\r\n\r\nhello\r\n"
    first = octets(odd)
    assert first == ("a parameter of Content-Type twice",) == octets(odd)
    for number in range(3 * REMEMBERED):
        text = b"MIME-Version: 1.0\r\nContent-Type: text/x-%d\r\n\r\nhello\r\n" % number
        assert octets(text) == ()
    assert read_again.cache_info().currsize <= REMEMBERED
    before = read_again.cache_info()
    assert octets(odd.replace(b"=b", b"=" + b"b" * COMMON)) == first, "long: read, not kept"
    assert read_again.cache_info() == before
    assert octets(odd) == first
