"""Limits and errors against Debian's Postfix: the same settings, the same dialogues, each from an
address of its own; what the clients hear, and at which command they are sent away, agrees."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import trustme

from tests.gateway.gateway import PATIENCE, Gateway
from tests.peers.postfix import postfix

pytestmark = pytest.mark.xdist_group("rates-postfix")

LIMITS = {
    "smtpd_client_connection_count_limit": "3",
    "smtpd_client_connection_rate_limit": "6",
    "smtpd_client_message_rate_limit": "4",
    "smtpd_client_recipient_rate_limit": "130",
    "smtpd_client_new_tls_session_rate_limit": "2",
    "smtpd_junk_command_limit": "5",
    "smtpd_soft_error_limit": "100",
    "smtpd_hard_error_limit": "4",
    "smtpd_recipient_limit": "100",
    "smtpd_recipient_overshoot_limit": "10",
}
_REPLY = re.compile(rb"(?:\A|\r\n)([2-5]\d\d)(?: (\d\.\d+\.\d+))?(?: [^\r\n]*)?\r\n")
_EXACT = {"421", "450", "452", "454"}


@dataclass
class Wire:
    """A connection, and all that was heard on it."""

    socket: socket.socket
    seen: bytes = b""

    def reply(self) -> str:
        """The next reply: with the codes of limits as they are, of others the first digit."""
        while not (found := _REPLY.search(self.seen)):
            try:
                more = self.socket.recv(4096)
            except ConnectionError:
                return "closed"
            if not more:
                return "closed"
            self.seen += more
        self.seen = self.seen[found.end() :]
        code = found[1].decode()
        exact = code in _EXACT and found[2] is not None
        return f"{code} {found[2].decode()}" if exact else code[0]

    def send(self, line: bytes) -> str:
        """The reply to a command; "closed" once it cannot be sent."""
        try:
            self.socket.sendall(line + b"\r\n")
        except OSError:
            return "closed"
        return self.reply()

    def tls(self) -> str:
        """STARTTLS, and what comes of it."""
        heard = self.send(b"STARTTLS")
        if heard != "2":
            return heard
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            self.socket = context.wrap_socket(self.socket)
        except (OSError, ssl.SSLError):
            return "closed"
        return "tls"


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """Those of Postfix and of the gateway."""
    place = tmp_path_factory.mktemp("limits")
    place.chmod(0o755)
    issued = trustme.CA().issue_cert("gw.example.net")
    issued.private_key_and_cert_chain_pem.write_to_path(str(place / "tls.pem"))
    tls = {
        "smtpd_tls_cert_file": f"{place}/tls.pem",
        "smtpd_tls_key_file": f"{place}/tls.pem",
        "smtpd_tls_security_level": "may",
    }
    main = {
        **LIMITS,
        **tls,
        "mynetworks": "192.0.2.0/24",
        "mydestination": "example.net",
        "smtpd_relay_restrictions": "reject_unauth_destination",
    }
    gateway = Gateway(place)
    gateway.configure(
        'mynetworks = "192.0.2.0/24"\nsmtpd_peername_lookup = false\nworkers = 2\n'
        + "".join(f"{key} = {value}\n" for key, value in LIMITS.items())
        + "".join(f'{key} = "{value}"\n' for key, value in tls.items())
    )
    with contextlib.ExitStack() as stack:
        stack.callback(gateway.kill)
        gateway.start()
        yield stack.enter_context(postfix(main)).port, gateway.port


@contextlib.contextmanager
def connected(port: int, number: int) -> Iterator[Wire]:
    """A client that is known by its number."""
    with socket.socket() as plain:
        plain.settimeout(PATIENCE)
        plain.bind((f"127.0.7.{number}", 0))
        plain.connect(("127.0.0.1", port))
        wire = Wire(plain)
        try:
            yield wire
        finally:
            wire.socket.close()


MAIL, RCPT = b"MAIL FROM:<a@example.com>", b"RCPT TO:<u@example.net>"
SENT = (MAIL, RCPT, b"DATA", b"Subject: x\r\n\r\nx\r\n.")
DIALOGUES = {
    "errors": [b"BLAH"] * 6,
    "errors of all kinds": [b"RCPT TO:<x>", b"DATA", b"EHLO", b"MAIL FOR", b"NOOP"],
    "junk": [b"NOOP"] * 14,
    "junk of all kinds": [
        b"EHLO x", b"HELO x", b"RSET", b"VRFY u@example.net", b"NOOP", b"EHLO x",
        b"RSET", b"BLAH", b"NOOP", b"VRFY u@example.net", b"NOOP", b"NOOP",
    ],
    "a mail restores errors": [b"EHLO x", *[b"BLAH"] * 3, *SENT, *[b"BLAH"] * 5],
    "a mail restores junk": [b"EHLO x", *[b"NOOP"] * 7, *SENT, *[b"NOOP"] * 12],
    "a refused recipient is an error": [b"EHLO x", MAIL, *[b"RCPT TO:<u@example.com>"] * 6],
    "messages": [b"EHLO x", *[MAIL, b"RSET"] * 6, MAIL],
    "recipients too many": [b"EHLO x", MAIL, *[RCPT] * 116],
    "recipients": [b"EHLO x", MAIL, *[RCPT] * 100, *SENT[2:], MAIL, *[RCPT] * 36],
}  # fmt: skip


@pytest.mark.parametrize("name", DIALOGUES)
def test_a_dialogue(ports: tuple[int, int], name: str) -> None:
    number = 10 + list(DIALOGUES).index(name)
    heard = []
    for port in ports:
        with connected(port, number) as wire:
            found = [wire.reply(), *(wire.send(each) for each in DIALOGUES[name])]
            heard.append([*found, wire.reply() if found[-1] == "421 4.7.0" else ""])
    assert heard[0] == heard[1]
    assert "421 4.7.0" in heard[0] or name in ("messages", "recipients")


def test_connections_at_once(ports: tuple[int, int]) -> None:
    heard = []
    for port in ports:
        with contextlib.ExitStack() as stack:
            wires = [stack.enter_context(connected(port, 40)) for _ in range(5)]
            # Which of them is one too many, Postfix's processes settle among themselves.
            heard.append(sorted(each.reply() for each in wires))
    assert heard[0] == heard[1] == ["2"] * 3 + ["421 4.7.0"] * 2


def test_connections_one_after_another(ports: tuple[int, int]) -> None:
    heard: list[list[str]] = []
    for port in ports:
        heard.append([])
        for _ in range(8):
            with connected(port, 41) as wire:
                heard[-1] += [wire.reply(), wire.send(b"QUIT")]
    assert heard[0] == heard[1]
    assert heard[0][:12] == ["2"] * 12
    assert heard[0][12] == "421 4.7.0"


def test_tls_sessions(ports: tuple[int, int]) -> None:
    heard: list[list[str]] = []
    for port in ports:
        heard.append([])
        for _ in range(4):
            with connected(port, 42) as wire:
                heard[-1] += [wire.reply(), wire.send(b"EHLO x"), wire.tls(), wire.send(b"EHLO x")]
    assert heard[0] == heard[1]
    assert heard[0].count("421 4.7.0") == 1
    assert "454 4.7.0" in heard[0]
