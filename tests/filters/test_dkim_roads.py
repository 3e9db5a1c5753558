"""Generated mails signed on their way through Postfix and through the gateway, in every form,
and what others say of them where they arrive; and mail that is verified on its way in."""

from __future__ import annotations

import re
import signal
import smtplib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from milterd.base import sockets
from tests.filters.dkim_world import ED25519, MAIL, RSA, by_hand, write_key
from tests.filters.signed_mails import judge, mails, results, signed_by_others
from tests.filters.test_dkim_interop import COUNT, SEED
from tests.gateway.gateway import PATIENCE, Gateway
from tests.peers.dns import dns_server
from tests.peers.postfix import Postfix
from tests.peers.process import directory, free_port, wait_for
from tests.peers.smtp_sink import SmtpSink
from tests.peers.smtp_sink import smtp_sink as sink_at

MANY = COUNT if COUNT > 60 else 24
NIGHT = COUNT > 60
"""Whether each form goes by each road, or one of them."""
BY_POSTFIX = [("libmilter", "simple/simple")]
BY_GATEWAY = ["relaxed/relaxed"]
INBOUND = ["native"]
if NIGHT:
    BY_POSTFIX += [("libmilter", "relaxed/relaxed"), ("native", "relaxed/simple")]
    BY_GATEWAY += ["simple/simple"]
    INBOUND += ["libmilter"]
NIGHTLY = pytest.mark.timeout(60 + COUNT)


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


@contextmanager
def signing_postfix(
    postfix: Postfix, home: Path, host: str, form: str, port: int
) -> Iterator[Postfix]:
    """Postfix with our filter, which sends on to that port."""
    where = postfix.queue / "dkim"
    where.mkdir(exist_ok=True)
    file = home / "gatepost.toml"
    file.write_text(settings(home, where, host, f'canonicalization = "{form}"'))
    running = Running(file, where / "dkim.sock")
    milter = {"smtpd_milters": "unix:dkim/dkim.sock"}
    postfix.set(milter | {"default_transport": f"smtp:[127.0.0.1]:{port}"})
    try:
        yield postfix
    finally:
        postfix.set({"smtpd_milters": ""})
        running.close()


@contextmanager
def signing_gateway(home: Path, form: str, port: int) -> Iterator[Gateway]:
    """Our gateway with our filter, which sends on to that port."""
    (home / "milters").mkdir()
    made = Gateway(home)
    own = settings(home, home / "milters", "native", f'canonicalization = "{form}"')
    milter = f'[[smtpgw.milter]]\nname = "dkim"\naddress = "unix:{home}/milters/dkim.sock"\n'
    tables = milter + own.replace('[metrics]\nmilterd = ""\n', "")
    made.configure(tables=tables, delivery=f"smtp:[127.0.0.1]:{port}")
    text = made.file.read_text()
    made.file.write_text(text.replace("[metrics]\n", '[metrics]\nmilterd = ""\n'))
    running = Running(made.file, home / "milters" / "dkim.sock")
    try:
        yield made.start()
    finally:
        made.stop()
        running.close()


def sent(port: int, those: Sequence[bytes], sink: SmtpSink) -> list[bytes]:
    """The mails as they arrive when they are handed in there, in their order."""
    before = len(sink.mails())
    with smtplib.SMTP("127.0.0.1", port) as client:
        for each in those:
            client.sendmail("a@example.net", ["b@example.net"], each, ["BODY=8BITMIME"])
    wait_for(lambda: len(sink.mails()) == before + len(those), "all mails arrive", within=300)
    return sorted(
        sink.mails()[before:], key=lambda each: int(re.findall(rb"(?m)^X-Number: (\d+)", each)[0])
    )


HEAD = (
    b"From: a@example.net\r\nTo: b@example.net\r\nSubject: x\r\n"
    b"Date: Fri, 21 Nov 2025 09:00:00 +0000\r\nMessage-ID: <1@example.net>\r\n"
)
EIGHT = (
    b"MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
    b"Content-Transfer-Encoding: 8bit\r\n\r\nGr\xc3\xbc\xc3\x9fe\r\n"
)
CHANGED_ON_THE_WAY = {
    # As docs/dkim.md has it, "What changes after signing".
    b"\r\nno end of the last line": "pass",
    b"\r\n": "pass",
    b"\r\n.\r\n..\r\n": "pass",
    b"\r\n" + b"x" * 1500 + b"\r\n": "fail body was changed",
    EIGHT: "fail",
}


def judged(port: int, sink_port: int, form: str, home: Path) -> None:
    """What leaves is what came, every verifier passes every signature; and what an MTA has to
    change for its next hop is what the manual says."""
    made = mails(MANY, SEED)
    assert any(not each.endswith(b"\r\n") for each in made)
    ready = signed_by_others(made, form, home)
    with sink_at(home / "8", port=sink_port) as sink:
        arrived = sent(port, ready, sink)
    for was, now in zip(ready, arrived, strict=True):
        # smtp-sink(1) ends its file with an empty line.
        assert now.endswith(was.replace(b"\r\n", b"\n").partition(b"\n\n")[2] + b"\n")
    judge(arrived, home)
    those = [HEAD + b"X-Number: %d\r\n" % at + each for at, each in enumerate(CHANGED_ON_THE_WAY)]
    with sink_at(home / "7", "-8", port=sink_port) as sink:  # it does not take 8 bits
        arrived = sent(port, those, sink)
    for each, expected in zip(arrived, CHANGED_ON_THE_WAY.values(), strict=True):
        assert all(found.startswith(expected) for found in results(each)), each


@NIGHTLY
@pytest.mark.parametrize(("host", "form"), BY_POSTFIX)
def test_what_is_signed_for_postfix_is_good_where_it_arrives(
    host: str, form: str, home: Path, postfix: Postfix
) -> None:
    port = free_port()
    with signing_postfix(postfix, home, host, form, port) as mta:
        judged(mta.port, port, form, home)


@NIGHTLY
@pytest.mark.parametrize("form", BY_GATEWAY)
def test_what_the_gateway_has_signed_is_good_where_it_arrives(form: str, home: Path) -> None:
    port = free_port()
    with signing_gateway(home, form, port) as gateway:
        judged(gateway.port, port, form, home)


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
