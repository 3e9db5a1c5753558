"""How long a message may take to arrive (attack E11)."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from smtpgw.edge.options import Deadlines, EdgeOptions
from smtpgw.edge.pace import Pace
from smtpgw.edge.tls import server_context
from tests.edge.harness import PATIENCE, QUICK, Client, Server
from tests.peers.process import wait_for


def test_octets_win_time_at_the_least_rate_and_never_more_than_there_was() -> None:
    pace = Pace(1000.0, 10.0, 500)
    assert pace.until == 1010.0
    pace.took(1004.0, 1000)
    assert pace.until == 1012.0
    pace.took(1005.0, 10**9)
    assert pace.until == 1015.0


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 10_000)), max_size=50))
def test_who_keeps_up_the_rate_always_has_time_and_nobody_has_more(
    pieces: list[tuple[float, int]],
) -> None:
    now, pace = 0.0, Pace(0.0, 10.0, 500)
    keeps_up = True
    for after, octets in pieces:
        now += after
        keeps_up &= octets >= after * 500
        if keeps_up:
            assert now <= pace.until
        pace.took(now, octets)
        assert pace.until <= now + 10.0
    if not sum(octets for _, octets in pieces):
        assert pace.until <= 10.0


SLOW = replace(QUICK, deadlines=Deadlines(smtpd_timeout=0.6, per_request=True, min_data_rate=500))


def until_told(client: Client, step: Callable[[], None]) -> float:
    """Seconds until the client hears 421 4.4.2; `step` is done again and again."""
    begin = time.monotonic()
    client.socket.settimeout(0.05)
    while time.monotonic() - begin < PATIENCE:
        step()
        try:
            client.expect(421, "4.4.2")
            break
        except TimeoutError:
            continue
    took = time.monotonic() - begin
    client.socket.settimeout(PATIENCE)
    assert client.closed() == b""
    return took


@pytest.mark.parametrize("line", [b"DATA\r\n", b"BDAT 1000 LAST\r\n"])
def test_a_message_that_dribbles(line: bytes) -> None:
    with Server(SLOW) as server, server.client() as client:
        client.command(b"MAIL FROM:<a@example.com>", 250)
        client.command(b"RCPT TO:<u@example.net>", 250)
        client.send(line)
        if line.startswith(b"DATA"):
            client.expect(354)
        assert 0.3 < until_told(client, lambda: client.send(b"x")) < PATIENCE / 2
        assert server.accepted == []


def test_chunks_that_dribble() -> None:  # C06
    with Server(SLOW) as server, server.client() as client:
        client.command(b"MAIL FROM:<a@example.com>", 250)
        client.command(b"RCPT TO:<u@example.net>", 250)
        begin = time.monotonic()
        code = 250
        while code == 250 and time.monotonic() - begin < PATIENCE:
            client.send(b"BDAT 1\r\n")
            time.sleep(0.05)  # the client's own slowness, which is what the test is about
            client.send(b"x")
            code, text = client.reply()
        assert (code, text[:9]) == (421, "421 4.4.2")


def test_a_message_that_takes_longer_and_keeps_up_the_rate() -> None:
    with Server(SLOW) as server, server.client() as client:
        client.begin()
        begin = time.monotonic()
        while time.monotonic() - begin < 2.0:
            client.send(b"x" * 98 + b"\r\n")
            time.sleep(0.05)  # 2000 octets a second
        client.send(b".\r\n")
        client.expect(250)
        client.command(b"QUIT", 221)
        assert len(server.accepted) == 1


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> EdgeOptions:
    directory: Path = tmp_path_factory.mktemp("tls")
    issued = trustme.CA().issue_cert("mx.example.net")
    issued.private_key_and_cert_chain_pem.write_to_path(str(directory / "both.pem"))
    deadlines = Deadlines(starttls=0.6)
    return replace(QUICK, tls_context=server_context(directory / "both.pem"), deadlines=deadlines)


def test_a_handshake_that_dribbles(secured: EdgeOptions) -> None:  # E11, D06
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    dialogue = tls.wrap_bio(incoming, outgoing, server_hostname="mx.example.net")
    with pytest.raises(ssl.SSLWantReadError):
        dialogue.do_handshake()
    hello = outgoing.read()
    with Server(secured) as server, server.client() as client:
        client.command(b"STARTTLS", 220)
        client.socket.settimeout(0.05)
        begin, at = time.monotonic(), 0
        while time.monotonic() - begin < PATIENCE:
            try:
                client.send(hello[at : at + 1])
                at += 1
                if not client.socket.recv(100):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert time.monotonic() - begin < PATIENCE / 2
        wait_for(lambda: "newtls" in server.ledger.calls, "the handshake counts")
