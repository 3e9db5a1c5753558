"""Logins judged by a real Dovecot: mechanisms, schemes, and a Dovecot that stops, dies or comes
back in the middle."""

from __future__ import annotations

import base64
import hmac
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from smtpgw.sasl.dovecot.authenticator import DovecotAuthenticator
from smtpgw.sasl.dovecot.client import DovecotOptions
from tests.edge.harness import Client, Server
from tests.peers.dovecot import Dovecot, dovecot
from tests.peers.process import program
from tests.sasl.support import LOG, PASSWORD, PLAIN, USER, WRONG, b64, edge, options, session
from tests.sasl.test_file import ScramClient

SCHEMES = {
    "sha@example.net": "SSHA512",
    "argon@example.net": "ARGON2ID",
    "scram@example.net": "SCRAM-SHA-256",
    "crypt@example.net": "SHA512-CRYPT",
}


def hashed(scheme: str) -> str:
    """PASSWORD in a scheme of Dovecot's."""
    command = [program("doveadm", "dovecot-core"), "-O", "pw", "-s", scheme]
    command += ["-p", PASSWORD.decode()]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def peer() -> Iterator[Dovecot]:
    with dovecot() as one:
        for user, scheme in SCHEMES.items():
            one.add_user(user, password=hashed(scheme))
        yield one


@dataclass
class Door:
    """A listener whose logins Dovecot judges."""

    server: Server
    judge: DovecotAuthenticator


@contextmanager
def door(place: Path | tuple[str, int], **more: float) -> Iterator[Door]:
    """A gateway's listener; more are fields of DovecotOptions, which a stall does not use up."""
    judge = DovecotAuthenticator(
        DovecotOptions(place, first_pause=0.01, longest_pause=0.05, **more),  # type: ignore[arg-type]
        LOG,
    )
    with Server(edge(options(judge, tries=100)), steady=bool(more)) as server:
        yield Door(server, judge)
        server.run(judge.close)


@pytest.fixture
def one(peer: Dovecot) -> Iterator[Door]:
    with door(peer.auth) as found:
        yield found


def until(works: Callable[[], bool]) -> None:
    """Until it works, or a failure."""
    end = time.monotonic() + 20
    while not works():
        assert time.monotonic() < end
        time.sleep(0.02)


def says(client: Client, line: bytes) -> int:
    client.send(line + b"\r\n")
    return client.reply()[0]


def challenge(client: Client, line: bytes) -> bytes:
    """What a 334 says."""
    return base64.b64decode(client.command(line, 334).removeprefix("334 ").strip())


def test_every_mechanism_is_offered(one: Door) -> None:
    with session(one.server) as client:
        offer = client.command(b"EHLO x", 250)
    assert "250 AUTH PLAIN LOGIN CRAM-MD5 DIGEST-MD5 SCRAM-SHA-1 SCRAM-SHA-256\r\n" in offer


def test_over_tcp(peer: Dovecot) -> None:
    with door(("127.0.0.1", peer.auth_port)) as one, session(one.server) as client:
        client.command(PLAIN, 235)


def test_plain(one: Door) -> None:
    with session(one.server) as client:
        client.command(WRONG, 535, "5.7.8")
        client.command(b"AUTH PLAIN " + b64(b"", b"nobody@example.net", PASSWORD), 535, "5.7.8")
        client.command(b"AUTH PLAIN =", 535, "5.7.8")
        client.command(b"AUTH PLAIN", 334)
        client.command(b64(b"", USER, PASSWORD), 235, "2.7.0")
        client.begin()
        client.command(b"Subject: x\r\n\r\n.", 250)
    hello = one.server.accepted[0].hello
    assert hello is not None
    assert hello.login is not None
    assert (hello.login.name, hello.login.method) == (USER, "PLAIN")


def test_login(one: Door) -> None:
    with session(one.server) as client:
        assert challenge(client, b"AUTH LOGIN") == b"Username:"
        assert challenge(client, b64(USER)) == b"Password:"
        client.command(b64(b"wrong"), 535)
        assert challenge(client, b"AUTH LOGIN " + b64(USER)) == b"Password:"
        client.command(b64(PASSWORD), 235)


def test_cram_md5(one: Door) -> None:
    with session(one.server) as client:
        for password, code in ((b"wrong", 535), (PASSWORD, 235)):
            asked = challenge(client, b"AUTH CRAM-MD5")
            digest = hmac.new(password, asked, "md5").hexdigest().encode()
            client.command(b64(USER + b" " + digest), code)


@pytest.mark.parametrize("user", [USER, b"scram@example.net"])
def test_scram(one: Door, user: bytes) -> None:
    with session(one.server) as client:
        wrong = ScramClient(user, b"wrong")
        final = wrong.final(challenge(client, b"AUTH SCRAM-SHA-256 " + b64(wrong.first)))
        client.command(b64(final), 535)
        right = ScramClient(user, PASSWORD)
        assert challenge(client, b"AUTH SCRAM-SHA-256") == b""
        final = right.final(challenge(client, b64(right.first)))
        assert challenge(client, b64(final)) == right.expected
        client.command(b"", 235)


@pytest.mark.parametrize("user", SCHEMES)
def test_schemes(one: Door, user: str) -> None:
    with session(one.server) as client:
        client.command(b"AUTH PLAIN " + b64(b"", user.encode(), b"wrong"), 535)
        client.command(b"AUTH PLAIN " + b64(b"", user.encode(), PASSWORD), 235)


def test_given_up_in_the_middle(one: Door) -> None:
    with session(one.server) as client:
        challenge(client, b"AUTH LOGIN")
        client.command(b"*", 501, "5.7.0")
        challenge(client, b"AUTH LOGIN")
        client.command(b"!", 501, "5.5.2")
        client.command(PLAIN, 235)


def test_many_at_once_over_one_connection(one: Door) -> None:
    def log_in(number: int) -> int:
        with session(one.server) as client:
            challenge(client, b"AUTH LOGIN " + b64(USER))
            return says(client, b64(PASSWORD if number % 3 else b"wrong"))

    with session(one.server) as client:
        client.command(PLAIN, 235)
    link = one.judge._client._link
    with ThreadPoolExecutor(40) as threads:
        found = list(threads.map(log_in, range(120)))
    assert found == [235 if number % 3 else 535 for number in range(120)]
    assert one.judge._client._link is link
    assert link is not None
    assert link.logins == 0


@pytest.mark.parametrize("when", ["at once", "in the middle"])
def test_a_dovecot_that_hangs(peer: Dovecot, when: str) -> None:
    with door(peer.auth, timeout=0.7) as one, session(one.server) as client:
        client.command(WRONG, 535)
        auth, link = peer.auth_process(), one.judge._client._link
        if when == "in the middle":
            challenge(client, b"AUTH LOGIN " + b64(USER))
        os.kill(auth, signal.SIGSTOP)
        try:
            began = time.monotonic()
            line = b64(PASSWORD) if when == "in the middle" else PLAIN
            client.command(line, 454, "4.7.0")
            assert time.monotonic() - began < 20
            assert link is not None
            assert "no answer" in link.broken
        finally:
            os.kill(auth, signal.SIGCONT)
        until(lambda: says(client, PLAIN) == 235)
    assert one.server.ledger.calls.count("login") == 1


@pytest.mark.parametrize("when", ["at once", "in the middle"])
def test_a_dovecot_that_is_killed(peer: Dovecot, when: str) -> None:
    """Dovecot's master starts its auth process again."""
    with door(peer.auth) as one, session(one.server) as client:
        client.command(WRONG, 535)
        auth = peer.auth_process()
        if when == "in the middle":
            challenge(client, b"AUTH LOGIN " + b64(USER))
        os.kill(auth, signal.SIGKILL)
        if when == "in the middle":
            client.command(b64(PASSWORD), 454, "4.7.0")
        until(lambda: says(client, PLAIN) == 235)
    assert one.server.ledger.calls.count("login") == 1


def test_a_dovecot_that_comes_later(peer: Dovecot) -> None:
    """Clients see that they could log in, and are told to come again."""
    place = peer.home / "later.sock"
    with door(place) as one:
        with session(one.server) as client:
            assert "250 AUTH PLAIN\r\n" in client.command(b"EHLO x", 250)
            client.command(PLAIN, 454, "4.7.0")
        place.symlink_to(peer.auth)
        with session(one.server) as client:
            until(lambda: says(client, PLAIN) == 235)
            assert "SCRAM-SHA-256" in client.command(b"EHLO x", 250)
        place.unlink()


def test_a_dovecot_that_is_reloaded(peer: Dovecot) -> None:
    """The mechanisms are read again with each connection; the old ones are offered meanwhile."""
    with door(peer.auth) as one:
        with session(one.server) as client:
            client.command(PLAIN, 235)
        peer.peer.process and peer.peer.process.send_signal(signal.SIGHUP)
        with session(one.server) as client:
            assert "AUTH PLAIN LOGIN CRAM-MD5" in client.command(b"EHLO x", 250)
            until(lambda: says(client, PLAIN) == 235)


def test_the_wrong_socket(peer: Dovecot) -> None:
    """LMTP's says 220: no handshake, and no success."""
    with door(peer.socket, connect=0.5) as one, session(one.server) as client:
        client.command(PLAIN, 454, "4.7.0")
