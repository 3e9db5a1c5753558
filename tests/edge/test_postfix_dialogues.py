"""The same dialogues with our edge and with Debian's Postfix: XCLIENT, XFORWARD, STARTTLS, what
EHLO announces, and headers of the PROXY protocol.  Codes and enhanced codes agree; where they do
not, :data:`EXPLAINED` says why, and docs/listeners.md says it to people.

GATEPOST_DIALOGUES is how many are made up, GATEPOST_SEED which.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from smtpgw.edge.dialogue_options import DialogueOptions, UpstreamOptions
from smtpgw.edge.options import EdgeOptions, Limits
from tests.edge.harness import QUICK, Server
from tests.edge.test_proxy import listed
from tests.gateway.gateway import Gateway
from tests.peers.postfix import Postfix, postfix
from tests.peers.process import wait_for
from tests.tls.certificates import Authority
from tests.tls.test_server import Bench, Files

NUMBER = int(os.environ.get("GATEPOST_DIALOGUES", "200"))
SEED = int(os.environ.get("GATEPOST_SEED", "7"))
CA = Authority()

EXPLAINED = {
    # (first word of the command, Postfix, ours): why
    ("XCLIENT", "220", "501 5.5.4"): "a value with a control character, or a port above 65535",
    ("XFORWARD", "250 2.0.0", "501 5.5.4"): "the same",
    ("XCLIENT", "550 5.7.0", "501 5.5.4"): "of a refused XCLIENT Postfix keeps what it took before",
    ("XCLIENT", "550 5.7.0", "220"): "the same",
    ("XCLIENT", "220", "550 5.7.0"): "the same",
    ("MAIL", "250 2.1.0", "503 5.5.1"): "the edge wants EHLO again (RFC 5321 section 4.1.4)",
}
_REPLY = re.compile(rb"(\d{3})(?:[ -]([245]\.\d{1,3}\.\d{1,3}))?")


class Talk:
    """A raw connection: lines out, `code enhanced` in; empty when it is closed."""

    def __init__(self, port: int, first: bytes = b"") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 30)
        self.socket.sendall(first)
        self._lines = self.socket.makefile("rb")

    def reply(self) -> str:
        while True:
            try:
                line = self._lines.readline()
            except OSError:
                return ""
            if not line:
                return ""
            if line[3:4] != b"-":
                match = _REPLY.match(line)
                assert match is not None, line
                return b" ".join(each for each in match.groups() if each).decode()

    def say(self, line: bytes) -> str:
        try:
            self.socket.sendall(line + b"\r\n")
        except OSError:
            return ""
        return self.reply()

    def close(self) -> None:
        self.socket.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tls")
    for each in (place, *list(place.parents)[:2]):
        each.chmod(0o755)
    return CA.issue("mx.example.net").write(place / "chain.pem")


@pytest.fixture(scope="module")
def theirs(files: Path) -> Iterator[Postfix]:
    with postfix({
        "smtpd_authorized_xclient_hosts": "127.0.0.0/8, 198.51.100.0/24",
        "smtpd_authorized_xforward_hosts": "127.0.0.0/8, 198.51.100.0/24",
        "smtpd_tls_chain_files": str(files), "smtpd_tls_security_level": "may",
        "myhostname": "mx.example.net", "relay_domains": "example.net",
        "smtpd_error_sleep_time": "0", "smtpd_hard_error_limit": "1000",
        "smtpd_soft_error_limit": "999", "smtpd_helo_required": "no", "inet_protocols": "all",
        "inet_interfaces": "all", "smtpd_client_connection_rate_limit": "0",
        "smtpd_client_connection_count_limit": "0",
    }) as found:  # fmt: skip
        yield found


@pytest.fixture(scope="module")
def edge(files: Path) -> EdgeOptions:
    allowed = listed("127.0.0.0/8", "198.51.100.0/24")
    limits = Limits(error_sleep_time=0.0, hard_error_limit=1000, soft_error_limit=999)
    dialogue = DialogueOptions(xclient=allowed, xforward=allowed)
    return replace(QUICK, tls=Bench([Files(files)]).server, dialogue=dialogue, limits=limits)


@pytest.fixture(scope="module")
def ours(edge: EdgeOptions) -> Iterator[Server]:
    with Server(edge) as found:
        yield found


_VALUES = {
    "NAME": [b"spike.example", b"[UNAVAILABLE]", b"[TEMPUNAVAIL]", b"a..b", b"-bad-",
             b"a_b.example", b"x" * 64 + b".example", b"unknown", b"1.2.3.4", b"+61.example"],
    "ADDR": [b"198.51.100.7", b"192.0.2.1", b"IPV6:2001:db8::1", b"ipv6:::1", b"2001:db8::1",
             b"300.1.1.1", b"1.2.3", b"[UNAVAILABLE]", b"[127.0.0.1]", b"127.0.0.1"],
    "PORT": [b"25", b"0", b"65535", b"99999", b"abc", b"-1", b"[UNAVAILABLE]"],
    "PROTO": [b"SMTP", b"ESMTP", b"esmtp", b"FOO", b"[UNAVAILABLE]"],
    "HELO": [b"hh.example", b"a+2Bb", b"a+0Ab", b"[192.0.2.1]", b"[UNAVAILABLE]"],
    "LOGIN": [b"joe", b"joe+40example", b"[UNAVAILABLE]"],
    "SOURCE": [b"LOCAL", b"REMOTE", b"remote", b"ELSE", b"[UNAVAILABLE]"],
    "IDENT": [b"4ABC", b"[UNAVAILABLE]"],
    "FOO": [b"bar"],
}  # fmt: skip
_VALUES |= {"REVERSE_NAME": _VALUES["NAME"], "DESTADDR": _VALUES["ADDR"],
            "DESTPORT": _VALUES["PORT"]}  # fmt: skip
_PLAIN = [
    b"EHLO client.example", b"HELO client.example", b"MAIL FROM:<a@b.example>", b"RSET", b"NOOP",
    b"STARTTLS foo", b"XCLIENT", b"XFORWARD", b"XCLIENT NAME", b"XFORWARD NAME=",
]  # fmt: skip


def dialogue(chance: random.Random) -> Iterator[bytes]:
    """Commands that bring out XCLIENT and XFORWARD in every state."""
    yield b"EHLO client.example"
    for _ in range(chance.randrange(3, 9)):
        if chance.random() < 0.4:
            yield chance.choice(_PLAIN)
            continue
        verb = chance.choice([b"XCLIENT", b"XFORWARD"])
        words = []
        for name in chance.sample(sorted(_VALUES), chance.randrange(1, 4)):
            shown = name.lower() if chance.random() < 0.2 else name
            words.append(shown.encode() + b"=" + chance.choice(_VALUES[name]))
        yield b" ".join((verb, *words))
        if verb == b"XCLIENT" and chance.random() < 0.8:
            yield b"EHLO client.example"
    yield b"QUIT"


def played(port: int, lines: Sequence[bytes]) -> list[str]:
    talk = Talk(port)
    found = [talk.reply(), *(talk.say(each) for each in lines)]
    talk.close()
    return found


def test_made_up_dialogues(ours: Server, theirs: Postfix, record_property: object) -> None:
    chance, same, explained = random.Random(SEED), 0, Counter[str]()
    unknown: list[tuple[bytes, str, str]] = []
    for _ in range(NUMBER):
        lines = tuple(dialogue(chance))
        for line, they, we in zip(
            (b"", *lines), played(theirs.port, lines), played(ours.port, lines), strict=True
        ):
            if they == we:
                same += 1
                continue
            case = line.split(b" ")[0].decode(), they, we
            if case not in EXPLAINED:
                unknown.append((line, they, we))
            explained[" / ".join(case)] += 1
            break  # from here on they stand elsewhere
    said = f"XCLIENT and XFORWARD as Postfix: {NUMBER} dialogues, {same} replies the same"
    assert callable(record_property)
    record_property("measured", f"{said}, explained: {dict(explained)}")
    assert unknown == [], chr(10).join(map(str, unknown))
    assert same > NUMBER * 3


def keywords(port: int, *, tls: bool = False) -> set[str]:
    talk = Talk(port)
    talk.reply()
    if tls:
        talk.say(b"EHLO x")
        assert talk.say(b"STARTTLS") == "220 2.0.0"
        context = ssl.create_default_context(cadata=CA.certificate.decode())
        talk.socket = context.wrap_socket(talk.socket, server_hostname="mx.example.net")
    talk.socket.sendall(b"EHLO x\r\n")
    said = b""
    while not re.search(rb"(?:\A|\n)250 [^\n]*\n", said):
        said += talk.socket.recv(4096)
    talk.close()
    return {each[4:].split()[0] for each in said.decode().splitlines()[1:]}


@pytest.mark.parametrize("tls", [False, True])
def test_what_ehlo_announces(ours: Server, theirs: Postfix, tls: bool) -> None:
    found = keywords(ours.port, tls=tls)
    assert found == keywords(theirs.port, tls=tls) - {"ETRN"}  # which here goes by its setting
    assert ("STARTTLS" in found) is not tls


@pytest.mark.parametrize(
    "lines",
    [
        [b"STARTTLS foo"],
        [b"EHLO x", b"STARTTLS foo", b"NOOP"],
        [b"EHLO x", b"MAIL FROM:<a@b.example>", b"STARTTLS"],
        [b"HELO x", b"STARTTLS"],
        [b"EHLO x", b"STARTTLS"],
    ],
)
def test_answers_to_starttls(ours: Server, theirs: Postfix, lines: list[bytes]) -> None:
    they, we = played(theirs.port, lines), played(ours.port, lines)
    if they[-1] != we[-1]:
        assert ("STARTTLS", they[-1], we[-1]) in STATES
    assert they[:-1] == we[:-1]


STATES = {
    ("STARTTLS", "554 5.5.1", "503 5.5.1"): "in a transaction: 503 is the code of the order",
    ("STARTTLS", "220 2.0.0", "503 5.5.1"): "in a transaction; it would be given up silently",
}


# -- PROXY ----------------------------------------------------------------------------------


def header(chance: random.Random) -> bytes:
    """A header of either version, most of them good."""
    client = ".".join(str(chance.randrange(1, 255)) for _ in range(4))
    port = chance.choice([1, 25, 65535])
    bad = chance.random() < 0.4
    if chance.random() < 0.5:
        if bad:
            client, port = chance.choice([(client, 70000), ("1.2.3", port), ("::1", port)])
        if chance.random() < 0.1:
            return b"PROXY UNKNOWN\r\n"
        return f"PROXY TCP4 {client} 127.0.0.1 {port} 25\r\n".encode()
    parts = [int(each) for each in client.split(".")]
    inside = bytes(parts) + b"\x7f\0\0\1" + struct.pack("!HH", port, 25)
    command, family, size = 0x21, 0x11, len(inside)
    if chance.random() < 0.15:
        command = 0x20
    elif bad:
        command, family, size = chance.choice([
            (0x11, family, size), (0x22, family, size), (command, 0x31, size),
            (command, 0x12, size), (command, family, 4), (command, family, 65535),
        ])  # fmt: skip
    return b"\r\n\r\n\0\r\nQUIT\n" + bytes([command, family]) + struct.pack("!H", size) + inside


def greeting(port: int, first: bytes) -> bool:
    """Whether the header is taken: there is a banner."""
    talk = Talk(port, first)
    with contextlib.suppress(OSError):  # it is closed
        talk.socket.shutdown(socket.SHUT_WR)
    found = talk.reply()
    talk.close()
    return found.startswith("220")


def test_made_up_proxy_headers(edge: EdgeOptions, theirs: Postfix) -> None:
    theirs.set({"smtpd_upstream_proxy_protocol": "haproxy", "smtpd_upstream_proxy_timeout": "2s"})
    behind = replace(edge, upstream=UpstreamOptions(listed("127.0.0.0/8"), 2.0))
    wait_for(lambda: not greeting(theirs.port, b"EHLO x\r\n"), "Postfix wants a header")
    chance, differ = random.Random(SEED), list[bytes]()
    try:
        with Server(behind) as server:
            for _ in range(NUMBER // 4):
                first = header(chance)
                if greeting(theirs.port, first) != greeting(server.port, first):
                    differ.append(first)
    finally:
        theirs.set({"smtpd_upstream_proxy_protocol": ""})
        wait_for(lambda: greeting(theirs.port, b""), "Postfix wants none")
    assert differ == []


def test_answers_to_vrfy(running: Gateway, theirs: Postfix) -> None:
    """The whole gateway, by restriction lists and lists of recipients."""
    theirs.set({
        "mynetworks": "192.0.2.0/24", "relay_recipient_maps": "inline:{{u@example.net=x}}",
    })  # fmt: skip
    lines = [
        b"EHLO x", b"VRFY u@example.net", b"VRFY v@example.net", b"VRFY postmaster",
        b"VRFY <u@elsewhere.example>", b"VRFY u@elsewhere.example SMTPUTF8", b"VRFY", b"VRFY a b",
        b"VRFY <>",
    ]  # fmt: skip
    assert played(theirs.port, lines) == played(running.port, lines)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    gateway = Gateway(tmp_path_factory.mktemp("gateway"))
    gateway.configure(
        'mynetworks = ["192.0.2.0/24"]\nrelay_domains = "example.net"\n'
        'relay_recipient_maps = "inline:{u@example.net=x}"\n'
    )
    text = gateway.file.read_text().replace('mydestination = ["example.net"]', "mydestination = []")
    gateway.file.write_text(text)
    yield gateway.start()
    gateway.kill()
