"""What a postmaster may forbid, hide or bend in the dialogue."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from smtpgw.edge.dialogue_options import DialogueOptions
from smtpgw.edge.road import Answer
from tests.edge.harness import QUICK, Client, Server


def server(**options: Any) -> Server:
    return Server(replace(QUICK, dialogue=DialogueOptions(**options)))


def test_the_banner() -> None:
    options = replace(QUICK, banner="mx.example.net ESMTP no UCE")
    with Server(options) as found, Client(found.port) as client:
        assert client.expect(220) == "220 mx.example.net ESMTP no UCE\r\n"


def test_vrfy_may_be_disabled() -> None:
    with server(vrfy=False) as found, Client(found.port) as client:
        client.expect(220)
        assert "VRFY" not in client.command(b"EHLO x", 250)
        client.command(b"VRFY u", 502, "5.5.1")


def test_forbidden_commands_end_it() -> None:  # B23
    with server(forbidden=frozenset({"FROB"})) as found:
        client = found.client()
        client.command(b"FROB x", 221, "2.7.0")
        assert client.closed() == b""
    with server() as found:
        client = found.client()
        client.command(b"CONNECT", 221, "2.7.0")
        assert client.closed() == b""


def test_a_quit_that_does_nothing_does_nothing() -> None:
    with server(noop=frozenset({"QUIT"})) as found, found.client() as client:
        client.command(b"QUIT", 250)
        client.command(b"NOOP", 250)


def test_noop_commands_do_nothing() -> None:
    with server(noop=frozenset({"FROB"})) as found, found.client() as client:
        client.command(b"frob x", 250, "2.0.0")


def test_keywords_that_are_not_announced_do_not_work_either() -> None:
    hidden = frozenset({"CHUNKING", "DSN", "SILENT-DISCARD"})
    with server(discard=hidden) as found, Client(found.port) as client:
        client.expect(220)
        said = client.command(b"EHLO x", 250)
        assert "CHUNKING" not in said
        assert "DSN" not in said
        client.command(b"MAIL FROM:<a@b> RET=HDRS", 555)
        client.command(b"MAIL FROM:<a@b>", 250)
        client.command(b"RCPT TO:<u@d>", 250)
        client.command(b"BDAT 1 LAST", 502, "5.5.1")


def test_keywords_by_the_address_of_the_client() -> None:
    async def find(address: bytes) -> bytes | None:
        return b"size, 8bitmime" if address == b"127.0.0.1" else None

    options = {"discard": frozenset({"DSN"}), "discard_for": find}
    with server(**options) as found, Client(found.port) as client:
        client.expect(220)
        said = client.command(b"EHLO x", 250)
        assert "SIZE" not in said
        assert "DSN" in said


def test_smtputf8_may_be_off() -> None:
    with server(smtputf8=False) as found, Client(found.port) as client:
        client.expect(220)
        assert "SMTPUTF8" not in client.command(b"EHLO x", 250)
        client.command(b"MAIL FROM:<a@b> SMTPUTF8", 555)


def test_a_command_may_be_another() -> None:
    async def find(line: bytes) -> bytes | None:
        changed = re.sub(rb"(?i)^HELO_(.*)", rb"HELO \1", line)
        return changed if changed != line else None

    with server(command_filter=find) as found, Client(found.port) as client:
        client.expect(220)
        client.command(b"HELO_x", 250)
        client.command(b"NOOP", 250)


def test_vrfy_says_what_rcpt_would() -> None:
    with Server() as found, found.client() as client:
        assert client.command(b"VRFY u@example.net", 252) == "252 2.0.0 u@example.net\r\n"
        client.command(b"VRFY <u@example.net> SMTPUTF8", 252, "2.0.0")
        client.command(b"VRFY root", 252, "2.0.0")
        client.command(b"VRFY", 501, "5.5.4")
        for wrong in (b"a b", b"<>", b"@", b"<a@b"):
            client.command(b"VRFY " + wrong, 501, "5.1.3")
        assert found.ledger.calls.count("vrfy") == 3
        found.ledger.answers["vrfy"] = Answer(550, "5.1.1", "no such user")
        client.command(b"VRFY nobody@example.net", 550, "5.1.1")
