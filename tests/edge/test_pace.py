"""How long a message may take to arrive (attack E11)."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from dataclasses import replace
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from smtpgw.edge.options import Deadlines, EdgeOptions
from smtpgw.edge.pace import Pace
from smtpgw.edge.tls import server_context
from tests.edge.harness import PATIENCE, QUICK, Server
from tests.edge.test_promptly import begun
from tests.edge.test_turns import Line, heard, talk
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


RATED = Deadlines(smtpd_timeout=0.6, per_request=True, min_data_rate=500)
PATIENT = replace(QUICK, deadlines=replace(RATED, smtpd_timeout=PATIENCE * 3))


@pytest.mark.parametrize("line", [b"DATA\r\n", b"BDAT 1000 LAST\r\n"])
def test_a_message_that_dribbles(line: bytes) -> None:
    with Server(PATIENT) as server, server.client() as client:
        client.command(b"MAIL FROM:<a@example.com>", 250)
        client.command(b"RCPT TO:<u@example.net>", 250)
        client.send(line)
        if line.startswith(b"DATA"):
            client.expect(354)
        else:
            (session,) = server.listener._sessions
            wait_for(lambda: session._pace is not None, "the chunk has begun")
        begin = time.monotonic()
        server.hurry(smtpd_timeout=0.6)
        client.until_told(421, "4.4.2", lambda: client.send(b"x"))
        assert time.monotonic() - begin > 0.3
        assert client.closed() == b""
        assert server.accepted == []


def test_chunks_that_dribble() -> None:  # C06
    with Server(PATIENT) as server, server.client() as client:
        client.command(b"MAIL FROM:<a@example.com>", 250)
        client.command(b"RCPT TO:<u@example.net>", 250)
        server.hurry(smtpd_timeout=0.6)
        begin = time.monotonic()
        code = 250
        while code == 250 and time.monotonic() - begin < PATIENCE:
            with contextlib.suppress(ConnectionError):  # it may have been told already
                client.send(b"BDAT 1\r\n")
                time.sleep(0.05)  # the client's own slowness, which is what the test is about
                client.send(b"x")
            code, text = client.reply()
        assert (code, text[:9]) == (421, "421 4.4.2")


def test_a_message_that_takes_longer_and_keeps_up_the_rate() -> None:
    async def dialogue(line: Line) -> None:
        await begun(line)
        clock = asyncio.get_running_loop().time
        begin = clock()
        while clock() - begin < 2.0:
            assert await heard(line, b"x" * 98 + b"\r\n") == b""
            await asyncio.sleep(0.05)  # 2000 octets a second
        await heard(line, b".\r\n")
        await line.said(b"250 2.0.0 Ok: queued as 1\r\n")

    talk(lambda: Line(RATED), dialogue)


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
        end, at = time.monotonic() + PATIENCE, 0
        while time.monotonic() < end:
            try:
                client.send(hello[at : at + 1])
                at += 1
                if not client.socket.recv(100):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        assert time.monotonic() < end
        wait_for(lambda: "newtls" in server.ledger.calls, "the handshake counts")
