"""The town where the senders of notified mails live: Postfix before Dovecot, and how a letter that
arrives there is held to the envelope that caused it (RFC 3464)."""

from __future__ import annotations

import email
import email.policy
import email.utils
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from milterd.core.mail import Envelope, Mail, Recipient
from smtpgw.courier import CourierOptions
from smtpgw.delivery.outcome import Destination
from smtpgw.dsn.report import DsnOptions
from smtpgw.queue.schedule import ScheduleOptions
from tests.delivery.peer import Peer, listening, road
from tests.peers.dovecot import Dovecot, dovecot
from tests.peers.postfix import Postfix, postfix
from tests.peers.process import wait_for
from tests.queue.support import START, message, run

NO_USER = b"550 5.1.1 <b@x> no such user\r\n"
FULL = b"452 4.2.2 mailbox full\r\n"
OK = b"250 2.0.0 stored\r\n"
DSN_OFFERED = b"250-peer.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 DSN\r\n"
HEAD = b"Message-ID: <original@example.com>\r\nFrom: a@example.com\r\nSubject: s\r\n\r\n"
POSTMASTER = "postmaster@gw.example"


@dataclass(frozen=True)
class Town:
    """Where the senders live."""

    postfix: Postfix
    dovecot: Dovecot
    free: Iterator[str]

    @property
    def way(self) -> Destination:
        return Destination("smtp", f"[127.0.0.1]:{self.postfix.port}")

    def letters(self, user: str, count: int) -> list[bytes]:
        """What a user has been told, once that is `count` letters."""
        wait_for(lambda: len(self.dovecot.mails(user)) >= count, "letters", within=30)
        found = self.dovecot.mails(user)
        assert len(found) == count
        return found


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    users = [f"s{number}@example.com" for number in range(40)]
    with dovecot(dict.fromkeys([POSTMASTER, *users], "")) as stores:
        main = {
            "default_transport": f"lmtp:inet:127.0.0.1:{stores.port}",
            "transport_maps": "inline:{ utf8.example=discard: }",
        }
        with postfix(main) as relays:
            yield Town(relays, stores, iter(users))
            relayed = relays.peer.said()
            assert relays.troubles() == []
            assert "status=bounced" not in relayed
            assert "status=deferred" not in relayed


@pytest.fixture
def sender(town: Town) -> str:
    """An address that only this test uses."""
    return next(town.free)


@dataclass(frozen=True)
class Told:
    """What a notification has to say of one recipient."""

    final: str
    action: str
    status: str
    original: str | None = None
    remote: str | None = "dns; peer.example"
    code: str | None = None
    until: float | None = None


@dataclass(frozen=True)
class Case:
    """A mail, and how it is met.  `moves` are seconds the clock goes on, step by step."""

    mail: Mail
    answers: Mapping[str, Any] = field(default_factory=dict)
    where: Destination | None = None
    dsn: DsnOptions = field(default_factory=lambda: DsnOptions("gw.example"))
    schedule: ScheduleOptions = field(default_factory=ScheduleOptions)
    moves: tuple[float, ...] = ()


def mail_to(
    sender: str,
    *rcpts: tuple[bytes, ...],
    args: tuple[bytes, ...] = (),
    text: bytes = b"hello\r\n",
    head: bytes = HEAD,
) -> Mail:
    """A mail to recipients, each with its parameters."""
    mail = message(text, head=head)
    those = tuple(Recipient(each[0], tuple(each[1:])) for each in rcpts or ((b"b@x",),))
    return Mail(mail.session, Envelope(sender.encode(), args, those), mail.headers, mail.body)


def send(town: Town, tmp_path: Path, case: Case) -> str:
    """Let the courier do all it does with it; the mail's queue id."""

    async def scenario() -> str:
        peer = Peer(case.answers)
        options = CourierOptions(pause=0.01, dsn=case.dsn)
        homes = dict.fromkeys(("example.com", "gw.example", "utf8.example"), town.way)
        async with (
            listening(peer) as lmtp,
            road(
                tmp_path, case.where or lmtp, homes, schedule=case.schedule, options=options
            ) as way,
        ):
            queue_id = await way.accept(case.mail)
            for each in case.moves:
                await way.settled()
                way.clock.go(each)
            await way.settled()
            if not any(case.moves):
                await way.wait_empty()
            return queue_id

    return run(scenario())


def _fields(block: Message) -> dict[str, str]:
    found = {key: re.sub(r"\s*\n\s+", " ", str(value)) for key, value in block.items()}
    assert len(found) == len(block.items())
    return found


def check(
    octets: bytes,
    case: Case,
    queue_id: str,
    told: list[Told],
    *,
    to: str = "",
    subject: str = "Undelivered Mail Returned to Sender",
    envid: str | None = None,
) -> list[Message]:
    """Everything RFC 3464 asks for, against the envelope; the three parts."""
    sender = case.mail.envelope.sender.decode()
    parsed = email.message_from_bytes(octets)
    _check_header(parsed, sender, to, subject)
    human, status, original = parsed.get_payload()  # type: ignore[misc] # three parts
    whole, *rest = (_fields(each) for each in status.get_payload())  # type: ignore[union-attr]
    assert whole.pop("Reporting-MTA") == "dns; gw.example"
    assert whole.pop("Received-From-MTA") == "dns; helo.example"
    assert _moment(whole.pop("Arrival-Date")) == START
    assert whole.pop("Original-Envelope-Id", None) == envid
    assert whole.pop("X-Gatepost-Queue-ID") == queue_id
    assert whole.pop("X-Gatepost-Sender", None) == (f"rfc822; {sender}" if sender else None)
    assert not whole
    shown = human.get_payload(decode=True).decode()  # type: ignore[union-attr] # one part
    assert queue_id in shown
    for each, wanted in zip(rest, told, strict=True):
        _check_recipient(each, wanted, queue_id)
        kind, _, address = wanted.final.partition("; ")
        assert kind == "utf-8" or f"<{address}>" in shown
    return [human, status, original]


def _check_header(parsed: Message, sender: str, to: str, subject: str) -> None:
    top = {key: str(value) for key, value in parsed.items()}
    assert email.utils.parseaddr(top["To"])[1] == (to or sender)
    assert top["From"] == "Mail Delivery System <MAILER-DAEMON@gw.example>"
    assert top["Auto-Submitted"] == "auto-replied"
    assert top["Subject"] == subject
    assert re.fullmatch(r"<[0-9A-Za-z]{14}@gw\.example>", top["Message-ID"])
    assert top["References"] == top["In-Reply-To"] == "<original@example.com>"
    assert _moment(top["Date"]) >= START
    assert top["Return-Path"] == ("<double-bounce@gw.example>" if to else "<>")
    assert parsed.get_content_type() == "multipart/report"
    assert parsed.get_param("report-type") == "delivery-status"


def _moment(date: str) -> float:
    return email.utils.parsedate_to_datetime(date).timestamp()


def _check_recipient(each: dict[str, str], wanted: Told, queue_id: str) -> None:
    assert each.pop("Original-Recipient", None) == wanted.original
    assert each.pop("Final-Recipient") == wanted.final
    assert each.pop("Action") == wanted.action
    assert each.pop("Status") == wanted.status
    assert each.pop("Remote-MTA", None) == wanted.remote
    assert each.pop("Diagnostic-Code", None) == wanted.code
    assert START <= _moment(each.pop("Last-Attempt-Date")) <= START + 6 * 86400
    ours = wanted.action in ("failed", "delayed", "delivered")
    assert each.pop("Final-Log-ID", None) == (queue_id if ours else None)
    until = each.pop("Will-Retry-Until", None)
    assert wanted.until is None if until is None else _moment(until) == wanted.until
    assert not each


NOBODY = "smtp; 550 5.1.1 <b@x> no such user"
