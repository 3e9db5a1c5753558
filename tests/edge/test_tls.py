"""STARTTLS over real handshakes: what is forgotten, what is refused, what ends."""

from __future__ import annotations

import contextlib
import ssl
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import trustme

from smtpgw.edge.options import Deadlines, EdgeOptions
from smtpgw.edge.tls import server_context
from tests.edge.harness import QUICK, Client, Server, wait_for

CA = trustme.CA()


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> EdgeOptions:
    """A listener with a certificate."""
    directory: Path = tmp_path_factory.mktemp("tls")
    certificate = CA.issue_cert("mx.example.net")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(directory / "both.pem"))
    context = server_context(directory / "both.pem")
    return replace(QUICK, tls_context=context)


def start_tls(client: Client, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> None:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    context.minimum_version = min(version, ssl.TLSVersion.TLSv1_2)
    context.maximum_version = version
    client.socket = context.wrap_socket(client.socket, server_hostname="mx.example.net")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_mail_over_tls(options: EdgeOptions, version: ssl.TLSVersion) -> None:
    with Server(options) as server, server.client() as client:
        client.command(b"STARTTLS", 220)
        start_tls(client, version)
        assert "STARTTLS" not in client.command(b"EHLO x", 250)
        client.begin()
        client.send(b"A: b\r\n\r\n" + b"x" * 100_000 + b"\r\n.\r\n")
        client.expect(250)
        client.command(b"STARTTLS", 503, "5.5.1")
        client.command(b"QUIT", 221)
        (mail,) = server.accepted
        assert len(mail.octets) == 100_010
        assert mail.hello is not None
        assert mail.hello.tls is not None
        assert mail.hello.tls.version == f"TLSv1.{2 if version is ssl.TLSVersion.TLSv1_2 else 3}"
        assert mail.hello.tls.bits >= 128


@pytest.mark.parametrize("tail", [b"MAIL FROM:<x@y>\r\n", b"EHLO y\r\nMAIL FROM:<x@y>\r\n" * 99])
def test_what_was_pipelined_in_the_clear_is_forgotten(options: EdgeOptions, tail: bytes) -> None:
    """D01, CVE-2011-0411."""
    with Server(options) as server, server.client() as client:
        client.send(b"STARTTLS\r\n" + tail)
        client.expect(220)
        start_tls(client)
        client.command(b"NOOP", 250)
        client.command(b"MAIL FROM:<a@b>", 503, "5.5.1")  # D02: EHLO is wanted again
        client.command(b"EHLO x", 250)
        client.command(b"MAIL FROM:<a@b>", 250)
        assert server.ledger.calls.count("mail") == 1


def test_more_cleartext_than_the_server_reads_ahead_is_no_handshake(options: EdgeOptions) -> None:
    with Server(options) as server:
        client = server.client()
        with contextlib.suppress(ConnectionError):
            client.send(b"STARTTLS\r\n" + b"MAIL FROM:<x@y>\r\n" * 60_000)
        assert b"250" not in client.closed()
        wait_for(lambda: server.listener.idle)
        assert "mail" not in server.ledger.calls
        client.socket.close()


def test_state_is_forgotten(options: EdgeOptions) -> None:  # D02
    with Server(options) as server, server.client() as client:
        client.command(b"MAIL FROM:<a@b>", 250)
        client.command(b"STARTTLS", 503, "5.5.1")
        client.command(b"RSET", 250)
        client.command(b"STARTTLS", 220)
        start_tls(client)
        client.command(b"RCPT TO:<u@d>", 503, "5.5.1")
        client.command(b"BDAT 3 LAST", 502, "5.5.1")
        assert client.closed() == b""
        assert server.accepted == []


def test_starttls_takes_no_argument(options: EdgeOptions) -> None:  # D03
    with Server(options) as server, server.client() as client:
        client.command(b"STARTTLS foo", 501, "5.5.4")
        client.command(b"NOOP", 250)


def test_a_command_in_one_segment_with_the_end_of_the_handshake(options: EdgeOptions) -> None:
    """A client of TLS 1.3 may speak as soon as it has sent its Finished (RFC 8446 section 2)."""
    context = ssl.create_default_context()
    CA.configure_trust(context)
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(received, sent, server_hostname="mx.example.net")
    with Server(options) as server, server.client() as client:
        client.command(b"STARTTLS", 220)
        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                client.socket.sendall(sent.read())
                received.write(client.socket.recv(65536))
        tls.write(b"EHLO x\r\n")
        client.socket.sendall(sent.read())
        said = b""
        while not said.endswith(b"\r\n"):
            try:
                said += tls.read(65536)
            except ssl.SSLWantReadError:
                received.write(client.socket.recv(65536))
        assert said.startswith(b"250-mx.example.net")


def test_starttls_before_ehlo(options: EdgeOptions) -> None:
    with Server(options) as server, Client(server.port) as client:
        client.expect(220)
        client.command(b"STARTTLS", 503, "5.5.1")


@pytest.mark.parametrize("octets", [b"garbage\r\n" * 9, b"MAIL FROM:<a@b>\r\n", b""])
def test_no_handshake_is_an_end(options: EdgeOptions, octets: bytes) -> None:  # D04
    with Server(replace(options, deadlines=Deadlines(starttls=0.7))) as server:
        client = server.client()
        client.command(b"STARTTLS", 220)
        client.send(octets)
        assert b"250" not in client.closed()
        wait_for(lambda: server.listener.idle)
        assert server.accepted == []
        client.socket.close()


def test_a_client_lost_in_the_handshake(options: EdgeOptions) -> None:  # D04
    with Server(options) as server:
        client = server.client()
        client.command(b"STARTTLS", 220)
        client.socket.close()
        wait_for(lambda: server.listener.idle)


def test_old_tls_is_refused(options: EdgeOptions) -> None:  # D06
    with Server(options) as server, server.client() as client:
        client.command(b"STARTTLS", 220)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that it is old is the point
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            context.wrap_socket(client.socket)


def test_mail_waits_for_tls_where_it_is_required(options: EdgeOptions) -> None:
    with Server(replace(options, tls_required=True)) as server, server.client() as client:
        client.command(b"MAIL FROM:<a@b>", 530, "5.7.0")
        client.command(b"VRFY a", 530, "5.7.0")
        client.command(b"NOOP", 250)
        client.command(b"STARTTLS", 220)
        start_tls(client)
        client.command(b"EHLO x", 250)
        client.command(b"MAIL FROM:<a@b>", 250)


def test_close_after_the_dot_under_tls_is_committed(options: EdgeOptions) -> None:  # B32
    with Server(options) as server:
        client = server.client()
        client.command(b"STARTTLS", 220)
        start_tls(client)
        client.command(b"EHLO x", 250)
        client.begin()
        client.send(b"x\r\n.\r\n")
        client.socket.close()
        wait_for(lambda: server.ledger.open == 0)
        assert len(server.accepted) == 1
