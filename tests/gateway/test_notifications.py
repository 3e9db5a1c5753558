"""Who is told of what the running gateway cannot deliver, and who never is."""

from __future__ import annotations

import contextlib
import email
import smtplib
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.gateway.conftest import milter_table
from tests.gateway.gateway import Gateway, send_by, until
from tests.peers.dovecot import dovecot

RUN = 1000
"""Mails with forged senders."""
_NO_LIMITS = """
mynetworks = ["192.0.2.0/24"]
message_size_limit = 20000
header_size_limit = 20000
hopcount_limit = 30
bare_newline = "reject"
smtpd_soft_error_limit = 100000
smtpd_hard_error_limit = 100000
smtpd_junk_command_limit = 100000
"""

Answer = tuple[int, str]
Attempt = Callable[[smtplib.SMTP, str], Answer]


def _sends(message: bytes, recipient: str = "u@example.net") -> Attempt:
    return lambda client, sender: send_by(client, message, sender, [recipient])


def _mail_command(parameters: str) -> Attempt:
    return lambda client, sender: _text(client.docmd(f"MAIL FROM:<{sender}> {parameters}"))


def _text(answer: tuple[int, bytes]) -> Answer:
    return answer[0], answer[1].decode()


def _breaks_off(client: smtplib.SMTP, sender: str) -> Answer:
    """Hangs up in the middle of a mail."""
    client.mail(sender)
    client.rcpt("u@example.net")
    client.docmd("DATA")
    client.send(b"Subject: x\r\n\r\nhal")
    client.close()
    client.connect("127.0.0.1", client.gateway_port)  # type: ignore[attr-defined] # set below
    client.ehlo("client.example.org")
    return 550, "hung up"


ATTEMPTS: dict[str, Attempt] = {
    "unknown domain": _sends(b"Subject: x\r\n\r\nspam\r\n", "nobody@elsewhere.example"),
    "unknown domain behind a percent sign": _sends(b"\r\n", "a%elsewhere.example@gw2.example"),
    "virus": _sends(b"Subject: reject\r\n\r\nvirus\r\n"),
    "virus, discarded": _sends(b"Subject: discard\r\n\r\nvirus\r\n"),
    "scanner down": _sends(b"Subject: tempfail\r\n\r\nvirus\r\n"),
    "too large by its own words": _mail_command("SIZE=20000000"),
    "too large": _sends(b"Subject: x\r\n\r\n" + b"x" * 70 * 400 + b"\r\n"),
    "loop": _sends(b"Received: by x\r\n" * 31 + b"\r\nround\r\n"),
    "bare line feed": _sends(b"Subject: x\r\n\r\na\n.\nb\r\n"),
    "wishes to be told": lambda client, sender: (
        client.docmd(f"MAIL FROM:<{sender}> RET=FULL ENVID=1"),
        _text(client.docmd("RCPT TO:<nobody@elsewhere.example> NOTIFY=SUCCESS,FAILURE,DELAY")),
    )[1],
    "hangs up": _breaks_off,
}  # fmt: skip


def test_a_thousand_forged_senders_are_told_nothing(gateway: Gateway, milter: Path) -> None:
    """Whatever the gateway refuses it refuses in the dialogue, and never by a mail to whoever
    stands in the envelope (RFC 5321 section 6.2, Postfix's BACKSCATTER_README).

    Not part of this: a user whom only the backend knows not to exist.  Its 550 comes after our
    250, and its notification is due.
    """
    tables = f'[smtpgw.transport]\n"victim.example" = "maildir:{gateway.place}/victims"\n'
    gateway.configure(_NO_LIMITS, tables + milter_table(milter))
    gateway.start()
    kinds = list(ATTEMPTS.items())
    counted = dict.fromkeys(ATTEMPTS, 0)
    for start in range(0, RUN, 100):
        with gateway.client() as client:
            client.gateway_port = gateway.port  # type: ignore[attr-defined] # for _breaks_off
            for number in range(start, start + 100):
                kind, attempt = kinds[number % len(kinds)]
                code, text = attempt(client, f"forged{number}@victim.example")
                assert (code < 300) == (kind == "virus, discarded"), (kind, code, text)
                counted[kind] += 1
                client.rset()
    assert sum(counted.values()) == RUN
    assert min(counted.values()) >= RUN // len(kinds)
    assert gateway.stop() == 0
    assert gateway.count("dsn") == 0
    assert gateway.count("delivery") == 0
    assert not (gateway.place / "victims").exists()
    assert not gateway.mail.exists()


@contextlib.contextmanager
def _backend_without_users(gateway: Gateway, bounce: str = "") -> Iterator[None]:
    with dovecot({"else@example.com": ""}) as backend:
        tables = f'[smtpgw.transport]\n"example.org" = "maildir:{gateway.mail}"\n'
        tables += f'"gw.example.net" = "maildir:{gateway.mail}"\n[smtpgw.bounce]\n{bounce}\n'
        gateway.configure("", tables, delivery=f"lmtp:unix:{backend.socket}")
        gateway.start()
        yield


def test_a_backend_that_refuses_all_causes_one_notification(gateway: Gateway) -> None:
    """F19: one to the sender, none for the null sender."""
    with _backend_without_users(gateway):
        recipients = [f"u{number}@example.net" for number in range(3)]
        assert gateway.send(recipients=recipients)[0] == 250
        (letter,) = gateway.delivered("a@example.org")
        _, status, original = email.message_from_bytes(letter).get_payload()  # type: ignore[misc]
        rest = status.get_payload()[1:]  # type: ignore[union-attr]
        assert [each["Final-Recipient"] for each in rest] == [f"rfc822; {u}" for u in recipients]
        assert {(each["Action"], each["Status"]) for each in rest} == {("failed", "5.1.1")}
        assert all("User doesn't exist" in each["Diagnostic-Code"] for each in rest)
        assert original.get_payload(0)["Subject"] == "hello"  # type: ignore[union-attr]
        assert gateway.send(sender="", recipients=recipients)[0] == 250
        until(lambda: gateway.count("dsn", outcome="discarded"))
        assert gateway.count("dsn", outcome="failed") == 1
        assert len(gateway.delivered("a@example.org")) == 1


def test_the_postmaster_hears_of_what_nobody_else_can(gateway: Gateway) -> None:
    """And of a notice to him that cannot be delivered nobody hears."""
    classes = 'notify_classes = ["2bounce"]\n"2bounce_notice_recipient" = "help@gw.example.net"'
    with _backend_without_users(gateway, classes):
        assert gateway.send(sender="")[0] == 250
        (letter,) = gateway.delivered("help@gw.example.net")
        parsed = email.message_from_bytes(letter)
        assert parsed["Return-Path"] == "<double-bounce@gw.example.net>"
        assert parsed["Subject"] == "Postmaster Copy: Undelivered Mail"
        assert gateway.send(sender="double-bounce@gw.example.net")[0] == 250
        until(lambda: gateway.count("dsn", outcome="discarded"))
        assert gateway.count("dsn", outcome="failed") == 1


def test_what_somebody_answers_to_a_notice_goes_nowhere(gateway: Gateway) -> None:
    gateway.configure('relay_domains = ["gw.example.net"]')
    gateway.start()
    assert gateway.send(sender="", recipients=["Double-Bounce@gw.example.net"])[0] == 250
    until(lambda: gateway.count("queue.done"))
    (line,) = gateway.told("delivery")
    assert line["destination"] == "discard:mail to double_bounce_sender"
    assert not gateway.mail.exists()
