"""Debian's Postfix asks the gateway: greylisting, throttles and tables of ours, as it is told by
check_policy_service.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.delegation.test_against_postfix import talk
from tests.gateway.gateway import Gateway, until
from tests.peers import postfix
from tests.peers.process import directory, free_port

HELLO = [b"EHLO client.example.org"]


def rcpt(port: int, sender: str, recipient: str = "u@example.net") -> int:
    """The code that RCPT is answered with."""
    lines = [*HELLO, f"MAIL FROM:<{sender}>".encode(), f"RCPT TO:<{recipient}>".encode()]
    return talk(port, lines)[-1]


def heard(asking: Asking, *words: str) -> None:
    """Wait until Postfix has logged them: it answers first and writes afterwards."""
    until(lambda: all(each in asking.postfix.peer.said() for each in words), what=f"{words} logged")


class Asking:
    """A Postfix that asks the gateway by TCP and by a UNIX socket."""

    def __init__(self, place: Path, stack: contextlib.ExitStack) -> None:
        place.chmod(0o755)
        port = free_port()
        table = place / "senders"
        table.write_text(
            "/^bad@/ REJECT 5.7.9 we know you\n/^held@/ HOLD look\n/^ok@/ OK\n"
            "/^later@/ DEFER_IF_PERMIT 4.2.0 not now\n/^much@/ check_throttle few\n"
        )
        self.gateway = Gateway(place)
        self.gateway.configure(
            tables=f"""
[[smtpgw.policy_listener]]
name = "all"
address = "127.0.0.1:{port}"
restrictions = "check_sender_access regexp:{table}, check_greylist"
[smtpgw.greylist]
delay = "1s"
allow_after = 0
header = true
[smtpgw.throttle.few]
key = "sender"
limit = 3
per = "1h"
action = "reject"
text = "that is enough"
"""
        )
        stack.callback(self.gateway.kill)
        self.gateway.start()
        self.port = port
        self.postfix = stack.enter_context(
            postfix.postfix({
                "smtpd_recipient_restrictions": f"check_policy_service inet:127.0.0.1:{port}",
                "smtpd_relay_restrictions": "permit_mynetworks, reject",
                "smtpd_policy_service_timeout": "5s",
                "smtpd_policy_service_default_action": "421 4.3.5 nobody answers",
            })
        )  # fmt: skip


@pytest.fixture(scope="module")
def asking() -> Iterator[Asking]:
    with directory("asks") as place, contextlib.ExitStack() as stack:
        yield Asking(Path(place), stack)


def test_mail_that_is_new_has_to_come_again(asking: Asking) -> None:
    port = asking.postfix.port
    assert rcpt(port, "new@example.org") == 450
    heard(asking, "try again in 1 seconds")
    until(lambda: rcpt(port, "new@example.org") == 250, what="the greylist lets it pass")


def test_what_tables_of_ours_say(asking: Asking) -> None:
    port = asking.postfix.port
    assert rcpt(port, "bad@example.org") == 554
    heard(asking, "554 5.7.9 <u@example.net>: Recipient address rejected: we know you")
    assert rcpt(port, "later@example.org") == 450
    heard(asking, "450 4.2.0 <u@example.net>: Recipient address rejected: not now")
    assert rcpt(port, "held@example.org") == 450, "HOLD goes on, to the greylist"


def test_a_permit_of_ours_opens_nothing(asking: Asking) -> None:
    """It is answered DUNNO."""
    assert rcpt(asking.postfix.port, "ok@example.org") == 250
    assert asking.gateway.told("policy", sender="ok@example.org")[0]["outcome"] == "DUNNO"


def test_a_throttle_counts_mails_not_recipients(asking: Asking) -> None:
    port = asking.postfix.port
    lines = [*HELLO, b"MAIL FROM:<much@example.org>"]
    lines += [b"RCPT TO:<u%d@example.net>" % number for number in range(6)]
    assert talk(port, lines)[3:] == [450] * 6
    assert rcpt(port, "much@example.org", "u0@example.net") in (250, 450)
    assert rcpt(port, "much@example.org", "u1@example.net") in (250, 450)
    assert rcpt(port, "much@example.org", "u2@example.net") == 554
    heard(asking, "that is enough")


def test_one_connection_carries_many_requests(asking: Asking) -> None:
    asked = b"request=smtpd_access_policy\nprotocol_state=RCPT\nsender=bad@x.example\n"
    asked += b"recipient=u@example.net\nclient_address=192.0.2.1\n\n"
    with socket.create_connection(("127.0.0.1", asking.port), 30) as client:
        client.sendall(asked * 100)
        found = b""
        while found.count(b"\n\n") < 100:
            octets = client.recv(65536)
            assert octets, found
            found += octets
    assert found == b"action=554 5.7.9 we know you\n\n" * 100
