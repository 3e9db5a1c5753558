"""Real clamd: doubtful mails show what they hide, and clean ones are known again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from milterd.core.mail import BytesBody, FileBody, Mail, parse_message
from milterd.ports.clamd import Clamd, ClamdAddress
from milterd.ports.scanner import Clean, Infected, Meanwhile, ScanFact, Unavailable, Unscannable
from milterd.ports.thorough import MemoryOptions, ReadingOptions, Remembering, Thorough
from tests.corpus.corpus import messages
from tests.filters.clamd_peer import ClamdPeer, attachment, eicar, running_clamd
from tests.mime.eicar import CASES, MIXED, TEXT, Case, _multipart

SETTINGS = "StreamMaxLength 40M\nMaxFileSize 40M\nAlertEncrypted yes\nAlertExceedsMax yes\n"


@pytest.fixture(scope="module")
def peer() -> Iterator[ClamdPeer]:
    with running_clamd(SETTINGS) as running:
        yield running


class Counting:
    """A scanner that counts what it is asked."""

    def __init__(self, inner: Clamd) -> None:
        self.inner, self.asked, self.signatures = inner, 0, "ClamAV 1"

    def scan(self, mail: Mail, *, meanwhile: Meanwhile | None = None) -> ScanFact:
        self.asked += 1
        return self.inner.scan(mail, meanwhile=meanwhile)

    def version(self) -> str | Unavailable:
        return self.signatures


def plain(peer: ClamdPeer) -> Clamd:
    return Clamd(ClamdAddress.parse(peer.unix), timeout=20)


def thorough(peer: ClamdPeer, **options: object) -> tuple[Thorough, Counting]:
    counting = Counting(plain(peer))
    clock = lambda: 0.0  # noqa: E731 - a clock that stands
    return Thorough(counting, ReadingOptions(**options), clock), counting  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES, ids=[each.name for each in CASES])
def test_no_trick_hides_the_test_file(peer: ClamdPeer, case: Case) -> None:
    scanner, counting = thorough(peer)
    assert isinstance(scanner.scan(parse_message(case.octets)), Infected)
    assert counting.asked <= 2


def test_clamd_alone_is_deceived_by_some(peer: ClamdPeer) -> None:
    """What all of this is for."""
    missed = [
        each.name
        for each in CASES
        if isinstance(plain(peer).scan(parse_message(each.octets)), Clean)
    ]
    assert missed


def test_mail_without_doubts_costs_one_scan(peer: ClamdPeer) -> None:
    scanner, counting = thorough(peer)
    assert scanner.scan(parse_message(attachment(b"harmless" * 100))) == Clean()
    assert counting.asked == 1
    everything, counting = thorough(peer, readings="all")
    assert everything.scan(parse_message(attachment(b"harmless" * 100))) == Clean()
    assert counting.asked == 2


def test_usual_mail_passes_whatever_its_doubts(peer: ClamdPeer) -> None:
    scanner, _ = thorough(peer)
    words = b"\r\n\r\n".join(b"A paragraph.\r\nhttps://example.net/%d?x=y" % n for n in range(2000))
    for header in (b"", b"Content-Type: text/plain\r\n"):
        assert scanner.scan(parse_message(header + b"\r\n" + words)) == Clean()


def test_more_than_can_be_looked_at_is_said(peer: ClamdPeer) -> None:
    scanner, _ = thorough(peer, number=5)
    texts = [TEXT + b"this is text number %d" % each for each in range(50)]
    body = _multipart(b"b", *texts, end=False)
    fact = scanner.scan(parse_message(MIXED + b"\r\n" + body))
    assert fact == Unscannable("limit", "more readings than are looked at")
    piece = b"MIME-Version: 1.0\r\nContent-Type: message/partial; id=x; number=1\r\n\r\nx\r\n"
    assert scanner.scan(parse_message(piece)) == Unscannable("partial", "a piece of a message")


def test_a_body_in_a_file_is_read_where_it_is(peer: ClamdPeer, tmp_path: Path) -> None:
    case = next(each for each in CASES if each.name == "encoding base64x")
    file = tmp_path / "m"
    file.write_bytes(b"something else" + case.octets)
    mail = parse_message(case.octets)
    assert isinstance(mail.body, BytesBody)
    with file.open("rb") as opened:
        start = 14 + len(case.octets) - mail.body.size
        body = FileBody(opened, start, mail.body.size)
        scanner, _ = thorough(peer)
        held = Mail(mail.session, mail.envelope, mail.headers, body, mail.separator)
        assert isinstance(scanner.scan(held), Infected)


def test_clean_mail_is_known_again_while_the_signatures_are_the_same(peer: ClamdPeer) -> None:
    now = [0.0]
    counting = Counting(plain(peer))
    memory = Remembering(counting, MemoryOptions(2, 100.0, 10, 30.0), lambda: now[0])

    def letter(date: bytes, text: bytes = b"hello" * 10, subject: bytes = b"x") -> Mail:
        return parse_message(
            b"Received: %b\r\nDate: %b\r\nSubject: %b\r\n\r\n%b\r\n" % (date, date, subject, text)
        )

    assert [memory.scan(letter(b"%d" % each)) for each in range(5)] == [Clean()] * 5
    assert counting.asked == 1
    memory.scan(letter(b"1", subject=b"y"))
    memory.scan(letter(b"1", text=b"other text"))
    assert counting.asked == 3
    memory.scan(letter(b"1"))  # only two are kept
    assert counting.asked == 4
    counting.signatures = "ClamAV 2"
    memory.scan(letter(b"1"))
    assert counting.asked == 4
    now[0] = 31.0
    memory.scan(letter(b"1"))
    assert counting.asked == 5
    now[0] = 200.0
    memory.scan(letter(b"1"))
    assert counting.asked == 6
    bad = parse_message(b"Subject: x\r\n\r\n" + eicar() + b"\r\n")
    for each in (7, 8):
        assert isinstance(memory.scan(bad), Infected)
        assert counting.asked == each


def test_no_mail_of_the_corpus_is_refused_for_its_form(peer: ClamdPeer) -> None:
    scanner, _ = thorough(peer)
    strange = {
        label: fact
        for label, octets in messages()
        if (fact := scanner.scan(parse_message(octets))) != Clean()
        and plain(peer).scan(parse_message(octets)) == Clean()
        and "partial" not in str(fact)
    }
    assert strange == {}
