"""A tape made between Postfix and OpenDKIM, played to OpenDKIM again: as it was, and changed."""

from __future__ import annotations

import json
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from typer.testing import CliRunner

from milterd.lab import tape
from milterd.lab.cli import app
from milterd.lab.tape import Conversation
from milterd.wire import messages as m
from tests.lab.test_tape_record import recording
from tests.peers.opendkim import Key, make_key
from tests.peers.opendkim import opendkim as run_opendkim
from tests.peers.postfix import Postfix
from tests.peers.postfix import postfix as run_postfix
from tests.peers.process import directory, wait_for

MASK = r"DKIM-Signature:\b(t|x|b)=[^;]*"
run = CliRunner()


def _message(subject: str, body: bytes, *more: bytes) -> bytes:
    lines = [b"From: a@example.net", b"To: b@example.org", b"Subject: " + subject.encode()]
    return b"\r\n".join([*lines, *more, b"", body])


MAILS = [
    _message("small", b"text\r\n"),
    _message("folded\r\n\tin\r\n  three", b"text\r\n", b"X-Tight:x", b"X-Empty:"),
    _message("gr\u00fc\u00dfe", b".dots\r\n..\r\n\r\n\r\n", b"MIME-Version: 1.0"),
    _message("no body at all", b""),
    _message("big", b"0123456789abcdef" * 4 + b"\r\n" + b"line of the body\r\n" * 12_000),
]


class _Smtp:
    """A client that says exactly what it is told to."""

    def __init__(self, port: int) -> None:
        self._end = socket.create_connection(("127.0.0.1", port), 30)
        self._file = self._end.makefile("rb")
        self.say(b"", b"220")

    def say(self, line: bytes, code: bytes = b"250") -> None:
        if line:
            self._end.sendall(line + b"\r\n")
        while (reply := self._file.readline())[3:4] == b"-":
            assert reply.startswith(code)
        assert reply.startswith(code), reply

    def mail(self, message: bytes, *recipients: bytes) -> None:
        self.say(b"MAIL FROM:<a@example.net> SIZE=%d BODY=8BITMIME" % len(message))
        for each in recipients or (b"b@example.org",):
            self.say(b"RCPT TO:<%b> NOTIFY=FAILURE" % each)
        self.say(b"DATA", b"354")
        stuffed = re.sub(rb"(?m)^\.", b"..", message)
        self._end.sendall(stuffed + (b"" if stuffed.endswith(b"\r\n") else b"\r\n"))
        self.say(b".")

    def close(self) -> None:
        self._file.close()
        self._end.close()


def _sessions(port: int) -> int:
    """Mails of all kinds, in sessions of all kinds; how many sessions."""
    for each in MAILS:
        client = _Smtp(port)
        client.say(b"EHLO client.example.net")
        client.mail(each)
        client.say(b"QUIT", b"221")
        client.close()
    client = _Smtp(port)
    client.say(b"HELO client.example.net")
    client.mail(MAILS[0], b"b@example.org", b"c@example.org")
    client.say(b"XYZZY what", b"500")
    client.say(b"MAIL FROM:<a@example.net>")
    client.say(b"RCPT TO:<b@example.org>")
    client.say(b"RSET")
    client.mail(MAILS[1])
    client.say(b"MAIL FROM:<other@example.com>")
    client.close()  # in the middle, without QUIT
    return len(MAILS) + 1


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with directory("tape") as path:
        yield path


@pytest.fixture(scope="module")
def key(home: Path) -> Key:
    (home / "key").mkdir()
    return make_key(home / "key")


@contextmanager
def _proxied(queue: Path, target: str) -> Iterator[None]:
    """A recorder below Postfix's queue directory, for its chroot; the tape is queue/tape."""
    with recording(queue, target, "--mode", "666") as proxy:
        yield
        proxy.process.terminate()  # type: ignore[union-attr]
        assert proxy.process.wait(20) == 0, proxy.said()  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def recorded(home: Path, key: Key) -> Path:
    """The tape."""
    (home / "signer").mkdir()
    main = {"smtpd_milters": "unix:p", "milter_default_action": "tempfail"}
    with (
        run_opendkim(home / "signer", "s", key=key) as milter,
        run_postfix(main) as mta,
        _proxied(mta.queue, milter.address),
    ):
        before = mta.troubles()  # Postfix was up before the proxy
        sessions = _sessions(mta.port)
        wait_for(lambda: len(_over(mta)) == sessions, "all sessions are on the tape")
        assert mta.troubles() == before
        kept = home / "tape"
        kept.write_bytes((mta.queue / "tape").read_bytes())
    return kept


def _over(mta: Postfix) -> list[Conversation]:
    return [each for each in _read(mta.queue / "tape") if each.over]


def _read(path: Path) -> list[Conversation]:
    with tape.reading(path) as reader:
        return list(tape.conversations(reader))


@contextmanager
def _signer(home: Path, key: Key, **settings: str) -> Iterator[str]:
    with directory("signer") as place, run_opendkim(place, "s", key=key, **settings) as milter:
        yield milter.address


def _differences(path: Path, address: str, mask: str = MASK) -> tuple[int, list[dict[str, object]]]:
    done = run.invoke(app, ["replay", str(path), address, "--json", "--mask", mask])
    assert "Traceback" not in done.output
    return done.exit_code, [json.loads(each) for each in done.stdout.splitlines()]


def test_the_tape_holds_all_of_it(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = _read(recorded)
    said = [one for each in found for one in each.said]
    assert all(one.whole for one in said)
    edits = [m.decode_reply(one.octets[4], one.octets[5:]) for one in said if one.side == "milter"]
    signatures = [each for each in edits if isinstance(each, m.InsertHeaderReply)]
    assert len(signatures) == len(MAILS) + 2
    assert {each.name for each in signatures} == {b"DKIM-Signature"}
    octets, size = sum(len(one.octets) for one in said), recorded.stat().st_size
    with capsys.disabled():
        print(
            f"\n{len(found)} connections, {len(said)} packets, {octets} octets on the wire, "
            f"{size} on the tape ({size / octets:.3f})"
        )
    assert size < octets * 1.05


def test_the_same_milter_makes_no_difference(recorded: Path, home: Path, key: Key) -> None:
    with _signer(home, key) as address:
        done = run.invoke(app, ["replay", str(recorded), address, "--mask", MASK])
        assert done.exit_code == 0, done.output
        assert done.stdout.splitlines() == [done.stdout.strip()]
        assert re.fullmatch(
            rf"{len(MAILS) + 1} connections, \d+ messages, \d+ events: no differences",
            done.stdout.strip(),
        )
        together = run.invoke(
            app, ["replay", str(recorded), address, "--mask", MASK, "--parallel", "6"]
        )
        assert together.stdout == done.stdout
        # Without the mask, the time of each signature, and so the signature, is another: in
        # seconds, so the one in which the tape was made has to be over.
        wait_for(lambda: int(time.time()) > recorded.stat().st_mtime, "another second")
        status, found = _differences(recorded, address, "X-No:.")
        assert status == 1
        assert [each["what"] for each in found] == ["edit changed"] * (len(MAILS) + 2)


@pytest.mark.parametrize(
    ("setting", "was", "now"),
    [
        ({"Canonicalization": "simple/simple"}, "c=relaxed/relaxed;", "c=simple/simple;"),
        ({"Selector": "other"}, "s=peer;", "s=other;"),
        ({"OversignHeaders": "From,Subject"}, ":From;", ":From:Subject;"),
    ],
)
def test_a_changed_setting_shows_exactly_the_changed_edits(
    recorded: Path, home: Path, key: Key, setting: dict[str, str], was: str, now: str
) -> None:
    with _signer(home, key, **setting) as address:
        status, found = _differences(recorded, address)
    assert status == 1
    assert {each["what"] for each in found} == {"edit changed"}
    assert {each["event"] for each in found} == {"end of message"}
    assert len(found) == len(MAILS) + 2
    for each in found:
        expected, seen = (
            re.sub(r"\\n\\t *|\s+", "", str(each[one])) for one in ("expected", "seen")
        )
        assert was.replace(" ", "") in expected
        assert now.replace(" ", "") in seen
        assert "name=DKIM-Signature" in str(each["seen"])
    if "Canonicalization" not in setting:
        return
    with _signer(home, key, **setting) as address:
        mask = r"DKIM-Signature:\b(t|x|b|bh|c)=[^;]*"
        done = run.invoke(app, ["replay", str(recorded), address, "--mask", mask])
        assert done.exit_code == 0, done.output
        ignored = run.invoke(app, ["replay", str(recorded), address, "--ignore", "dkim-signature"])
        assert ignored.exit_code == 0, ignored.output


def test_an_edit_more_and_an_edit_less(recorded: Path, home: Path, key: Key) -> None:
    """A signer that also names itself; and one that signs for nobody here."""
    with _signer(home, key, SoftwareHeader="yes") as address:
        status, found = _differences(recorded, address)
    assert status == 1
    assert {each["what"] for each in found} == {"edit added"}
    assert all("name=DKIM-Filter" in str(each["seen"]) for each in found)
    with _signer(home, key, Domain="example.com") as address:
        status, found = _differences(recorded, address)
    assert status == 1
    count = len(MAILS) + 2
    assert Counter((str(each["event"]), str(each["what"])) for each in found) == {
        ("end of headers", "reply"): count,
        ("end of headers", "rest"): count,
        ("end of message", "edit missing"): count,
    }


def test_a_redacted_tape_plays_too(recorded: Path, home: Path, key: Key) -> None:
    """Lengths and codes stand, so the milter hears a conversation of the same form."""
    blank = home / "blank"
    assert run.invoke(app, ["redact", str(recorded), str(blank)]).exit_code == 0
    assert blank.stat().st_size == recorded.stat().st_size
    text = blank.read_bytes()
    for word in (
        b"line of the body",
        b"0123456789ab",
        b"a@example.net",
        b"example.org>",
        b"127.0",
    ):
        assert word in recorded.read_bytes()
        assert word not in text
    with _signer(home, key, Domain="xxxxxxx.xxx") as address:
        status, found = _differences(blank, address)
    # OpenDKIM signs for the blanked domain; the domain of its signature is as blank as before.
    assert status == 0, found
