"""The same addresses asked about at Debian's Postfix and at the gateway, whose mail goes by the
same transports to the same hosts: what a client is told at the first RCPT, and once it is known.
"""

from __future__ import annotations

import contextlib
import re
import smtplib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway.gateway import Gateway, until
from tests.peers import postfix
from tests.peers.process import directory, free_port
from tests.verify.scripted import Host

ADDRESSES = [
    *(f"{local}@smtp.example" for local in ("ok", "no", "later", "full", "odd")),
    *(f"{local}@lmtp.example" for local in ("ok", "no", "later")),
    *(f"{local}@plain.example" for local in ("ok", "no", "later")),
    "x@down.example",
    "x@error.example",
    "x@retry.example",
    "x@discard.example",
    "many@alias.example",
    "one@alias.example",
    "none@alias.example",
]
IN_PROGRESS = "Address verification in progress"


class Both:
    """A Postfix and a gateway, the hosts behind them, and how to ask."""

    def __init__(self, place: Path, stack: contextlib.ExitStack) -> None:
        self.hosts = {
            name: stack.enter_context(Host(pipelining=name != "plain").running())
            for name in ("smtp", "lmtp", "plain")
        }
        routes = {
            "smtp.example": f"smtp:[127.0.0.1]:{self.hosts['smtp'].port}",
            "plain.example": f"smtp:[127.0.0.1]:{self.hosts['plain'].port}",
            "lmtp.example": f"lmtp:inet:127.0.0.1:{self.hosts['lmtp'].port}",
            "down.example": f"smtp:[127.0.0.1]:{free_port()}",
            "error.example": "error:5.1.6 has moved",
            "retry.example": "retry:4.3.2 is asleep",
            "discard.example": "discard:gone",
        }
        transport = place / "transport"
        transport.write_text("".join(f"/@{re.escape(k)}$/ {v}\n" for k, v in routes.items()))
        aliases = place / "virtual"
        aliases.write_text(
            "/^many@alias/ ok@smtp.example, no@smtp.example\n/^one@alias/ no@smtp.example\n"
        )
        common = {
            "relay_domains": " ".join(routes),
            "virtual_alias_domains": "alias.example",
            "virtual_alias_maps": f"regexp:{aliases}",
            "transport_maps": f"regexp:{transport}",
            "smtpd_recipient_restrictions": "reject_unverified_recipient",
            "unverified_recipient_reject_code": "550",
            "address_verify_poll_count": "1",
            "address_verify_poll_delay": "1s",
        }
        place.chmod(0o755)
        self.postfix = stack.enter_context(
            postfix.postfix({
                **common,
                "address_verify_map": "",
                "smtpd_delay_reject": "yes",
                "myorigin": "origin.example",
                "smtpd_relay_restrictions": "permit_mynetworks, reject",
            })
        )  # fmt: skip
        self.gateway = Gateway(place)
        lines = "".join(f'{key} = "{value}"\n' for key, value in common.items() if "_co" not in key)
        self.gateway.configure(
            top=lines
            + "unverified_recipient_reject_code = 550\naddress_verify_poll_count = 1\n"
            + 'mynetworks = ["127.0.0.0/8"]\nmyorigin = "origin.example"\n'
            + 'address_verify_map = ""\n'
        )
        stack.callback(self.gateway.kill)
        self.gateway.start()

    def ask(self, port: int, address: str) -> str:
        """The reply to RCPT."""
        with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
            client.ehlo("client.example.org")
            client.mail("s@sender.example")
            code, text = client.rcpt(address)
            return f"{code} {text.decode()}"

    def known(self, port: int, address: str) -> str:
        """The reply once the probe is over."""
        found = ""

        def settled() -> bool:
            nonlocal found
            found = self.ask(port, address)
            return IN_PROGRESS not in found

        until(settled, what=f"an answer about {address}")
        return found


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    with directory("verify") as place, contextlib.ExitStack() as stack:
        yield Both(Path(place), stack)


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_same_is_said_at_the_first_and_at_the_second_rcpt(both: Both, address: str) -> None:
    first = [both.ask(port, address) for port in (both.postfix.port, both.gateway.port)]
    second = [both.known(port, address) for port in (both.postfix.port, both.gateway.port)]
    assert _bare(first[1]) == _bare(first[0])
    assert _bare(second[1]) == _bare(second[0])


def _bare(reply: str) -> str:
    """Without ports that each has of its own."""
    return re.sub(r":\d+: ", ": ", reply)


def test_no_probe_ever_comes_to_data(both: Both) -> None:
    for name, host in both.hosts.items():
        verbs = {each[:4].upper() for each in host.lines}
        assert not verbs & {b"DATA", b"BDAT"}, name
    senders = {each for each in both.hosts["smtp"].lines if each.startswith(b"MAIL")}
    assert {each.partition(b">")[0] for each in senders} == {
        b"MAIL FROM:<double-bounce@origin.example"
    }


def test_silence_is_in_progress_for_both(both: Both) -> None:
    for port in (both.postfix.port, both.gateway.port):
        for _ in range(2):
            said = both.ask(port, "silent@smtp.example")
            assert said.startswith("450 4.1.1 "), said
            assert IN_PROGRESS in said
    until(lambda: both.hosts["smtp"].rcpts(b"silent@") == 2, what="one probe of each")


def test_mail_to_the_sender_of_probes_is_refused_for_nothing(both: Both) -> None:
    for port in (both.postfix.port, both.gateway.port):
        assert both.ask(port, "double-bounce@origin.example").startswith("250 ")
