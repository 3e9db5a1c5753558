"""reject_unauth_pipelining: who may send what before it is answered (RFC 2920 section 3.1)."""

from __future__ import annotations

import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.gateway import PATIENCE, Gateway


@pytest.fixture(scope="module")
def strict() -> Iterator[Gateway]:
    path = Path(tempfile.mkdtemp(dir="/tmp", prefix="gwp"))
    one = Gateway(path)
    one.configure('smtpd_recipient_restrictions = "reject_unauth_pipelining"\n')
    yield one.start()
    one.kill()
    shutil.rmtree(path)


def codes(gateway: Gateway, *sent: bytes) -> list[bytes]:
    """The codes of the answers, each piece sent once all before it is answered."""
    found: list[bytes] = []
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE) as client:
        answers = client.makefile("rb")
        _answer(answers)
        for piece in sent:
            client.sendall(piece)
            found += [_answer(answers) for _ in range(piece.count(b"\r\n"))]
    return found


def _answer(answers: object) -> bytes:
    while True:
        line = answers.readline()  # type: ignore[attr-defined]
        if line[3:4] != b"-":
            return bytes(line[:3])


MAIL = b"MAIL FROM:<a@example.org>\r\n"
RCPT = b"RCPT TO:<u@example.net>\r\n"


def test_esmtp_clients_may_send_an_envelope_at_once(strict: Gateway) -> None:
    assert codes(strict, b"EHLO x.example\r\n", MAIL + RCPT + RCPT) == [b"250"] * 4


def test_nothing_may_be_sent_behind_ehlo(strict: Gateway) -> None:
    assert codes(strict, b"EHLO x.example\r\n" + MAIL, RCPT) == [b"250", b"250", b"503"]


def test_smtp_clients_may_send_nothing_early(strict: Gateway) -> None:
    assert codes(strict, b"HELO x.example\r\n", MAIL + RCPT) == [b"250", b"250", b"503"]
    assert codes(strict, b"HELO x.example\r\n", MAIL, RCPT) == [b"250"] * 3
