"""Notifications, each field against the envelope that caused it.

The mail is delivered by our courier to a scripted peer; what the sender is told of it goes out
by SMTP to a real Postfix, which relays it by LMTP into a real Dovecot, where it is read.
"""

from __future__ import annotations

import email
import email.policy
import email.utils
import re
from pathlib import Path

import pytest
import structlog

from smtpgw.delivery.outcome import Destination
from smtpgw.dsn.report import DsnOptions, NoticeOptions
from smtpgw.queue.clock import QueueClock
from smtpgw.queue.schedule import Schedule, ScheduleOptions
from smtpgw.reports import Reporter
from tests.delivery.peer import Peer, listening, road
from tests.peers.process import wait_for
from tests.queue.support import START, run
from tests.scenarios.senders import (
    DSN_OFFERED,
    FULL,
    NO_USER,
    NOBODY,
    OK,
    POSTMASTER,
    Case,
    Told,
    Town,
    check,
    mail_to,
    send,
    sender,
    town,
)

__all__ = ["sender", "town"]  # fixtures
pytestmark = pytest.mark.xdist_group("scenario-dsn")


def test_failure_of_one(town: Town, tmp_path: Path, sender: str) -> None:
    case = Case(mail_to(sender), {"RCPT": NO_USER})
    queue_id = send(town, tmp_path, case)
    (letter,) = town.letters(sender, 1)
    parts = check(letter, case, queue_id, [Told("rfc822; b@x", "failed", "5.1.1", code=NOBODY)])
    assert parts[2].get_content_type() == "message/rfc822"
    words = parts[0].get_payload()
    assert isinstance(words, str)
    assert "peer.example said: 550 5.1.1 <b@x> no such user" in " ".join(words.split())
    assert "There is no such address." in words


def test_failure_of_several(town: Town, tmp_path: Path, sender: str) -> None:
    big = b"552 5.3.4 too big\r\n"
    case = Case(mail_to(sender, (b"b@x",), (b"c@x",), (b"d@x",)), {"DOT": NO_USER + OK + big})
    queue_id = send(town, tmp_path, case)
    (letter,) = town.letters(sender, 1)
    told = [
        Told("rfc822; b@x", "failed", "5.1.1", code=NOBODY),
        Told("rfc822; d@x", "failed", "5.3.4", code="smtp; 552 5.3.4 too big"),
    ]
    check(letter, case, queue_id, told)


def test_one_fails_one_waits_one_is_delivered(town: Town, tmp_path: Path, sender: str) -> None:
    """Three kinds of news are three letters, each with its own recipient only."""
    both = b"NOTIFY=SUCCESS,FAILURE,DELAY"
    case = Case(
        mail_to(sender, (b"b@x", both), (b"c@x", both), (b"d@x", both)),
        {"DOT": [NO_USER + FULL + OK, FULL]},
        schedule=ScheduleOptions(delay_warning_time=3600),
        moves=(4000,),
    )
    queue_id = send(town, tmp_path, case)
    found = {_subject(each): each for each in town.letters(sender, 3)}
    failed = Told("rfc822; b@x", "failed", "5.1.1", code=NOBODY)
    check(found.pop("Undelivered Mail Returned to Sender"), case, queue_id, [failed])
    text = "smtp; 452 4.2.2 mailbox full"
    late = Told("rfc822; c@x", "delayed", "4.2.2", code=text, until=START + 5 * 86400)
    subject = "Delayed Mail (still being retried)"
    check(found.pop(subject), case, queue_id, [late], subject=subject)
    subject = "Successful Mail Delivery Report"
    done = Told("rfc822; d@x", "relayed", "2.0.0", code="smtp; 250 2.0.0 stored")
    check(found.pop(subject), case, queue_id, [done], subject=subject)


def _subject(letter: bytes) -> str:
    return str(email.message_from_bytes(letter)["Subject"])


def test_delay_and_its_end(town: Town, tmp_path: Path, sender: str) -> None:
    case = Case(
        mail_to(sender, (b"b@x",), (b"c@x", b"NOTIFY=FAILURE")),
        {"DOT": [FULL + FULL, FULL + FULL, OK + OK]},
        dsn=DsnOptions("gw.example", confirm_delay_cleared=True),
        schedule=ScheduleOptions(delay_warning_time=3600),
        moves=(4000, 5000),
    )
    queue_id = send(town, tmp_path, case)
    found = {_subject(each): each for each in town.letters(sender, 2)}
    text = "smtp; 452 4.2.2 mailbox full"
    late = Told("rfc822; b@x", "delayed", "4.2.2", code=text, until=START + 5 * 86400)
    subject = "Delayed Mail (still being retried)"
    parts = check(found[subject], case, queue_id, [late], subject=subject)
    assert parts[2].get_content_type() == "text/rfc822-headers"
    over = Told("rfc822; b@x", "relayed", "2.0.0", code="smtp; 250 2.0.0 stored")
    subject = "Delayed Mail Has Been Delivered"
    check(found[subject], case, queue_id, [over], subject=subject)


@pytest.mark.parametrize("how", ["lmtp", "maildir", "relayed", "passed on"])
def test_success(town: Town, tmp_path: Path, sender: str, how: str) -> None:
    mail = mail_to(sender, (b"b@x", b"NOTIFY=SUCCESS"), (b"c@x",))
    told = Told("rfc822; b@x", "delivered", "2.0.0", code="smtp; 250 2.0.0 stored")
    case = Case(mail, dsn=DsnOptions("gw.example", lmtp_assume_final=how == "lmtp"))
    if how == "relayed":
        told = Told("rfc822; b@x", "relayed", "2.0.0", code="smtp; 250 2.0.0 stored")
    elif how == "maildir":
        case = Case(mail, where=Destination("maildir", str(tmp_path / "mail")))
        told = Told("rfc822; b@x", "delivered", "2.0.0", remote=None)
    elif how == "passed on":  # the next system reports, and we do not (RFC 3461 section 5.2.2)
        case = Case(mail, {"LHLO": DSN_OFFERED})
    queue_id = send(town, tmp_path, case)
    if how == "passed on":
        town.letters(sender, 0)
        return
    (letter,) = town.letters(sender, 1)
    subject = "Successful Mail Delivery Report"
    parts = check(letter, case, queue_id, [told], subject=subject)
    assert parts[2].get_content_type() == "text/rfc822-headers"


def test_expanded(town: Town, tmp_path: Path, sender: str) -> None:
    """What a list of addresses is to report, at the Reporter: nothing expands yet."""
    case = Case(mail_to(sender, (b"list@x", b"NOTIFY=SUCCESS", b"ORCPT=rfc822;List@x"), (b"c@x",)))

    async def scenario() -> str:
        async with road(tmp_path, town.way) as way:
            queue_id = await way.accept(case.mail)
            await way.courier.drain(0)
            reporter = Reporter(
                way.intake,
                clock=QueueClock(way.clock),
                schedule=Schedule(),
                token=lambda: "0123456789abcdef",
                log=structlog.get_logger(),
                options=case.dsn,
            )
            shown, content = await way.store.show(queue_id), await way.store.content(queue_id)
            (letter,) = reporter.expanded(shown, content, {0, 1})
            await way.store.delete(queue_id)
            await way.store.add(letter)
        async with road(tmp_path, town.way) as way:
            await way.wait_empty()
        return queue_id

    queue_id = run(scenario())
    (letter,) = town.letters(sender, 1)
    told = Told("rfc822; list@x", "expanded", "2.1.5", original="rfc822;List@x", remote=None)
    subject = "Successful Mail Delivery Report"
    check(letter, case, queue_id, [told], subject=subject)


@pytest.mark.parametrize("ret", ["FULL", "HDRS"])
def test_ret_decides_what_comes_back(town: Town, tmp_path: Path, sender: str, ret: str) -> None:
    case = Case(mail_to(sender, args=(b"RET=" + ret.encode(),)), {"RCPT": NO_USER})
    queue_id = send(town, tmp_path, case)
    (letter,) = town.letters(sender, 1)
    told = [Told("rfc822; b@x", "failed", "5.1.1", code=NOBODY)]
    original = check(letter, case, queue_id, told)[2]
    whole = b"".join(case.mail.pieces()).replace(b"\r\n", b"\n")
    if ret == "FULL":
        assert original.get_content_type() == "message/rfc822"
        assert original.get_payload(0).as_bytes().strip() == whole.strip()  # type: ignore[union-attr]
    else:
        assert original.get_content_type() == "text/rfc822-headers"
        head = whole.partition(b"\n\n")[0]
        assert original.get_payload(decode=True).strip() == head.strip()  # type: ignore[union-attr]


def test_envid_and_orcpt(town: Town, tmp_path: Path, sender: str) -> None:
    case = Case(
        mail_to(
            sender,
            (b"b@x", b"ORCPT=rfc822;Old+2BName@Example.ORG"),
            (b"c@x", rb"ORCPT=utf-8;j\x{F6}rg@x"),
            args=(b"ENVID=QQ+20314159+3D",),
        ),
        {"RCPT": NO_USER},
    )
    queue_id = send(town, tmp_path, case)
    (letter,) = town.letters(sender, 1)
    told = [
        Told("rfc822; b@x", "failed", "5.1.1", "rfc822;Old+Name@Example.ORG", code=NOBODY),
        Told("rfc822; c@x", "failed", "5.1.1", r"utf-8; j\x{F6}rg@x", code=NOBODY),
    ]
    check(letter, case, queue_id, told, envid="QQ 314159=")


def test_smtputf8_to_a_plain_sender(town: Town, tmp_path: Path, sender: str) -> None:
    """What goes back to him passes where SMTPUTF8 does not: the address in ASCII."""
    head = "Message-ID: <original@example.com>\r\nSubject: Grüße\r\n\r\n".encode()
    case = Case(
        mail_to(sender, ("jörg@x".encode(),), args=(b"SMTPUTF8",), head=head), {"RCPT": NO_USER}
    )
    queue_id = send(town, tmp_path, case)
    (letter,) = town.letters(sender, 1)
    told = [Told(r"utf-8; j\x{F6}rg@x", "failed", "5.1.1", code=NOBODY)]
    parts = check(letter, case, queue_id, told)
    assert parts[2].get_content_type() == "message/global"
    assert "jörg@x" in parts[0].get_payload(decode=True).decode()  # type: ignore[union-attr]


def test_smtputf8_to_an_international_sender(town: Town, tmp_path: Path) -> None:
    """RFC 6533: the parts are those for UTF-8, and the mail itself needs SMTPUTF8."""
    sender = "jürgen@utf8.example"
    head = "Message-ID: <original@example.com>\r\nSubject: Grüße\r\n\r\n".encode()
    mail = mail_to(sender, ("jörg@x".encode(), b"ORCPT=utf-8;Old"), args=(b"SMTPUTF8", b"RET=HDRS"),
                 head=head)  # fmt: skip
    before = town.postfix.peer.said()
    send(town, tmp_path / "a", Case(mail, {"RCPT": NO_USER}))
    wait_for(lambda: "(utf8.example)" in town.postfix.peer.said()[len(before) :], "relayed")
    home = tmp_path / "mail"

    async def kept() -> None:
        homes = {"utf8.example": Destination("maildir", str(home))}
        async with (
            listening(Peer({"RCPT": NO_USER})) as lmtp,
            road(tmp_path / "b", lmtp, homes) as way,
        ):
            await way.accept(mail)
            await way.wait_empty()

    run(kept())
    (file,) = home.glob("*/new/*")
    octets = file.read_bytes()
    assert f"To: <{sender}>".encode() in octets
    kinds = re.findall(rb"Content-Type: (\S+)", octets)
    assert kinds[1:] == [
        b"text/plain;", b"message/global-delivery-status", b"message/global-headers"
    ]  # fmt: skip
    assert "\nFinal-Recipient: utf-8; jörg@x\n".encode() in octets
    assert b"\nOriginal-Recipient: utf-8; Old\n" in octets
    assert "\nSubject: Grüße\n".encode() in octets


def test_a_huge_original_comes_back_as_its_header(town: Town, tmp_path: Path, sender: str) -> None:
    case = Case(mail_to(sender, text=b"x" * 70 + b"\r\n" * 1_000_000), {"RCPT": NO_USER})
    queue_id = send(town, tmp_path, case)
    (letter,) = town.letters(sender, 1)
    parts = check(letter, case, queue_id, [Told("rfc822; b@x", "failed", "5.1.1", code=NOBODY)])
    assert parts[2].get_content_type() == "text/rfc822-headers"
    assert b"Subject: s" in parts[2].get_payload(decode=True)  # type: ignore[operator]
    assert len(letter) < 10_000


ALL = NoticeOptions(notify_classes=frozenset({"bounce", "2bounce", "delay", "software"}))


def test_a_failure_without_a_sender_is_the_postmasters(town: Town, tmp_path: Path) -> None:
    """And NOTIFY=NEVER, which our own notifications bear, hides nothing from him."""
    before = len(town.dovecot.mails(POSTMASTER))
    mail = mail_to("", (b"b@x", b"NOTIFY=NEVER"))
    case = Case(mail, {"RCPT": NO_USER}, dsn=DsnOptions("gw.example", notices=ALL))
    queue_id = send(town, tmp_path, case)
    letter = town.letters(POSTMASTER, before + 1)[-1]
    told = [Told("rfc822; b@x", "failed", "5.1.1", code=NOBODY)]
    subject = "Postmaster Copy: Undelivered Mail"
    parts = check(letter, case, queue_id, told, to=POSTMASTER, subject=subject)
    assert parts[2].get_content_type() == "message/rfc822"


def test_the_postmaster_gets_a_copy_of_what_the_sender_gets(
    town: Town, tmp_path: Path, sender: str
) -> None:
    before = len(town.dovecot.mails(POSTMASTER))
    mail = mail_to(sender, (b"b@x",), (b"c@x", b"NOTIFY=NEVER"))
    case = Case(mail, {"RCPT": NO_USER}, dsn=DsnOptions("gw.example", notices=ALL))
    queue_id = send(town, tmp_path, case)
    (letter,) = town.letters(sender, 1)
    told = [Told(f"rfc822; {each}@x", "failed", "5.1.1", code=NOBODY) for each in "bc"]
    check(letter, case, queue_id, told[:1])
    # A Maildir has no order within a second: the copy is known by what it tells of.
    letters = town.letters(POSTMASTER, before + 1)
    (copy,) = [each for each in letters if queue_id.encode() in each]
    subject = "Postmaster Copy: Undelivered Mail"
    parts = check(copy, case, queue_id, told, to=POSTMASTER, subject=subject)
    assert parts[2].get_content_type() == "text/rfc822-headers"


@pytest.mark.parametrize("who", ["", "double-bounce@gw.example", "never"])
def test_nobody_is_told(town: Town, tmp_path: Path, sender: str, who: str) -> None:
    """The null sender where the postmaster does not ask for it, a notice to the postmaster that
    cannot be delivered, and NOTIFY=NEVER."""
    before = _taken(town)
    never = who == "never"
    rcpt = (b"b@x", b"NOTIFY=NEVER") if never else (b"b@x",)
    notices = NoticeOptions() if who in ("", "never") else ALL
    case = Case(
        mail_to(sender if never else who, rcpt),
        {"RCPT": NO_USER},
        dsn=DsnOptions("gw.example", notices=notices),
    )
    send(town, tmp_path, case)
    assert _taken(town) == before


def _taken(town: Town) -> int:
    """How many mails the senders' Postfix has taken: it says so before it answers."""
    return town.postfix.peer.said().count("postfix/cleanup[")
