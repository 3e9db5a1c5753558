"""XCLIENT and XFORWARD: who may, what is taken, what becomes of the session (K08)."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.mail import Family
from smtpgw.edge import forwarded
from smtpgw.edge.dialogue_options import DialogueOptions
from smtpgw.edge.names import NameStatus
from smtpgw.edge.road import Answer
from tests.edge.harness import QUICK, Client, Server
from tests.edge.test_proxy import listed

ALLOWED = replace(
    QUICK,
    dialogue=DialogueOptions(xclient=listed("127.0.0.0/8"), xforward=listed("127.0.0.0/8")),
)


@pytest.mark.parametrize("verb", ["XCLIENT", "XFORWARD"])
def test_strangers_are_not_offered_it_and_may_not(verb: str) -> None:
    with Server() as server, Client(server.port) as client:
        client.expect(220)
        assert verb not in client.command(b"EHLO x", 250)
        client.command(verb.encode(), 501, "5.5.4")
        client.command(verb.encode() + b" NAME=a.example", 550, "5.7.0")
        assert len(server.ledger.connections) == 1
        assert server.ledger.forwarded == []


def test_the_session_begins_anew_with_another_client() -> None:
    with Server(ALLOWED) as server, server.client() as client:
        said = client.command(
            b"XCLIENT NAME=spike.example ADDR=192.0.2.7 PORT=99 DESTADDR=198.51.100.1 DESTPORT=25"
            b" REVERSE_NAME=rev.example", 220,
        )  # fmt: skip
        assert said.startswith("220 mx.example.net ESMTP")
        client.command(b"MAIL FROM:<a@b>", 503, "5.5.1")
        assert "XCLIENT" not in client.command(b"EHLO x", 250)
        client.command(b"XCLIENT NAME=other.example", 550, "5.7.0")
        found = server.ledger.connections[-1]
        assert found.client.name == b"spike.example"
        assert (found.client.address, found.client.port) == (b"192.0.2.7", 99)
        assert (found.local_address, found.local_port) == (b"198.51.100.1", 25)
        assert found.peer is not None
        assert (found.peer.reverse, found.peer.status) == (b"rev.example", NameStatus.OK)


def test_what_is_not_named_stays() -> None:
    with Server(ALLOWED) as server, server.client() as client:
        client.command(b"XCLIENT NAME=a.example", 220)
        client.command(b"XCLIENT PORT=7 LOGIN=joe+40b", 220)
        client.command(b"XCLIENT ADDR=IPV6:2001:db8::1", 220)
        found = server.ledger.connections[-1]
        assert (found.client.name, found.client.port) == (b"a.example", 7)
        assert (found.client.family, found.client.address) == (Family.INET6, b"2001:db8::1")


def test_a_name_that_is_not_known_is_told_as_such() -> None:
    with Server(ALLOWED) as server, server.client() as client:
        client.command(b"XCLIENT NAME=[TEMPUNAVAIL]", 220)
        assert server.ledger.connections[-1].peer is not None
        assert server.ledger.connections[-1].peer.status is NameStatus.TEMP
        client.command(b"XCLIENT NAME=[UNAVAILABLE] ADDR=[UNAVAILABLE]", 220)
        found = server.ledger.connections[-1]
        assert (found.client.name, found.client.address) == (b"unknown", b"")


def test_helo_and_protocol_are_told() -> None:
    with Server(ALLOWED) as server, server.client() as client:
        client.command(b"XCLIENT HELO=a.example PROTO=SMTP LOGIN=joe", 220)
        assert server.ledger.calls[-2:] == ["readmit with login", "helo"]
        client.begin()
        client.send(b"x\r\n.\r\n")
        client.expect(250)
        hello = server.accepted[0].hello
        assert hello is not None
        assert (hello.name, hello.esmtp) == (b"a.example", False)
        assert hello.login is not None
        assert hello.login.name == b"joe"


def test_a_client_that_is_refused_then_hears_it_in_place_of_the_banner() -> None:
    with Server(ALLOWED) as server, server.client() as client:
        server.ledger.answers["readmit"] = Answer(554, "5.7.1", "not you", hangup=True)
        client.command(b"XCLIENT ADDR=192.0.2.7", 554, "5.7.1")
        assert client.closed() == b""


def test_not_in_a_transaction() -> None:
    with Server(ALLOWED) as server, server.client() as client:
        client.command(b"MAIL FROM:<a@b>", 250)
        client.command(b"XCLIENT NAME=a.example", 503, "5.5.1")
        client.command(b"XFORWARD NAME=a.example", 503, "5.5.1")


@pytest.mark.parametrize(
    ("verb", "word", "text"),
    [
        ("XCLIENT", b"", "Syntax: XCLIENT attribute=value..."),
        ("XCLIENT", b"NAME", "Error: attribute=value expected"),
        ("XCLIENT", b"NAME=", "Error: attribute=value expected"),
        ("XCLIENT", b"=x", "Error: attribute=value expected"),
        ("XCLIENT", b"FOO=x", "Bad XCLIENT attribute name: FOO"),
        ("XFORWARD", b"LOGIN=x", "Bad XFORWARD attribute name: LOGIN"),
        ("XCLIENT", b"NAME=a..b", "Bad NAME syntax: a..b"),
        ("XCLIENT", b"ADDR=1.2.3", "Bad ADDR syntax: 1.2.3"),
        ("XCLIENT", b"ADDR=2001:db8::1", "Bad ADDR syntax: 2001:db8::1"),
        ("XCLIENT", b"ADDR=[TEMPUNAVAIL]", "Bad ADDR syntax: [TEMPUNAVAIL]"),
        ("XCLIENT", b"PORT=65536", "Bad PORT syntax: 65536"),
        ("XCLIENT", b"PROTO=QMQP", "Bad PROTO syntax: QMQP"),
        ("XCLIENT", b"HELO=a+0Ab", "Bad HELO syntax: a+0Ab"),
        ("XCLIENT", b"LOGIN=a+00b", "Bad LOGIN syntax: a+00b"),
        ("XCLIENT", b"HELO=a+zz", "Bad HELO syntax: a+zz"),
        ("XCLIENT", b"HELO=a=b", "Bad HELO syntax: a=b"),
        ("XFORWARD", b"SOURCE=BAD", "Bad SOURCE syntax: BAD"),
        ("XFORWARD", b"HELO=x+0D+0AMAIL", "Bad HELO syntax: x+0D+0AMAIL"),
    ],
)
def test_what_is_not_taken(verb: str, word: bytes, text: str) -> None:
    with Server(ALLOWED) as server, server.client() as client:
        assert text in client.command(verb.encode() + b" " + word, 501, "5.5.4")
        assert len(server.ledger.connections) == 1


def test_facts_of_a_mail_last_until_it_is_over() -> None:
    with Server(ALLOWED) as server, server.client() as client:
        client.command(b"XFORWARD NAME=a.example ADDR=192.0.2.7", 250, "2.0.0")
        client.command(b"XFORWARD IDENT=4abc SOURCE=LOCAL", 250, "2.0.0")
        assert server.ledger.forwarded[-1] == {
            "NAME": b"a.example", "ADDR": b"192.0.2.7", "IDENT": b"4abc", "SOURCE": b"LOCAL",
        }  # fmt: skip
        client.begin()
        client.send(b"x\r\n.\r\n")
        client.expect(250)
        client.command(b"XFORWARD HELO=x", 250, "2.0.0")
        assert server.ledger.forwarded[-1] == {"HELO": b"x"}


@given(st.binary(max_size=60), st.sampled_from(["XCLIENT", "XFORWARD"]))
def test_no_value_has_a_control_character(octets: bytes, command: str) -> None:
    names = forwarded.XCLIENT if command == "XCLIENT" else forwarded.XFORWARD
    for argument in (octets, *(each.encode() + b"=" + octets for each in names)):
        try:
            found = forwarded.parse(argument, command)
        except forwarded.AttributeFault as fault:
            assert fault.answer.code == 501  # noqa: PT017 - either outcome is right
            continue
        assert found
        for value in found.values():
            assert not any(each < 32 or each == 127 for each in value)
            assert len(value) <= forwarded.LONGEST
