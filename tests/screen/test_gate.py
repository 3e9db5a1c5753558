"""Screening in the running gateway: the same connection goes on, its dialogue under watch."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from smtpgw.cli import app
from tests.gateway.gateway import PATIENCE, Gateway, until
from tests.peers.dns import dns_server

_REPLY = re.compile(rb"\d{3} ")
LOOKED_AT = 'mynetworks = ["127.0.0.1"]\npostscreen_enable = true\n'
QUICK = LOOKED_AT + 'postscreen_greet_wait = "1s"\n'
ENVELOPE = (
    b"EHLO me.example\r\n",
    b"MAIL FROM:<a@example.org>\r\n",
    b"RCPT TO:<u@example.net>\r\n",
)


@contextlib.contextmanager
def running(place: Path, top: str, common: str = QUICK) -> Iterator[Gateway]:
    gateway = Gateway(place)
    gateway.configure(top=common + "smtpd_peername_lookup = false\n" + top)
    try:
        yield gateway.start()
    finally:
        gateway.kill()


class Client:
    """Sends octets and reads replies."""

    def __init__(self, gateway: Gateway, address: str, port: int = 0) -> None:
        where = ("127.0.0.1", port or gateway.port)
        self.socket = socket.create_connection(where, PATIENCE, source_address=(address, 0))
        self._reader = self.socket.makefile("rb")

    def reply(self) -> bytes:
        """The next one, whole; nothing if the connection is closed."""
        lines = []
        while line := self._reader.readline():
            lines.append(line)
            if _REPLY.match(line):
                break
        return b"".join(lines)

    def say(self, *octets: bytes) -> list[bytes]:
        """The replies to these, one after the other."""
        found = []
        for each in octets:
            self.socket.sendall(each)
            found.append(self.reply())
        return found

    def close(self) -> None:
        self._reader.close()
        self.socket.close()


DEEP = """
postscreen_pipelining_enable = true
postscreen_non_smtp_command_enable = true
postscreen_bare_newline_enable = true
postscreen_bare_newline_action = "enforce"
"""


def test_a_good_new_client_gets_its_mail_in_at_once(tmp_path: Path) -> None:
    """The tests of the dialogue defer nobody; what was passed is remembered."""
    with running(tmp_path, DEEP) as gateway:
        client = Client(gateway, "127.0.0.21")
        assert client.reply().startswith(b"220-gw.example.net ESMTP Gatepost\r\n220 ")
        hello, *_ = client.say(*ENVELOPE, b"DATA\r\n")
        assert b"PIPELINING" not in hello, "who is not told of it does not use it"
        assert client.say(b"Subject: x\r\n\r\nx\r\n.\r\n", b"QUIT\r\n")[0].startswith(b"250 2.0.0")
        gateway.delivered()
        gateway.told("screen", outcome="pass new", client="127.0.0.21")
        again = Client(gateway, "127.0.0.21")
        assert again.reply().startswith(b"220 "), "no teaser, no wait"
        assert b"PIPELINING" in again.say(ENVELOPE[0])[0]
        gateway.told("screen", outcome="pass old", client="127.0.0.21")
        pages = json.dumps(gateway.metrics())
        assert "gatepost_screened_total" in pages


def test_who_fails_is_refused_from_then_on(tmp_path: Path) -> None:
    """Whatever was said before the failure; recipients accepted before get no mail after it."""
    with running(tmp_path, DEEP) as gateway:
        clients = [Client(gateway, f"127.0.0.{each}") for each in (22, 23, 24, 25)]
        one, two, three, four = clients
        for each in clients:
            each.reply()
        assert one.say(ENVELOPE[0], b"".join(ENVELOPE[1:]))[-1].startswith(b"250 2.1.0")
        assert one.reply().startswith(b"550 5.5.1 Protocol error")
        assert two.say(b"EHLO x\n")[0].startswith(b"250-gw")
        assert two.say(*ENVELOPE)[-1].startswith(b"550 5.5.1 Protocol error")
        for address in ("127.0.0.22", "127.0.0.23"):
            (line,) = gateway.told("command", filter="postscreen", client=address)
            assert (line["sender"], line["recipient"]) == ("a@example.org", "u@example.net")
        assert three.say(ENVELOPE[0], b"Subject: x\r\n")[-1].startswith(b"521 5.7.0")
        assert three.reply() == b""
        assert four.say(*ENVELOPE)[-1].startswith(b"250 2.1.5")
        assert four.say(b"NOOP\n")[0].startswith(b"250")
        assert four.say(b"DATA\r\n")[0].startswith(b"503 5.5.1"), "no MAIL, as far as it knows"
        assert four.reply() == b""
        assert not (gateway.mail / "u@example.net").exists()
        addresses = [each.socket.getsockname()[0] for each in clients]
        for each in clients:
            each.close()
        for each in [Client(gateway, address) for address in addresses]:
            assert each.reply().startswith(b"220-"), "it has passed nothing"


def test_limits_on_those_who_are_looked_at(tmp_path: Path) -> None:
    """postscreen_pre_queue_limit, postscreen_client_connection_count_limit."""
    top = "postscreen_pre_queue_limit = 2\npostscreen_client_connection_count_limit = 1\n"
    top += 'postscreen_greet_wait = "6s"\n'  # they come while the first is looked at
    with running(tmp_path, top, LOOKED_AT) as gateway:
        first = Client(gateway, "127.0.0.31")
        assert first._reader.readline().startswith(b"220-")
        assert Client(gateway, "127.0.0.31").reply().startswith(b"421 4.7.0 Error: too many")
        second = Client(gateway, "127.0.0.32")
        assert second._reader.readline().startswith(b"220-")
        third = Client(gateway, "127.0.0.33")
        assert third.reply().startswith(b"421 4.3.2 All screening ports are busy")
        assert first.reply().startswith(b"220 ")
        assert Client(gateway, "127.0.0.31").reply().startswith(b"220 "), "it is known by now"


def test_who_hangs_up_before_the_banner_leaves_nothing_behind(tmp_path: Path) -> None:
    with dns_server() as dns:
        dns.gate.clear()
        gateway = Gateway(tmp_path)
        gateway.configure(
            top=QUICK + 'smtpd_peername_lookup = false\npostscreen_dnsbl_sites = ["bl.example"]\n',
            tables=f'[smtpgw.dns]\nnameservers = ["127.0.0.1:{dns.port}"]\n',
        )
        try:
            gateway.start()
            for _ in range(20):
                Client(gateway, "127.0.0.41").close()
            until(lambda: dns.asked)
            assert Client(gateway, "127.0.0.42").reply().startswith(b"220-")
            assert gateway.stop() == 0
            assert not gateway.events("session failed")
        finally:
            dns.gate.set()
            gateway.kill()


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ('postscreen_dnsbl_sites = ["a.example==127.0.0.5"]', "did you mean =127.0.0.5?"),
        ('postscreen_access_list = ["permit_mynetwork"]', "permit_mynetworks, permit, reject"),
        ('postscreen_access_list = ["cidr:/does/not/exist"]', "/does/not/exist"),
        ('postscreen_dnsbl_min_ttl = "2h"', "no longer than postscreen_dnsbl_max_ttl"),
        ("postscreen_dnsbl_allowlist_threshold = 2", "less than or equal to 0"),
        ('postscreen_greet_action = "reject"', "postscreen_greet_action"),
        ('postscreen_greet_banner = "$nobody"', "$nobody"),
    ],
)
def test_settings_that_cannot_be_used(tmp_path: Path, top: str, words: str) -> None:
    gateway = Gateway(tmp_path)
    gateway.configure(top="postscreen_enable = true\n" + top)
    done = CliRunner().invoke(app, ["check", "-c", str(gateway.file)])
    assert done.exit_code != 0
    assert words in " ".join(done.output.split())
