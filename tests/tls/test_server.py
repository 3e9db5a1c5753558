"""A listener's TLS over real handshakes: certificates of two kinds, names, files that change,
tickets, and certificates of clients."""

from __future__ import annotations

import contextlib
import hashlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from smtpgw.edge.options import EdgeOptions
from smtpgw.edge.road import Tls
from smtpgw.tls.chains import MAX_FILE, ChainError
from smtpgw.tls.context import ContextError
from smtpgw.tls.names import SniMaps
from smtpgw.tls.options import ClientOptions, Files, ServerOptions
from smtpgw.tls.server import LOOK_EVERY, Clocks, TlsServer
from smtpgw.tls.versions import Versions
from tests.edge.harness import QUICK, Client, Server
from tests.tls.certificates import NOW, Authority, Issued, alone

CA = Authority()
NAME = "mx.example.net"


@dataclass
class Said:
    """A log that keeps what it was told."""

    lines: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def info(self, event: str, **facts: Any) -> None:
        self.lines.append((event, facts))

    error = warning = info

    def events(self) -> list[str]:
        return [event for event, _ in self.lines]


@dataclass
class Bench:
    """A server of TLS with a clock that the test moves."""

    files: Sequence[Files]
    options: ServerOptions = field(default_factory=ServerOptions)
    names: SniMaps | None = None
    now: float = 0.0

    def __post_init__(self) -> None:
        self.log = Said()
        self.server = TlsServer(
            replace(self.options, files=self.files),
            self.log,  # type: ignore[arg-type] # as much of a log as is asked for
            Clocks(lambda: self.now, NOW.timestamp),
            self.names,
        )

    @property
    def edge(self) -> EdgeOptions:
        return replace(QUICK, tls=self.server)


def chain(directory: Path, name: str, issued: Issued) -> Files:
    return Files(issued.write(directory / name))


def trusting(**choices: Any) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=CA.certificate.decode())
    for name, value in choices.items():
        setattr(context, name, value)
    return context


def secured(
    client: Client, context: ssl.SSLContext, name: str = NAME, session: Any = None
) -> ssl.SSLSocket:
    """STARTTLS, and a reply under TLS, with which the tickets of TLS 1.3 have come."""
    client.command(b"STARTTLS", 220)
    client.socket = context.wrap_socket(client.socket, server_hostname=name, session=session)
    client.command(b"EHLO x", 250)
    return client.socket


@pytest.fixture
def mixed(tmp_path: Path) -> list[Files]:
    """An ECDSA and an RSA chain."""
    return [
        chain(tmp_path, "ec.pem", CA.issue(NAME)),
        chain(tmp_path, "rsa.pem", CA.issue(NAME, kind="rsa")),
    ]


@pytest.mark.parametrize("kind", ["ECDSA", "RSA"])
def test_clients_of_either_kind_of_key(mixed: list[Files], kind: str) -> None:
    context = trusting(maximum_version=ssl.TLSVersion.TLSv1_2)
    context.set_ciphers(f"ECDHE+a{kind}")
    with Server(Bench(mixed).edge) as server, server.client() as client:
        cipher = secured(client, context).cipher()
        assert cipher is not None
        assert f"ECDHE-{kind}-" in cipher[0]


def test_one_file_may_hold_both(tmp_path: Path, mixed: list[Files]) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(b"".join(each.chain.read_bytes() for each in mixed))
    for kind in ("ECDSA", "RSA"):
        context = trusting(maximum_version=ssl.TLSVersion.TLSv1_2)
        context.set_ciphers(f"ECDHE+a{kind}")
        with Server(Bench([Files(both)]).edge) as server, server.client() as client:
            secured(client, context)


def test_versions_and_ciphers_are_the_postmasters(mixed: list[Files]) -> None:
    only = ServerOptions(
        versions=Versions(ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2),
        ciphers="ECDHE-RSA-AES256-GCM-SHA384:!aNULL", server_order=True, curve="secp384r1",
    )  # fmt: skip
    with Server(Bench(mixed, only).edge) as server:
        with server.client() as client:
            assert secured(client, trusting()).cipher() == (
                "ECDHE-RSA-AES256-GCM-SHA384", "TLSv1.2", 256,
            )  # fmt: skip
        with server.client() as client, pytest.raises((ssl.SSLError, ConnectionError)):
            secured(client, trusting(minimum_version=ssl.TLSVersion.TLSv1_3))


# -- names ----------------------------------------------------------------------------


def test_a_name_of_its_own_has_a_certificate_of_its_own(tmp_path: Path) -> None:
    main = chain(tmp_path, "main.pem", CA.issue(NAME))
    CA.issue("other.example").write(tmp_path / "other.pem")
    CA.issue("a.wild.example", "b.wild.example").write(tmp_path / "wild.pem")
    table = {b"other.example": b"other.pem", b".wild.example": str(tmp_path / "wild.pem").encode()}
    bench = Bench([main], names=SniMaps(table.get, tmp_path))
    with Server(bench.edge) as server:
        for name in (NAME, "other.example", "a.wild.example", "B.Wild.Example"):
            with server.client() as client:
                secured(client, trusting(), name)  # which looks at the certificate's names
        with server.client() as client, pytest.raises(ssl.SSLCertVerificationError):
            secured(client, trusting(), "wild.example")
        with server.client() as client:
            secured(
                client, trusting(check_hostname=False, verify_mode=ssl.CERT_NONE), "a!b.example"
            )
    assert "TLS name is not ours" in bench.log.events()
    assert "TLS name is none" in bench.log.events()


def test_a_name_whose_files_are_broken_gets_the_usual_certificate(tmp_path: Path) -> None:
    bench = Bench(
        [chain(tmp_path, "main.pem", CA.issue(NAME))],
        names=SniMaps(lambda key: b"missing.pem" if key == NAME.encode() else None, tmp_path),
    )
    with Server(bench.edge) as server, server.client() as client:
        secured(client, trusting())
    assert "no certificate for a TLS name" in bench.log.events()


def test_what_was_asked_for_is_told(tmp_path: Path) -> None:
    bench = Bench([chain(tmp_path, "main.pem", CA.issue(NAME))])
    with Server(bench.edge) as server, server.client() as client:
        secured(client, trusting())
        client.begin()
        client.send(b"x\r\n.\r\n")
        client.expect(250)
        hello = server.accepted[0].hello
    assert hello is not None
    assert hello.tls == Tls("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256, NAME)


# -- files that change ------------------------------------------------------------------


def serial(server: Server) -> int:
    from cryptography import x509

    with server.client() as client:
        octets = secured(client, trusting()).getpeercert(True)
        assert octets
        return x509.load_der_x509_certificate(octets).serial_number


def replace_file(path: Path, octets: bytes) -> None:
    """As certbot and others do it: written aside, then renamed."""
    aside = path.with_suffix(".new")
    aside.write_bytes(octets)
    aside.replace(path)


def test_a_new_certificate_is_shown_and_a_broken_one_is_not(tmp_path: Path) -> None:
    first, second, third = (CA.issue(NAME) for _ in range(3))
    files = chain(tmp_path, "main.pem", first)
    bench = Bench([files])
    with Server(bench.edge) as server:
        assert serial(server) == first.parsed.serial_number
        replace_file(files.chain, second.key + second.certificate)
        assert serial(server) == first.parsed.serial_number  # nobody has looked yet
        bench.now += LOOK_EVERY
        assert serial(server) == second.parsed.serial_number
        for broken in (b"", third.certificate, third.key, third.key + second.certificate):
            replace_file(files.chain, broken)
            bench.now += LOOK_EVERY
            assert serial(server) == second.parsed.serial_number
        files.chain.unlink()
        bench.now += LOOK_EVERY
        assert serial(server) == second.parsed.serial_number
        said = len(bench.log.lines)
        bench.now += LOOK_EVERY
        assert serial(server) == second.parsed.serial_number
        assert len(bench.log.lines) == said  # it is told once
        replace_file(files.chain, third.key + third.certificate)
        bench.now += LOOK_EVERY
        assert serial(server) == third.parsed.serial_number
    assert bench.log.events().count("new certificate not taken, the old one stays") == 5


def test_certificate_and_key_in_two_files_change_one_after_the_other(tmp_path: Path) -> None:
    first, second = CA.issue(NAME), CA.issue(NAME)
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_bytes(first.certificate)
    key.write_bytes(first.key)
    bench = Bench([Files(certificate, key)])
    with Server(bench.edge) as server:
        replace_file(certificate, second.certificate)
        bench.now += LOOK_EVERY
        assert serial(server) == first.parsed.serial_number
        replace_file(key, second.key)
        bench.now += LOOK_EVERY
        assert serial(server) == second.parsed.serial_number


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (b"", "no private key"),
        (CA.certificate, "before any private key"),
        (CA.issue(NAME).key, "without a certificate"),
        (CA.issue(NAME).key + CA.certificate, "key values mismatch"),
        (b"x" * (MAX_FILE + 1), "octets"),
    ],
    ids=["nothing", "no key", "no certificate", "of two pairs", "too long"],
)
def test_files_that_do_not_serve(tmp_path: Path, octets: bytes, reason: str) -> None:
    path = tmp_path / "main.pem"
    path.write_bytes(octets)
    with pytest.raises(ChainError, match=reason):
        Bench([Files(path)])


def test_options_that_openssl_does_not_take(mixed: list[Files]) -> None:
    with pytest.raises(ContextError, match="smtpd_tls_ciphers"):
        Bench(mixed, ServerOptions(ciphers="NO-SUCH"))
    with pytest.raises(ContextError, match="smtpd_tls_eecdh_grade"):
        Bench(mixed, ServerOptions(curve="no-such"))


# -- tickets ----------------------------------------------------------------------------

VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


def resumed(server: Server, context: ssl.SSLContext, session: Any) -> tuple[bool, Any]:
    """Whether the client goes on with its session, and the next one."""
    with server.client() as client:
        found = secured(client, context, session=session)
        return bool(found.session_reused), found.session


@VERSIONS
def test_a_session_is_gone_on_with_at_its_own_listener_only(
    mixed: list[Files], version: ssl.TLSVersion
) -> None:  # D12
    context = trusting(maximum_version=version)
    with Server(Bench(mixed).edge) as one, Server(Bench(mixed).edge) as other:
        _, session = resumed(one, context, None)
        assert resumed(one, context, session)[0]
        assert not resumed(other, context, session)[0]


@VERSIONS
def test_a_session_is_gone_on_with_for_its_time(
    mixed: list[Files], version: ssl.TLSVersion
) -> None:
    context = trusting(maximum_version=version)
    bench = Bench(mixed, ServerOptions(lifetime=100))
    with Server(bench.edge) as server:
        _, session = resumed(server, context, None)
        bench.now += 99
        assert resumed(server, context, session)[0]
        bench.now += LOOK_EVERY
        assert not resumed(server, context, session)[0]


@VERSIONS
def test_without_a_time_no_session_is_gone_on_with(
    mixed: list[Files], version: ssl.TLSVersion
) -> None:
    context = trusting(maximum_version=version)
    with Server(Bench(mixed, ServerOptions(lifetime=0)).edge) as server:
        _, session = resumed(server, context, None)
        assert not resumed(server, context, session)[0]


def test_a_client_gets_one_ticket(mixed: list[Files]) -> None:
    """As from Postfix: OpenSSL by itself makes, signs and sends two of TLS 1.3."""
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting().wrap_bio(received, sent, server_hostname=NAME)
    with Server(Bench(mixed).edge) as server, server.client() as client:
        client.command(b"STARTTLS", 220)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                client.socket.sendall(sent.read())
                received.write(client.socket.recv(65536))
        tls.write(b"NOOP\r\n")
        client.socket.sendall(sent.read())
        octets, answer = b"", b""
        while not answer:
            octets += (came := client.socket.recv(65536))
            received.write(came)
            with contextlib.suppress(ssl.SSLWantReadError):
                answer = tls.read()
        assert answer.startswith(b"250")
        assert records(octets) == 2  # the ticket, and the answer


def records(octets: bytes) -> int:
    """How many records of TLS these are (RFC 8446 section 5.1)."""
    at = found = 0
    while at < len(octets):
        at += 5 + int.from_bytes(octets[at + 3 : at + 5])
        found += 1
    assert at == len(octets)
    return found


# -- certificates of clients --------------------------------------------------------------


def showing(issued: Issued, path: Path, **choices: Any) -> ssl.SSLContext:
    context = trusting(**choices)
    context.load_cert_chain(issued.write(path))
    return context


def told(server: Server) -> Tls:
    """What the road hears."""
    (hello,) = [each.hello for each in server.accepted]
    assert hello is not None
    assert hello.tls is not None
    return hello.tls


def mail(client: Client) -> None:
    client.begin()
    client.send(b"x\r\n.\r\n")
    client.expect(250)


def asking(tmp_path: Path, **choices: Any) -> ServerOptions:
    (tmp_path / "ca.pem").write_bytes(CA.certificate)
    return ServerOptions(clients=ClientOptions(ask=True, ca_file=tmp_path / "ca.pem", **choices))


@VERSIONS
@pytest.mark.parametrize("kind", ["of our CA", "of another CA", "of nobody", "out of date"])
def test_any_certificate_of_a_client_is_taken_and_told(
    tmp_path: Path, mixed: list[Files], kind: str, version: ssl.TLSVersion
) -> None:
    issued = {
        "of our CA": lambda: CA.issue("client.example"),
        "of another CA": lambda: Authority("another").issue("client.example"),
        "of nobody": lambda: alone("client.example"),
        "out of date": lambda: CA.issue("client.example", days=-1),
    }[kind]()
    context = showing(issued, tmp_path / "client.pem", maximum_version=version)
    with Server(Bench(mixed, asking(tmp_path)).edge) as server, server.client() as client:
        secured(client, context)
        mail(client)
        found = told(server).certificate
    assert found is not None
    assert found.subject == "client.example"
    assert found.trusted is (kind == "of our CA")
    assert found.fingerprint == hashlib.sha256(issued.der).digest().hex(":").upper()
    key = hashlib.sha256(issued.key_der).digest().hex(":").upper()
    assert found.public_key_fingerprint == key


def test_who_shows_none_is_served(tmp_path: Path, mixed: list[Files]) -> None:
    with Server(Bench(mixed, asking(tmp_path)).edge) as server, server.client() as client:
        secured(client, trusting())
        mail(client)
        assert told(server).certificate is None


def test_no_session_is_gone_on_with_where_certificates_are_asked_for(
    tmp_path: Path, mixed: list[Files]
) -> None:
    context = showing(CA.issue("client.example"), tmp_path / "client.pem")
    with Server(Bench(mixed, asking(tmp_path)).edge) as server:
        _, session = resumed(server, context, None)
        assert not resumed(server, context, session)[0]


def test_other_digests(tmp_path: Path, mixed: list[Files]) -> None:
    issued = CA.issue("client.example")
    context = showing(issued, tmp_path / "client.pem")
    options = asking(tmp_path, digest="sha1")
    with Server(Bench(mixed, options).edge) as server, server.client() as client:
        secured(client, context)
        mail(client)
        found = told(server).certificate
    assert found is not None
    want = hashlib.sha1(issued.der, usedforsecurity=False).digest().hex(":").upper()
    assert found.fingerprint == want


@pytest.mark.parametrize(
    ("kind", "text"),
    [("none", "No client certificate presented"), ("untrusted", "Client certificate not trusted")],
)
def test_where_one_is_required_others_are_sent_away(
    tmp_path: Path, mixed: list[Files], kind: str, text: str
) -> None:
    context = trusting()
    if kind == "untrusted":
        context = showing(alone("client.example"), tmp_path / "client.pem")
    edge = replace(Bench(mixed, asking(tmp_path)).edge, tls_required=True, tls_certificate=True)
    with Server(edge) as server, server.client() as client:
        client.command(b"STARTTLS", 220)
        client.socket = context.wrap_socket(client.socket, server_hostname=NAME)
        client.send(b"EHLO x\r\n")
        assert text in client.expect(421, "4.7.1")
        assert server.ledger.calls.count("helo") == 1  # the one in the clear
    with Server(edge) as server, server.client() as client:
        secured(client, showing(CA.issue("client.example"), tmp_path / "good.pem"))
        mail(client)


# -- TLS first ----------------------------------------------------------------------------


def test_wrapper_mode(mixed: list[Files]) -> None:
    edge = replace(Bench(mixed).edge, tls_required=True, tls_wrapper=True)
    with Server(edge) as server:
        for _ in range(5):  # the client's hello may be there before we look
            client = Client(server.port)
            client.socket = trusting().wrap_socket(client.socket, server_hostname=NAME)
            client.expect(220)
            assert "STARTTLS" not in client.command(b"EHLO x", 250)
            client.command(b"STARTTLS", 503, "5.5.1")
            client.command(b"EHLO x", 250)
            mail(client)
            client.socket.close()
        assert told_all(server) == {"TLSv1.3"}
        plain = Client(server.port)
        plain.send(b"EHLO x\r\n")
        assert b"220" not in plain.closed()


def told_all(server: Server) -> set[str]:
    return {each.hello.tls.version for each in server.accepted if each.hello and each.hello.tls}


def test_wrapper_mode_behind_a_balancer(mixed: list[Files]) -> None:
    from smtpgw.edge.dialogue_options import UpstreamOptions
    from tests.edge.test_proxy import listed, tcp4

    upstream = UpstreamOptions(listed("127.0.0.0/8"))
    edge = replace(Bench(mixed).edge, tls_required=True, tls_wrapper=True, upstream=upstream)
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = trusting().wrap_bio(received, sent, server_hostname=NAME)
    with Server(edge) as server, Client(server.port) as client:
        said, header = b"", tcp4()
        while not said.endswith(b"\r\n"):
            try:
                said += tls.read(4096)
            except ssl.SSLWantReadError:
                client.send(header + sent.read())  # header and hello in one segment
                header = b""
                received.write(client.socket.recv(65536))
        assert said.startswith(b"220 ")
        assert server.ledger.connections[-1].client.address == b"192.0.2.7"
