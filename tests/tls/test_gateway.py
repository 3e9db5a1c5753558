"""Listeners of each profile in the running gateway, over real TLS, LMTP, sockets and reloads."""

from __future__ import annotations

import contextlib
import shutil
import signal
import smtplib
import socket
import ssl
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from smtpgw import check
from tests.gateway.gateway import PATIENCE, Gateway, until
from tests.peers.process import free_port
from tests.tls.certificates import Authority, alone

CA = Authority()
NAME = "gw.example.net"
FORMAT = """
[[smtpgw.listener]]
name = "{name}"
address = "{address}"
profile = "{profile}"
{more}
"""


CLEAR = 'smtpd_tls_security_level = "none"'


class House:
    """A gateway with a listener of each profile."""

    def __init__(self, place: Path) -> None:
        self.gateway, self.place = Gateway(place), place
        self.ports = {name: free_port() for name in ("submission", "submissions", "internal", "up")}
        self.chain = place / "chain.pem"
        CA.issue(NAME).write(self.chain)
        (place / "ca.pem").write_bytes(CA.certificate)
        self.socket = place / "lmtp.sock"
        self.configure()

    def configure(self, top: str = "") -> None:
        tables = "".join(
            FORMAT.format(name=name, address=f"127.0.0.1:{port}", profile=profile, more=more)
            for name, port, profile, more in (
                ("submission", self.ports["submission"], "submission", "milters = []"),
                ("submissions", self.ports["submissions"], "submissions", ""),
                ("internal", self.ports["internal"], "internal", CLEAR),
                ("up", self.ports["up"], "mx", 'smtpd_upstream_proxy_protocol = "haproxy"\n'
                 'smtpd_upstream_proxy_hosts = ["127.0.0.1"]\nsmtpd_upstream_proxy_timeout = "1s"'),
            )
        )  # fmt: skip
        tables += FORMAT.format(
            name="lmtp", address=f"unix:{self.socket}", profile="lmtp",
            more='smtpd_tls_security_level = "none"',
        )  # fmt: skip
        self.gateway.configure(
            f'mynetworks = ["127.0.0.0/8"]\nsmtpd_tls_chain_files = "{self.chain}"\n'
            f'smtpd_tls_ask_ccert = true\nsmtpd_tls_CAfile = "{self.place}/ca.pem"\n'
            f"smtpd_sasl_auth_enable = false\n{top}",
            tables,
        )


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    place = Path(tempfile.mkdtemp(dir="/tmp", prefix="gw"))
    one = House(place)
    one.gateway.start()
    yield one
    one.gateway.kill()
    shutil.rmtree(place)


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=CA.certificate.decode())
    context.check_hostname = False
    return context


MAIL = b"Subject: x\r\n\r\nhello\r\n"


def send(client: smtplib.SMTP, recipient: str = "u@example.net") -> None:
    with client:
        assert client.sendmail("a@example.org", [recipient], MAIL) == {}


def test_submission_wants_tls_first(house: House) -> None:
    with smtplib.SMTP("127.0.0.1", house.ports["submission"], timeout=PATIENCE) as client:
        client.ehlo("x")
        assert client.docmd("MAIL", "FROM:<a@b>") == (
            530,
            b"5.7.0 Must issue a STARTTLS command first",
        )
        client.starttls(context=trusting())
        send(client, "one@example.net")
    (mail,) = house.gateway.delivered("one@example.net")
    assert b"(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256 bits))" in mail
    assert b"with ESMTPS id" in mail


def test_submissions_is_tls_from_the_first_octet(house: House) -> None:
    port = house.ports["submissions"]
    send(smtplib.SMTP_SSL("127.0.0.1", port, context=trusting(), timeout=PATIENCE))
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as plain:
        plain.sendall(b"EHLO x\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert not plain.recv(100).startswith(b"220")


@pytest.mark.parametrize("kind", ["trusted", "unknown"])
def test_a_clients_certificate_stands_in_the_trace(house: House, kind: str) -> None:
    issued = CA.issue("client.example") if kind == "trusted" else alone("client.example")
    context = trusting()
    context.load_cert_chain(issued.write(house.place / "client.pem"))
    client = smtplib.SMTP("127.0.0.1", house.gateway.port, timeout=PATIENCE)
    client.starttls(context=context)
    send(client, f"{kind}@example.net")
    (mail,) = house.gateway.delivered(f"{kind}@example.net")
    verdict = b"verified OK" if kind == "trusted" else b"not verified"
    assert b'(Client CN "client.example", Issuer "' in mail
    assert b"(" + verdict + b"))" in mail
    trusted = kind == "trusted"
    assert house.gateway.told("TLS connection", subject="client.example", trusted=trusted)


def test_openssl_sees_what_is_promised(house: House) -> None:
    """A client that is not Python's: TLS 1.2 at least, no compression, the whole chain."""
    done = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{house.gateway.port}", "-starttls", "smtp",
         "-CAfile", str(house.place / "ca.pem"), "-servername", NAME, "-verify_return_error"],
        input=b"QUIT\r\n", capture_output=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert b"Verify return code: 0 (ok)" in done.stdout
    assert b"Compression: NONE" in done.stdout
    old = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{house.gateway.port}", "-starttls", "smtp",
         "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
        input=b"QUIT\r\n", capture_output=True, check=False, timeout=PATIENCE,
    )  # fmt: skip
    assert b"Cipher is (NONE)" in old.stdout


def test_lmtp_on_a_unix_socket(house: House) -> None:
    client = smtplib.LMTP(str(house.socket))
    client.ehlo("x")
    client.mail("a@example.org")
    assert client.rcpt("l1@example.net")[0] == 250
    assert client.rcpt("l2@example.net")[0] == 250
    assert client.docmd("DATA")[0] == 354
    client.send(MAIL + b".\r\n")
    first, second = client.getreply(), client.getreply()
    assert first == second
    assert first[0] == 250
    assert b"with LMTP id" in house.gateway.delivered("l1@example.net")[0]
    client.quit()


def test_internal_takes_mail_back_in_the_clear(house: House) -> None:
    send(smtplib.SMTP("127.0.0.1", house.ports["internal"], timeout=PATIENCE))


def test_the_client_behind_a_balancer_is_judged(house: House) -> None:
    with socket.create_connection(("127.0.0.1", house.ports["up"]), PATIENCE) as client:
        client.sendall(b"PROXY TCP4 198.51.100.7 198.51.100.1 4711 25\r\n")
        replies = client.makefile("rb")
        assert replies.readline().startswith(b"220 ")
        for line, code in ((b"HELO x", b"250"), (b"MAIL FROM:<a@b.example>", b"250"),
                           (b"RCPT TO:<u@elsewhere.example>", b"554")):  # fmt: skip
            client.sendall(line + b"\r\n")
            assert replies.readline().startswith(code)
    assert house.gateway.told("command", client="198.51.100.7")


def test_bad_settings_change_nothing(house: House) -> None:  # F25
    """A certificate that cannot be read is found before any worker hears of it."""
    gateway = house.gateway
    assert gateway.process is not None
    before = gateway.file.read_text()
    session = smtplib.SMTP("127.0.0.1", gateway.port, timeout=PATIENCE)
    session.ehlo("x")
    refused = gateway.count("settings not taken, the old ones stay")
    gateway.file.write_text(before.replace("chain.pem", "missing.pem"))
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: gateway.count("settings not taken, the old ones stay") > refused)
    assert "missing.pem" in gateway.events("settings not taken, the old ones stay")[-1]["reason"]
    assert gateway.count("worker keeps its old settings") == 0
    client = smtplib.SMTP("127.0.0.1", gateway.port, timeout=PATIENCE)
    client.starttls(context=trusting())
    send(client)
    gateway.file.write_text(before)
    taken = gateway.count("settings taken")
    gateway.process.send_signal(signal.SIGHUP)
    until(lambda: gateway.count("settings taken") > taken)
    send(session)  # which began before all that


def test_a_certificate_that_changes_is_shown_without_a_reload(house: House) -> None:
    new = CA.issue(NAME)
    aside = house.place / "new.pem"
    new.write(aside).replace(house.chain)

    def shown() -> bool:
        raw = socket.create_connection(("127.0.0.1", house.ports["submissions"]), PATIENCE)
        with raw, trusting().wrap_socket(raw, server_hostname=NAME) as client:
            return client.getpeercert(True) == new.der

    until(shown)


def test_tickets_of_one_listener_are_no_good_at_another(place: Path) -> None:  # D12
    """Without client certificates, for which no session is gone on with at all."""
    house = House(place)
    text = house.gateway.file.read_text().replace("smtpd_tls_ask_ccert = true\n", "")
    house.gateway.file.write_text(text)
    house.gateway.start()
    context, found = trusting(), list[bool]()
    session = None
    for listener in ("submission", "submission", "mx"):
        port = house.gateway.port if listener == "mx" else house.ports[listener]
        with socket.create_connection(("127.0.0.1", port), PATIENCE) as raw:
            replies = raw.makefile("rb", buffering=0)
            for line in (b"", b"EHLO x\r\n", b"STARTTLS\r\n"):
                raw.sendall(line)
                while replies.readline()[3:4] != b" ":
                    pass
            with context.wrap_socket(raw, server_hostname=NAME, session=session) as client:
                client.sendall(b"EHLO x\r\n")
                client.recv(4096)
                found.append(bool(client.session_reused))
                session = client.session
    house.gateway.kill()
    assert found == [False, True, False]


def test_sockets_of_the_service_manager_by_name(place: Path) -> None:
    """systemd-socket-activate passes descriptors as systemd does."""
    house = House(place)
    ports = [free_port(), free_port()]
    house.gateway.port = ports[1]
    prefix = ["systemd-socket-activate", *(f"--listen=127.0.0.1:{each}" for each in ports),
              "--fdname=submissions:mx"]  # fmt: skip
    house.gateway.start(wait=False, prefix=prefix)
    client = until(lambda: _connected(ports[0]), what="a listening socket")
    until(lambda: house.gateway.count("ready"), what="ready")
    with trusting().wrap_socket(client, server_hostname=NAME) as secure:
        assert secure.recv(100).startswith(b"220 ")
    send(smtplib.SMTP("127.0.0.1", ports[1], timeout=PATIENCE))
    house.gateway.kill()
    assert not house.socket.exists()


def _connected(port: int) -> socket.socket | None:
    with contextlib.suppress(OSError):
        return socket.create_connection(("127.0.0.1", port), PATIENCE)
    return None


def test_check_tells_how_long_certificates_are_good(place: Path) -> None:
    house = House(place)
    for days, level, text in ((40, "ok", "days left"), (3, "warning", "days left"),
                              (-2, "warning", "expired 2 days ago")):  # fmt: skip
        CA.issue(NAME, days=days).write(house.chain)
        findings, _ = check.examine(house.gateway.file)
        said = [each for each in findings if each.subject == "certificate submissions"]
        assert [each.level for each in said] == [level]
        assert text in said[0].detail
        assert "ECDSA, gw.example.net" in said[0].detail


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ("", "encrypt, and no certificate"),
        ("smtpd_tls_wrappermode = true", "smtpd_tls_wrappermode, and no certificate"),
        ('smtpd_upstream_proxy_protocol = "haproxy"\nsmtpd_tls_security_level = "none"',
         "smtpd_upstream_proxy_hosts"),
        ('smtpd_discard_ehlo_keywords = "dsm"\nsmtpd_tls_security_level = "none"', "dsm"),
    ],
)  # fmt: skip
def test_settings_that_do_not_go_together(place: Path, more: str, found: str) -> None:
    gateway = Gateway(place)
    tables = FORMAT.format(name="s", address="127.0.0.1:0", profile="submission", more=more)
    gateway.configure(tables=tables)
    findings, usable = check.examine(gateway.file)
    assert not usable
    assert found in findings[0].detail


def test_lmtp_is_not_for_port_25(place: Path) -> None:
    gateway = Gateway(place)
    gateway.configure(tables=FORMAT.format(name="l", address="[::1]:25", profile="lmtp", more=""))
    findings, usable = check.examine(gateway.file)
    assert not usable
    assert "port 25" in findings[0].detail


def test_what_xforward_says_stands_in_the_log_with_its_mail(place: Path) -> None:
    gateway = Gateway(place)
    gateway.configure('smtpd_authorized_xforward_hosts = ["127.0.0.1"]')
    gateway.start()
    with gateway.client() as client:
        assert client.docmd("XFORWARD", "NAME=far.example ADDR=192.0.2.7")[0] == 250
        assert client.docmd("XFORWARD", "IDENT=4ABC")[0] == 250
        assert client.sendmail("a@example.org", ["u@example.net"], MAIL) == {}
        assert client.sendmail("b@example.org", ["u@example.net"], MAIL) == {}
    first, second = (gateway.told("message", sender=f"{each}@example.org")[0] for each in "ab")
    assert first["forwarded"] == {"NAME": "far.example", "ADDR": "192.0.2.7", "IDENT": "4ABC"}
    assert "forwarded" not in second
    gateway.kill()
