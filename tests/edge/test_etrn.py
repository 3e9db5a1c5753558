"""ETRN (RFC 1985) over the wire: when it may be said, of whom, and what answers it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smtpgw.edge.road import Answer
from tests.edge.harness import QUICK, Client, Ledger, Server

OFFERED = replace(QUICK, etrn=True)
STARTED = Answer(252, "2.0.0", "OK, pending messages for node example.net started")


@pytest.mark.parametrize(
    ("argument", "asked"),
    [(b"Example.NET", "etrn example.net False"), (b"@example.net", "etrn example.net True")],
)
def test_the_road_is_asked_and_its_answer_told(argument: bytes, asked: str) -> None:
    ledger = Ledger(answers={asked: STARTED})
    with Server(OFFERED, ledger) as server, Client(server.port) as client:
        client.expect(220)
        assert "ETRN" in client.command(b"EHLO x", 250)
        assert client.command(b"ETRN " + argument, 252) == f"252 2.0.0 {STARTED.text}\r\n"
        assert ledger.calls.count(asked) == 1


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"ETRN", 501), (b"ETRN @", 501), (b"ETRN a b", 501), (b"ETRN -x", 501),
        (b"ETRN a@example.net", 501), (b"ETRN @@example.net", 501), (b"ETRN [192.0.2.1]", 501),
        (b"ETRN " + b"x" * 300, 501), (b"ETRN x/../y", 501), (b"ETRN #queue", 458),
        (b"ETRN example.net", 458),
    ],
)  # fmt: skip
def test_what_is_no_node_never_reaches_the_road(line: bytes, code: int) -> None:
    ledger = Ledger()
    with Server(OFFERED, ledger) as server, Client(server.port) as client:
        client.expect(220)
        client.command(b"EHLO x", 250)
        client.command(line, code)
        asked = [each for each in ledger.calls if each.startswith("etrn")]
        assert asked == (
            ["etrn example.net False"] if line.endswith(b"example.net") and code == 458 else []
        )


def test_it_has_its_turn() -> None:
    """After the greeting (its answer names a node), and never inside a transaction."""
    with Server(OFFERED) as server, Client(server.port) as client:
        client.expect(220)
        client.command(b"ETRN example.net", 503)
        client.command(b"EHLO x", 250)
        client.command(b"MAIL FROM:<a@example.org>", 250)
        client.command(b"ETRN example.net", 503)
        client.command(b"RCPT TO:<u@example.net>", 250)
        client.command(b"ETRN example.net", 503)


def test_a_road_that_breaks_is_temporary() -> None:
    with (
        Server(OFFERED, Ledger(raises={"etrn example.net False"})) as server,
        Client(server.port) as client,
    ):
        client.expect(220)
        client.command(b"EHLO x", 250)
        assert "secret" not in client.command(b"ETRN example.net", 451)


def test_where_it_is_not_offered_there_is_none() -> None:
    with Server() as server, Client(server.port) as client:
        client.expect(220)
        assert "ETRN" not in client.command(b"EHLO x", 250)
        client.command(b"ETRN example.net", 502)
