"""The Received field: RFC 5321's form, RFC 3848's words, and nobody's syntax but ours."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.mail import Client, Envelope, Family, Recipient
from smtpgw.edge.received import received_field
from smtpgw.edge.road import Hello, Login, Tls

TLS = Tls("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256)
ONE = Envelope(b"a@b", (), (Recipient(b"u@example.net"),))
PEER = Client(b"unknown", Family.INET, b"192.0.2.1", 4711)


def field(hello: Hello, envelope: Envelope = ONE, client: Client = PEER) -> bytes:
    made = received_field(
        client, hello, envelope, by=b"mx.example.net", mail_name=b"Gatepost",
        queue_id=b"ABC123", when=1_700_000_000.9,
    )  # fmt: skip
    assert made.hidden
    return made.raw


def test_the_whole_field() -> None:
    assert field(Hello(b"client.example", True, TLS)) == (
        b"Received: from client.example (unknown [192.0.2.1])\r\n"
        b"\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256 bits))\r\n"
        b"\tby mx.example.net (Gatepost) with ESMTPS id ABC123\r\n"
        b"\tfor <u@example.net>;\r\n"
        b"\tTue, 14 Nov 2023 22:13:20 +0000"
    )


@pytest.mark.parametrize(
    ("hello", "args", "word"),
    [
        (Hello(b"x", False), (), b"SMTP"),
        (Hello(b"x", False, TLS), (), b"SMTP"),
        (Hello(b"x", True), (), b"ESMTP"),
        (Hello(b"x", True, TLS), (), b"ESMTPS"),
        (Hello(b"x", True, None, Login(b"me")), (), b"ESMTPA"),
        (Hello(b"x", True, TLS, Login(b"me")), (b"SIZE=1",), b"ESMTPSA"),
        (Hello(b"x", True), (b"smtputf8",), b"UTF8SMTP"),
        (Hello(b"x", True, TLS, Login(b"me")), (b"SMTPUTF8",), b"UTF8SMTPSA"),
        (Hello(b"with ESMTPSA id 1", True), (), b"ESMTP"),  # D13
    ],
)
def test_the_protocol_is_a_fact(hello: Hello, args: tuple[bytes, ...], word: bytes) -> None:
    text = field(hello, Envelope(b"", args, ONE.recipients))
    assert re.findall(rb" with ([A-Z0-9]+) id ", text.replace(b"\r\n\t", b" ")) == [word]


def test_nobody_learns_of_other_recipients() -> None:
    assert b"for <" not in field(Hello(b"x", True), Envelope(b"", (), ONE.recipients * 2))


def test_an_ipv6_client() -> None:
    client = Client(b"unknown", Family.INET6, b"2001:db8::1")
    assert b"(unknown [IPv6:2001:db8::1])" in field(Hello(b"x", True), client=client)


@given(st.binary(max_size=300), st.binary(max_size=80), st.binary(max_size=80))
def test_no_octet_of_a_stranger_makes_syntax(helo: bytes, name: bytes, recipient: bytes) -> None:
    """B26, H31."""
    envelope = Envelope(b"", (), (Recipient(recipient),))
    text = field(Hello(helo, True), envelope, Client(name, Family.INET, b"192.0.2.1"))
    lines = text.split(b"\r\n")
    assert len(lines) == 4
    assert not set(b"".join(lines).replace(b"\t", b"")) & set(range(32))
    head = lines[0] + lines[1]
    assert head.count(b"(") == head.count(b")") == 2
    assert b"<" not in head
    assert b";" not in head
