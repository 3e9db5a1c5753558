"""Address verification in a running gateway: what Postfix has not, and what its settings change."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.gateway import Gateway, until
from tests.peers.process import directory, free_port
from tests.verify.scripted import Host

LATER = "Address verification in progress"


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with directory("verify") as place:
        gateway = Gateway(Path(place))
        try:
            yield gateway
        finally:
            gateway.kill()


def settings(gateway: Gateway, port: int, top: str = "") -> None:
    gateway.configure(
        top="relay_domains = ['relay.example']\nmynetworks = ['192.0.2.0/24']\n"
        f"relay_transport = 'smtp:[127.0.0.1]:{port}'\n"
        "smtpd_recipient_restrictions = "
        "'reject_unauth_destination, reject_unverified_recipient'\n"
        f"unverified_recipient_reject_code = 550\n{top}"
    )


def rcpt(gateway: Gateway, recipient: str, sender: str = "s@sender.example") -> str:
    with gateway.client() as client:
        client.mail(sender)
        code, text = client.rcpt(recipient)
    return f"{code} {text.decode()}"


def test_the_first_client_waits_for_the_probe_and_workers_share_the_answer(
    gateway: Gateway,
) -> None:
    with Host().running() as host:
        settings(gateway, host.port, "workers = 2\n")
        gateway.start()
        assert rcpt(gateway, "ok@relay.example") == "250 2.1.5 Ok"
        for _ in range(6):
            assert rcpt(gateway, "no@relay.example").startswith("550 5.1.1 ")
        assert host.rcpts(b"no@") == 1
        assert host.rcpts(b"ok@") == 1


def test_what_was_found_outlives_a_restart(gateway: Gateway) -> None:
    with Host().running() as host:
        settings(gateway, host.port)
        gateway.start()
        assert rcpt(gateway, "ok@relay.example") == "250 2.1.5 Ok"
        gateway.stop()
        gateway.start()
        assert rcpt(gateway, "ok@relay.example") == "250 2.1.5 Ok"
        assert host.rcpts(b"ok@") == 1
        assert any(line == b"RSET" for line in host.lines)
        assert not any(line.startswith(b"DATA") for line in host.lines)


@pytest.mark.parametrize(
    ("choice", "code"), [("defer", "450"), ("accept", "250"), ("cached", "450")]
)
def test_the_primary_is_down(gateway: Gateway, choice: str, code: str) -> None:
    settings(gateway, free_port(), f"address_verify_primary_down = '{choice}'\n")
    gateway.start()
    found = ""

    def known() -> bool:
        nonlocal found
        found = rcpt(gateway, "u@relay.example")
        return LATER not in found

    until(known, what="the probe ends")
    assert found.startswith(code), found


def test_cached_takes_who_was_good_and_only_him(gateway: Gateway) -> None:
    with Host().running() as host:
        settings(gateway, host.port, "address_verify_primary_down = 'cached'\n")
        gateway.start()
        assert rcpt(gateway, "ok@relay.example") == "250 2.1.5 Ok"
        gateway.stop()
    with contextlib.closing(sqlite3.connect(gateway.queue / "verify.sqlite")) as db, db:
        month = 40 * 86400
        db.execute("UPDATE addresses SET updated = updated - ?, good = good - ?", (month, month))
    settings(gateway, free_port(), "address_verify_primary_down = 'cached'\n")
    gateway.start()
    until(lambda: rcpt(gateway, "ok@relay.example").startswith("250"), what="it is taken")
    until(lambda: LATER not in rcpt(gateway, "new@relay.example"), what="the other is known")
    assert rcpt(gateway, "new@relay.example").startswith("450 4.1.1 ")


def test_senders_and_the_null_sender(gateway: Gateway) -> None:
    with Host().running() as host:
        settings(
            gateway,
            host.port,
            "smtpd_sender_restrictions = 'reject_unverified_sender'\n"
            "unverified_sender_reject_code = 553\n",
        )
        gateway.start()
        said = rcpt(gateway, "ok@relay.example", "no@relay.example")
        assert said.startswith("553 5.1."), said
        assert "Sender address rejected: undeliverable address: host" in said
        assert rcpt(gateway, "ok@relay.example", "") == "250 2.1.5 Ok"


def test_probes_may_go_elsewhere_and_have_another_sender(gateway: Gateway) -> None:
    with Host().running() as mail, Host().running() as probed:
        settings(
            gateway,
            mail.port,
            f"address_verify_relay_transport = 'smtp:[127.0.0.1]:{probed.port}'\n"
            "address_verify_sender = 'probe@own.example'\n",
        )
        gateway.start()
        assert rcpt(gateway, "no@relay.example").startswith("550 5.1.1 ")
        assert mail.lines == []
        assert any(each.startswith(b"MAIL FROM:<probe@own.example>") for each in probed.lines)


def test_a_broken_cache_is_as_it_is_told(gateway: Gateway) -> None:
    gateway.queue.mkdir(exist_ok=True)
    (gateway.queue / "verify.sqlite").write_bytes(b"no database" * 1000)
    with Host().running() as host:
        settings(gateway, host.port)
        gateway.start()
        assert rcpt(gateway, "ok@relay.example").startswith(
            "450 4.1.1 <ok@relay.example>: Recipient address rejected: address verification problem"
        )
        gateway.stop()
        settings(gateway, host.port, "address_verify_cache_failure = 'accept'\n")
        gateway.start()
        assert rcpt(gateway, "no@relay.example") == "250 2.1.5 Ok"
        assert host.lines == []
