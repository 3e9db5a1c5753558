"""What access tables ask for, on the running gateway: seen in mailboxes and in the queue."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.gateway import Gateway, until
from tests.gateway.sinks import sink

_TABLE = """
held@example.net       HOLD for a look
gone@example.net       DISCARD not wanted
moved@example.net      REDIRECT other@example.net
copied@example.net     BCC copy@example.net
marked@example.net     PREPEND X-First: 1
again@example.net      PREPEND X-Second: 2
told@example.net       WARN somebody writes
no@example.net         REJECT 5.7.2 not for you
away@example.net       521 go away
"""


@pytest.fixture(scope="module")
def acting() -> Iterator[Gateway]:
    path = Path(tempfile.mkdtemp(dir="/tmp", prefix="gwp"))
    (path / "access").write_text(_TABLE)
    one = Gateway(path)
    one.configure(
        f'smtpd_recipient_restrictions = "check_recipient_access texthash:{path}/access"\n'
        'mynetworks = ["192.0.2.0/24"]\n'
    )
    one.start()
    yield one
    one.kill()
    shutil.rmtree(path)


def queued(gateway: Gateway, *arguments: str) -> list[dict[str, object]]:
    """What `smtpgw queue list --json` says."""
    command = [sys.executable, "-m", "smtpgw", "queue", *(arguments or ("list",)), "--json"]
    done = subprocess.run(
        [*command, "-c", str(gateway.file)], capture_output=True, text=True, check=True, timeout=50
    )
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def mailbox(gateway: Gateway, user: str) -> Path:
    return gateway.mail / f"{user}@example.net"


def test_hold(acting: Gateway) -> None:
    code, text = acting.send(recipients=["held@example.net"])
    assert code == 250
    (found,) = [each for each in queued(acting) if each["queue_id"] in text]
    assert (found["state"], found["reason"]) == ("hold", "for a look")
    assert not mailbox(acting, "held").exists()


def test_discard_answers_250_and_queues_nothing(acting: Gateway) -> None:
    code, text = acting.send(recipients=["gone@example.net", "u@example.net"])
    assert code == 250
    queue_id = text.split()[-1].partition(" ")[0]
    (line,) = acting.told("message", outcome="discarded")
    assert line["queue_id"] in text
    assert not [each for each in queued(acting) if each["queue_id"] in queue_id]
    assert not mailbox(acting, "gone").exists()


def test_redirect_is_for_all_recipients(acting: Gateway) -> None:
    assert acting.send(recipients=["moved@example.net", "wide@example.net"])[0] == 250
    assert len(acting.delivered("other@example.net")) == 1
    assert not mailbox(acting, "moved").exists()
    assert not mailbox(acting, "wide").exists()


def test_bcc_adds_one(acting: Gateway) -> None:
    assert acting.send(recipients=["copied@example.net"])[0] == 250
    assert len(acting.delivered("copied@example.net")) == 1
    assert len(acting.delivered("copy@example.net")) == 1


def test_prepended_fields_stand_on_top_in_their_order(acting: Gateway) -> None:
    assert acting.send(recipients=["marked@example.net", "again@example.net"])[0] == 250
    (found,) = acting.delivered("marked@example.net")
    lines = [
        line
        for line in found.split(b"\n\n")[0].splitlines()
        if not line.startswith((b"Return-Path", b"Delivered-To", b"X-Original-To", b" ", b"\t"))
    ]
    assert lines[:2] == [b"X-First: 1", b"X-Second: 2"]
    assert lines[2].startswith(b"Received:")


def test_refusals_and_what_the_log_says_of_them(acting: Gateway) -> None:
    with acting.client() as client:
        assert client.mail("a@example.org")[0] == 250
        code, text = client.rcpt("no@example.net")
        assert (code, text.decode().partition(" [")[0]) == (
            554,
            "5.7.2 <no@example.net>: Recipient address rejected: not for you",
        )
        assert client.rcpt("away@example.net")[0] == 521
        assert client.sock is None or not client.sock.recv(1)
    (line,) = acting.told("command", recipient="no@example.net")
    assert line["list"] == "smtpd_recipient_restrictions"
    assert line["filter"].startswith("check_recipient_access texthash:")
    assert any(
        "REJECT 5.7.2 not for you" in each and "access:9" in each for each in line["decided"]
    )


def test_filter_overrides_every_route_and_survives_a_restart() -> None:
    path = Path(tempfile.mkdtemp(dir="/tmp", prefix="gwp"))
    one = Gateway(path)
    with sink("127.0.0.1") as first:
        port = first.port
    try:
        table = f"inline:{{ {{f@example.net = FILTER smtp:[127.0.0.1]:{port}}} }}"
        one.configure(f'smtpd_recipient_restrictions = "check_recipient_access {table}"\n')
        one.start()
        assert one.send(recipients=["f@example.net", "g@example.net"])[0] == 250
        (found,) = until(lambda: [e for e in queued(one) if e["attempts"]], what="an attempt")
        one.stop()
        with sink("127.0.0.1", port) as taken:
            one.start()
            queued(one, "flush", str(found["queue_id"]))
            mail = until(lambda: taken.mails, what="the mail at the filter")[0]
        assert sorted(mail.recipients) == [b"f@example.net", b"g@example.net"]
        assert not (one.mail / "f@example.net").exists()
    finally:
        one.kill()
        shutil.rmtree(path)
