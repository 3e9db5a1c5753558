"""Every refusal carries the reference that `smtpgw why` finds it by; a mail that was taken is found
by its queue id; whether the gateway runs or not, and whatever strangers have written."""

from __future__ import annotations

import json
import re
import smtplib
import socket
import subprocess
import sys
from typing import Any

import pytest

from tests.gateway.gateway import PATIENCE, Gateway, until

SHOWN = "[smtpgw.decisions]\nin_replies = true\n"
STRANGERS = 'mynetworks = ["192.0.2.0/24"]\n'
_REFERENCE = re.compile(r" \[([2-9a-z]{8})\]$")
pytestmark = pytest.mark.timeout(120)


def why(gateway: Gateway, name: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "smtpgw", "why", name, "-c", str(gateway.file), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)


def decided(gateway: Gateway, name: str) -> list[dict[str, Any]]:
    """The decisions by this id, once they are written."""
    text = until(lambda: why(gateway, name, "--json").stdout, what=f"why {name}")
    return [json.loads(line) for line in text.splitlines()]


def reference(said: tuple[int, bytes]) -> str:
    found = _REFERENCE.search(said[1].decode())
    assert found, said
    return found[1]


def test_refusals_carry_a_reference_that_is_found(gateway: Gateway) -> None:
    gateway.configure(STRANGERS, tables=SHOWN)
    gateway.start()
    with smtplib.SMTP("127.0.0.1", gateway.port, timeout=PATIENCE) as client:
        early = client.docmd("DATA")
        client.ehlo("client.example.org")
        wrong = client.docmd("MAIL", "FROM:<a@b@c>")
        client.docmd("MAIL", "FROM:<a@example.org>")
        relay = client.docmd("RCPT", "TO:<x@elsewhere.example>")
    assert (early[0], wrong[0], relay[0]) == (503, 501, 554)
    (one,) = decided(gateway, reference(relay))
    assert (one["code"], one["enhanced"], one["command"]) == (554, "5.7.1", "RCPT")
    assert (one["sender"], one["recipient"]) == ("a@example.org", "x@elsewhere.example")
    assert (one["client"], one["helo"]) == ("127.0.0.1", "client.example.org")
    (one,) = decided(gateway, reference(early))
    assert (one["source"], one["command"], one["outcome"]) == ("edge", "DATA", "rejected")
    (one,) = decided(gateway, reference(wrong))
    assert (one["source"], one["code"]) == ("edge", 501)
    # All of a session together, by the name that the log has for it.
    assert [each["code"] for each in decided(gateway, one["session"])] == [503, 501, 554]
    gateway.stop()
    assert "554 5.7.1" in why(gateway, f"[{reference(relay)}]").stdout


def test_a_mail_that_was_taken_is_found_by_its_queue_id(gateway: Gateway) -> None:
    gateway.configure(STRANGERS, tables=SHOWN)
    gateway.start()
    code, text = gateway.send()
    assert code == 250
    (one,) = decided(gateway, text.rpartition(" ")[2])
    assert (one["outcome"], one["recipient"]) == ("queued", "u@example.net")


def test_who_is_turned_away_at_once_has_a_reference_too(gateway: Gateway) -> None:
    gateway.configure(STRANGERS + "default_process_limit = 1\n", tables=SHOWN)
    gateway.start()
    with gateway.client(), socket.create_connection(("127.0.0.1", gateway.port)) as other:
        other.settimeout(PATIENCE)
        said = other.makefile("rb").readline().decode().rstrip()
    assert said.startswith("421 4.3.2 ")
    found = _REFERENCE.search(said)
    assert found
    (one,) = decided(gateway, found[1])
    assert (one["command"], one["code"]) == ("CONNECT", 421)


def test_what_strangers_wrote_is_no_syntax_of_the_terminal(gateway: Gateway) -> None:
    gateway.configure(STRANGERS, tables=SHOWN)
    gateway.start()
    with smtplib.SMTP("127.0.0.1", gateway.port, timeout=PATIENCE) as client:
        client.command_encoding = "utf-8"
        client.ehlo("client.example.org")
        client.docmd("MAIL", "FROM:<a@example.org> SMTPUTF8")
        said = client.docmd("RCPT", "TO:<\u202eevil\u009b31m@elsewhere.example>")
    assert said[0] >= 500
    name = reference(said)
    decided(gateway, name)
    shown = why(gateway, name).stdout
    assert "\u202e" not in shown
    assert "\u009b" not in shown


def test_a_reply_stays_within_a_line(gateway: Gateway) -> None:
    gateway.configure(STRANGERS, tables=SHOWN)
    gateway.start()
    with smtplib.SMTP("127.0.0.1", gateway.port, timeout=PATIENCE) as client:
        client.ehlo("client.example.org")
        client.docmd("MAIL", "FROM:<a@example.org>")
        long = ".".join(["x" * 60] * 4)
        client.send(f"RCPT TO:<{'u' * 64}@{long[:180]}>\r\n".encode())
        line = client.file.readline()  # type: ignore[union-attr]
    assert len(line) <= 512
    assert _REFERENCE.search(line.decode().rstrip())


def test_what_is_not_known_is_said(gateway: Gateway) -> None:
    assert why(gateway, "abcd2345").returncode == 1
    assert why(gateway, "../../etc/passwd").returncode == 2
