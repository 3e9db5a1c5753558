"""check_greylist and check_throttle in a running gateway: what clients hear, what mail gets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.gateway import Gateway, until
from tests.peers.process import directory


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    with directory("greylist") as place:
        gateway = Gateway(Path(place))
        try:
            yield gateway
        finally:
            gateway.kill()


def settings(gateway: Gateway, restrictions: str, tables: str, top: str = "") -> None:
    gateway.configure(
        top=f'smtpd_recipient_restrictions = "{restrictions}"\n'
        f'mynetworks = ["192.0.2.0/24"]\n{top}',
        tables=tables,
    )


def rcpt(gateway: Gateway, sender: str, *recipients: str) -> list[str]:
    """What is said to each RCPT."""
    with gateway.client() as client:
        client.mail(sender)
        found = [client.rcpt(each) for each in recipients or ("u@example.net",)]
    return [f"{code} {text.decode()}" for code, text in found]


def test_new_mail_waits_among_all_workers_and_then_has_a_header(gateway: Gateway) -> None:
    settings(
        gateway,
        "reject_unauth_destination, check_greylist",
        '[smtpgw.greylist]\ndelay = "1s"\nheader = true\nexempt_recipients = ["inline:{now@=x}"]\n',
        "workers = 2\n",
    )
    gateway.start()
    assert rcpt(gateway, "s@example.org") == [
        "450 4.2.0 <u@example.net>: Recipient address rejected: Greylisted, please try again in 1 "
        "seconds"
    ]
    assert rcpt(gateway, "s@example.org", "now@example.net") == ["250 2.1.5 Ok"]
    until(lambda: gateway.send(sender="s@example.org")[0] == 250, what="it passes")
    (mail,) = gateway.delivered()
    assert b"\nX-Greylist: delayed " in mail
    assert all(rcpt(gateway, "s@example.org")[0].startswith("250") for _ in range(6))
    passed = gateway.told("greylist", outcome="passed")
    assert len(passed) == 1, "one worker let it pass, and the other knew"


def test_a_file_that_cannot_be_used_lets_pass_or_defers_as_it_is_told(gateway: Gateway) -> None:
    gateway.queue.mkdir(exist_ok=True)
    (gateway.queue / "greylist.sqlite").write_bytes(b"no database" * 1000)
    settings(gateway, "reject_unauth_destination, check_greylist", "")
    gateway.start()
    assert rcpt(gateway, "s@example.org") == ["250 2.1.5 Ok"]
    assert "not a database" in gateway.told("greylist", outcome="unavailable")[0]["reason"]
    gateway.stop()
    settings(
        gateway,
        "reject_unauth_destination, check_greylist",
        '[smtpgw.greylist]\nfailure = "defer"\n',
    )
    gateway.start()
    assert rcpt(gateway, "s@example.org")[0].startswith("450 4.3.0 ")


def test_throttles(gateway: Gateway) -> None:
    settings(
        gateway,
        "reject_unauth_destination, check_throttle held, check_throttle deferred",
        '[smtpgw.throttle.held]\nkey = "sender"\nlimit = 1\naction = "hold"\ntext = "too much"\n'
        '[smtpgw.throttle.deferred]\nkey = "recipient_domain"\nlimit = 3\nunit = "recipients"\n',
        "workers = 2\n",
    )
    gateway.start()
    assert gateway.send(sender="s@example.org")[0] == 250
    gateway.delivered()
    assert gateway.send(sender="s@example.org")[0] == 250
    held = gateway.told("message", outcome="held")
    assert len(held) == 1
    found = rcpt(gateway, "t@example.org", "a@example.net", "b@example.net")
    assert found[0] == "250 2.1.5 Ok"
    assert found[1].startswith("450 4.7.1 <b@example.net>: Recipient address rejected: Too much")


def test_a_throttle_that_a_table_names_and_that_is_not_there_defers(gateway: Gateway) -> None:
    """In a list it is found with the settings (tests/policy/test_parse.py)."""
    named = "check_client_access static:{check_throttle nowhere}"
    settings(gateway, f"reject_unauth_destination, {named}", "")
    gateway.start()
    assert rcpt(gateway, "s@example.org")[0].startswith("451 4.3.5 ")
