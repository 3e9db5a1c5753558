"""Generated mails signed on their way through Postfix and through the gateway, in every form,
and what others say of them where they arrive; and mail that is verified on its way in."""

from __future__ import annotations

import random
import re
import signal
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from milterd.base import sockets
from milterd.core.mail import parse_message
from milterd.filters.dkim_verify import Verifier
from tests.filters.dkim_milter import results_by
from tests.filters.dkim_world import ED25519, MAIL, RSA, Dns, by_hand, write_key
from tests.filters.test_dkim_interop import COUNT, SEED, body
from tests.gateway.gateway import PATIENCE, Gateway
from tests.peers import mail_dkim, opendkim
from tests.peers.dns import dns_server
from tests.peers.postfix import Postfix
from tests.peers.process import directory, wait_for
from tests.peers.smtp_sink import SmtpSink

RECORDS = {"r._domainkey.example.net": RSA.record, "e._domainkey.example.net": ED25519.record}
MANY = max(8, COUNT // 8)
NIGHT = COUNT > 60
"""Whether each form goes by each road, or one of them."""
BY_POSTFIX = [("libmilter", "simple/simple")]
BY_GATEWAY = ["relaxed/relaxed"]
INBOUND = ["native"]
if NIGHT:
    BY_POSTFIX += [("libmilter", "relaxed/relaxed"), ("native", "simple/simple")]
    BY_GATEWAY += ["simple/simple"]
    INBOUND += ["libmilter"]


def mails() -> list[bytes]:
    """What an MTA sends on as it came: whole, without addresses to rewrite or lines to cut."""
    chance = random.Random(SEED)
    found = []
    while len(found) < MANY:
        text = body(chance)
        text = re.sub(rb"z{300,}", b"z" * 300, text).replace(b"\r\n.", b"\r\n,").removeprefix(b".")
        if max(map(len, text.split(b"\r\n"))) > 900:
            continue
        subject = chance.choice((b" one", b"two", b" Gr\xfc\xdfe\r\n\t fold  ", b"\r\n x\t"))
        head = (
            b"From: A <a@example.net>\r\nTo: b@example.org\r\nSubject:%b\r\n"
            b"Date: Fri, 21 Nov 2025 09:00:00 +0000\r\nMessage-ID: <%d@example.net>\r\n"
            b"X-Number: %d\r\n\r\n"
        ) % (subject, len(found), len(found))
        found.append(head + text + (b"" if text.endswith(b"\r\n") else b"\r\n"))
    return found


def settings(home: Path, where: Path, host: str, keys: str) -> str:
    return f"""
[metrics]
milterd = ""
[milterd]
socket_directory = "{where}"
socket_group = ""
socket_mode = "0666"
[filter.dkim]
host = "{host}"
signing_table = [
{{ domain = "example.net", selector = "r", key = "{home}/r.pem" }},
{{ domain = "example.net", selector = "e", key = "{home}/e.pem" }},
]
{keys}
"""


class Running:
    """milterd by a settings file."""

    def __init__(self, file: Path, socket: Path) -> None:
        self._log = file.with_suffix(".log").open("wb")
        command = [sys.executable, "-m", "milterd", "run", "--config", str(file)]
        self._process = subprocess.Popen(command, stderr=self._log)
        wait_for(lambda: socket.exists() and sockets.alive(str(socket)), "milterd listens")

    def close(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(PATIENCE)
        self._log.close()


@pytest.fixture
def home() -> Iterator[Path]:
    with directory("roads") as found:
        write_key(found / "r.pem", RSA)
        write_key(found / "e.pem", ED25519)
        yield found


def judge(arrived: list[bytes], home: Path) -> None:
    """Three verifiers pass both signatures of every mail; Mail::DKIM knows RSA only."""
    with opendkim.opendkim(home, "v", records=RECORDS) as peer:
        for each in arrived:
            octets = each.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
            mail = parse_message(octets)
            assert len(mail.values(b"DKIM-Signature")) == 2
            found = Verifier(Dns(RECORDS)).verify(mail).results
            assert [each.outcome.value for each in found] == ["pass", "pass"], octets
            assert results_by(str(peer.socket), mail) == {"r": "pass", "e": "pass"}, octets
    first = mail_dkim.verify(octets, RECORDS)
    assert [each["result"] for each in first if each["selector"] == "r"] == ["pass"]


@pytest.mark.parametrize(("host", "form"), BY_POSTFIX)
def test_what_is_signed_for_postfix_is_good_where_it_arrives(
    host: str, form: str, home: Path, postfix: Postfix, smtp_sink: SmtpSink
) -> None:
    where = postfix.queue / "dkim"
    where.mkdir(exist_ok=True)
    file = home / "gatepost.toml"
    file.write_text(settings(home, where, host, f'canonicalization = "{form}"'))
    running = Running(file, where / "dkim.sock")
    before = len(smtp_sink.mails())
    postfix.set({
        "smtpd_milters": "unix:dkim/dkim.sock",
        "default_transport": f"smtp:[127.0.0.1]:{smtp_sink.port}",
    })  # fmt: skip
    try:
        with smtplib.SMTP("127.0.0.1", postfix.port) as client:
            for each in mails():
                client.sendmail("a@example.net", ["b@example.org"], each, ["BODY=8BITMIME"])
        wait_for(lambda: len(smtp_sink.mails()) == before + MANY, "all mails arrive")
    finally:
        postfix.set({"smtpd_milters": ""})
        running.close()
    judge(smtp_sink.mails()[before:], home)


@pytest.fixture
def gateway(home: Path) -> Iterator[Gateway]:
    made = Gateway(home)
    yield made
    made.stop()


@pytest.mark.parametrize("form", BY_GATEWAY)
def test_what_the_gateway_has_signed_is_good_where_it_arrives(
    form: str, home: Path, gateway: Gateway
) -> None:
    (home / "milters").mkdir()
    own = settings(home, home / "milters", "native", f'canonicalization = "{form}"')
    milter = f'[[smtpgw.milter]]\nname = "dkim"\naddress = "unix:{home}/milters/dkim.sock"\n'
    gateway.configure(tables=milter + own.replace('[metrics]\nmilterd = ""\n', ""))
    text = gateway.file.read_text()
    gateway.file.write_text(text.replace("[metrics]\n", '[metrics]\nmilterd = ""\n'))
    running = Running(gateway.file, home / "milters" / "dkim.sock")
    try:
        gateway.start()
        for each in mails():
            assert gateway.send(each, "a@example.net", ["u@example.net"])[0] == 250
        arrived = gateway.delivered("u@example.net", MANY)
    finally:
        running.close()
    judge(arrived, home)


@pytest.mark.parametrize("host", INBOUND)
def test_inbound_mail_is_verified_on_its_way(
    host: str, home: Path, postfix: Postfix, smtp_sink: SmtpSink
) -> None:
    where = postfix.queue / "dkim"
    where.mkdir(exist_ok=True)
    name = "s._domainkey.example.net"
    half = f'"{RSA.record[:200]}" "{RSA.record[200:]}"'
    good = b"".join(by_hand(MAIL.replace(b"Subject", b"Message-ID: <1@b.c>\r\nSubject")).pieces())
    forged = b"Authentication-Results: mx.example.org; dkim=pass header.d=bank.example\r\n"
    with dns_server({name: {"TXT": [half]}}) as server:
        file = home / "gatepost.toml"
        keys = f"""
verify = true
authserv_id = "mx.example.org"
nameservers = ["127.0.0.1:{server.port}"]
"""
        text = settings(home, where, host, keys)
        file.write_text(text.replace("[milterd]", "[milterd]\ntrusted_networks = []"))
        running = Running(file, where / "dkim.sock")
        before = len(smtp_sink.mails())
        postfix.set({
            "smtpd_milters": "unix:dkim/dkim.sock",
            "default_transport": f"smtp:[127.0.0.1]:{smtp_sink.port}",
        })  # fmt: skip
        try:
            with smtplib.SMTP("127.0.0.1", postfix.port) as client:
                for each in (good, forged + good.replace(b"hello", b"hallo")):
                    client.sendmail("a@example.net", ["b@example.org"], each)
            wait_for(lambda: len(smtp_sink.mails()) == before + 2, "both mails arrive")
        finally:
            postfix.set({"smtpd_milters": ""})
            running.close()
    first, second = sorted(smtp_sink.mails()[before:], key=lambda each: b"hallo" in each)
    assert re.search(rb"^Authentication-Results: mx\.example\.org;\s+dkim=pass\s", first, re.M)
    assert b'dkim=fail reason="body was changed"' in second
    assert b"bank.example" not in second
