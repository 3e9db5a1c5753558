"""One settings file, both daemons: mail goes through the gateway and our own filters."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from milterd.base import sockets
from tests.gateway.gateway import PATIENCE, Gateway, until


def write_key(path: Path) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    path.chmod(0o600)


def tables(place: Path) -> str:
    milters = "".join(
        f'[[smtpgw.milter]]\nname = "{each}"\naddress = "unix:{place}/milters/{each}.sock"\n'
        for each in ("headers", "dkim")
    )
    return f"""{milters}
[milterd]
socket_directory = "{place}/milters"
socket_group = ""
[filter.headers]
authserv_id = "gw.example.net"
[filter.dkim]
signing_table = [{{ domain = "example.net", selector = "s1", key = "{place}/s1.pem" }}]
"""


@contextmanager
def halves(gateway: Gateway, place: Path, settings: str) -> Iterator[Gateway]:
    """Both daemons at work."""
    write_key(place / "s1.pem")
    gateway.configure(tables=settings)
    text = gateway.file.read_text()
    gateway.file.write_text(text.replace("[metrics]\n", '[metrics]\nmilterd = ""\n'))
    with (place / "milterd.log").open("wb") as log:
        milterd = subprocess.Popen(
            [sys.executable, "-m", "milterd", "run", "--config", str(gateway.file)],
            stderr=log,
        )
    try:
        for each in ("headers", "dkim"):
            path = place / "milters" / f"{each}.sock"
            until(lambda path=path: path.exists() and sockets.alive(str(path)), what=each)
        yield gateway.start()
    finally:
        milterd.send_signal(signal.SIGTERM)
        milterd.wait(PATIENCE)


@pytest.fixture
def both(gateway: Gateway, place: Path) -> Iterator[Gateway]:
    with halves(gateway, place, tables(place)) as one:
        yield one


def test_our_own_mail_is_stripped_and_signed_on_its_way(both: Gateway) -> None:
    message = (
        b"From: u@example.net\r\nTo: v@example.net\r\nSubject: hello\r\n"
        b"User-Agent: secret/1.0\r\nDate: Mon, 1 Jan 2024 00:00:00 +0000\r\n"
        b"Message-ID: <1@example.net>\r\n\r\nhello\r\n"
    )
    code, text = both.send(message, "u@example.net", ["v@example.net"])
    assert (code, text[:5]) == (250, "2.0.0")
    (found,) = both.delivered("v@example.net")
    assert b"User-Agent" not in found
    assert re.search(rb"^DKIM-Signature:.*d=example\.net;", found, re.MULTILINE | re.DOTALL)
    assert found.endswith(b"\n\nhello\n")
    (line,) = until(lambda: both.events("message"))
    assert line["edits"]["dkim"] == 1
    assert line["edits"]["headers"] >= 1


def mail_of(gateway: Gateway) -> int:
    """What a client that comes, says MAIL and leaves is told."""
    with gateway.client() as client:
        return client.mail("u@example.org")[0]


def test_a_filter_with_no_room_left_serves_again_as_soon_as_clients_leave(
    gateway: Gateway, place: Path
) -> None:
    """Those beyond its connections wait, and are told that it is not to be had; often enough, and
    nobody is made to wait for a while.  That ends with the first who leaves."""
    few, settings = 3, tables(place).replace("[milterd]\n", "[milterd]\nconnections = 3\n")
    settings = settings.replace('.sock"\n', '.sock"\ncommand_timeout = "5s"\n')
    with halves(gateway, place, settings) as one, ThreadPoolExecutor(5) as threads:
        with ExitStack() as crowd:
            for _ in range(few):
                client = crowd.enter_context(one.client())
                assert client.mail("u@example.org")[0] == 250
            beyond = [threads.submit(mail_of, one) for _ in range(5)]
            assert {each.result() for each in beyond} == {451}
            assert mail_of(one) == 451
            assert one.told("milter failed", fault="paused")
        assert [mail_of(one) for _ in range(few)] == [250] * few
