"""What all refusals have in common, on the running gateway: footers, soft_bounce, EHLO or not."""

from __future__ import annotations

import shutil
import smtplib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.gateway.gateway import PATIENCE, Gateway


@contextmanager
def started(top: str) -> Iterator[Gateway]:
    path = Path(tempfile.mkdtemp(dir="/tmp", prefix="gwp"))
    one = Gateway(path)
    one.configure(top)
    try:
        yield one.start()
    finally:
        one.kill()
        shutil.rmtree(path)


def said(client: smtplib.SMTP, *command: str) -> tuple[int, str]:
    code, text = client.docmd(*command)
    return code, text.decode()


def test_a_footer_stands_behind_each_refusal() -> None:
    top = (
        'smtpd_reject_footer = "\\\\c, sorry\\\\nwrite to postmaster about $client_address"\n'
        "smtpd_recipient_restrictions = 'reject'\n"
    )
    with started(top) as gateway, gateway.client() as client:
        client.mail("a@example.org")
        code, text = said(client, "RCPT", "TO:<u@example.net>")
    assert code == 554
    first, second = text.split("\n")
    assert first.endswith("Recipient address rejected: Access denied, sorry")
    assert second.startswith("5.7.1 write to postmaster about 127.0.0.1")


def test_soft_bounce_is_for_every_reply() -> None:
    top = "soft_bounce = true\nsmtpd_recipient_restrictions = 'reject'\n"
    with started(top) as gateway, gateway.client() as client:
        client.mail("a@example.org")
        code, text = said(client, "RCPT", "TO:<u@example.net>")
        assert (code, text[:5]) == (454, "4.7.1")
        assert said(client, "NONSENSE")[0] == 400
        assert said(client, "RCPT", "nowhere")[0] == 401


def test_mail_without_ehlo_where_it_is_not_required() -> None:
    top = (
        "smtpd_helo_required = false\n"
        "smtpd_helo_restrictions = 'reject_invalid_helo_hostname, reject'\n"
    )
    with started(top) as gateway:
        client = smtplib.SMTP("127.0.0.1", gateway.port, timeout=PATIENCE)
        assert said(client, "MAIL", "FROM:<a@example.org>")[0] == 250
        assert said(client, "RCPT", "TO:<u@example.net>")[0] == 250
        assert client.docmd("DATA")[0] == 354
        client.send(b"Subject: x\r\n\r\nx\r\n.\r\n")
        assert client.getreply()[0] == 250
        client.ehlo("x.example")
        client.mail("a@example.org")
        assert said(client, "RCPT", "TO:<u@example.net>")[0] == 554
        client.quit()
        (found,) = gateway.delivered()
        assert b"Received: from unknown (" in found or b"Received: from localhost (" in found


def test_without_delay_a_client_hears_it_at_once() -> None:
    top = "smtpd_delay_reject = false\nsmtpd_client_restrictions = 'reject'\nmynetworks = []\n"
    with started(top) as gateway:
        client = smtplib.SMTP(timeout=PATIENCE)
        code, text = client.connect("127.0.0.1", gateway.port)
        assert code == 554
        assert b"Client host rejected: Access denied" in text
        client.close()
