"""One settings file, both daemons: mail goes through the gateway and our own filters."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
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


@pytest.fixture
def both(gateway: Gateway, place: Path) -> Iterator[Gateway]:
    write_key(place / "s1.pem")
    gateway.configure(tables=tables(place))
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
