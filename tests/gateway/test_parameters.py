"""Parameters about the machine that a client sees at once, at the running gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.gateway import Gateway
from tests.peers.process import directory

LIMIT = 5000


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with directory("rows") as place:
        found = Gateway(Path(place))
        found.configure(
            f"message_size_limit = {LIMIT}\nheader_size_limit = {LIMIT}\n"
            'smtpd_banner = "$myhostname ESMTP $mail_name: no spam"'
        )
        found.start()
        yield found
        found.kill()


def test_the_banner_is_made_of_parameters(gateway: Gateway) -> None:
    with gateway.client() as client:
        client.close()
        code, text = client.connect("127.0.0.1", gateway.port)
        assert (code, text) == (220, b"gw.example.net ESMTP Gatepost: no spam")


def test_the_size_of_a_mail_is_limited_at_each_place(gateway: Gateway) -> None:
    with gateway.client() as client:
        assert client.esmtp_features["size"] == str(LIMIT)
        assert client.docmd(f"MAIL FROM:<a@example.org> SIZE={LIMIT + 1}")[0] == 552
        assert client.docmd("MAIL FROM:<a@example.org>")[0] == 250
        assert client.docmd("RCPT TO:<u@example.net>")[0] == 250
        code, text = client.data(b"Subject: x\r\n\r\n" + b"0123456789\r\n" * LIMIT)
        assert (code, text.split()[0]) == (552, b"5.3.4")
        assert client.mail("a@example.org")[0] == 250
        assert client.rcpt("u@example.net")[0] == 250
        octets = b"Subject: x\r\n\r\n" + b"x" * LIMIT
        client.send(b"BDAT %d LAST\r\n" % len(octets) + octets)
        assert client.getreply()[0] == 552
        assert client.noop()[0] == 250
