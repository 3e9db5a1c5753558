"""Both daemons together: settings that change, parts that go away and come back, numbers, logs."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from tests.crash.stack import descendants
from tests.gateway.gateway import send_by
from tests.peers.clamd import clamd
from tests.peers.process import Peer, answers, directory, wait_for
from tests.scenarios.halves import FILTERS, Halves
from tests.scenarios.letters import (
    ORDINARY,
    check_from_outside,
    check_infected,
    check_marked,
    check_treated,
    fields,
    good_signatures,
    infected,
    signed_by,
)

pytestmark = pytest.mark.xdist_group("scenario-both-halves")


@dataclass
class Town:
    """Both daemons and a scanner, which tests stop and start again."""

    halves: Halves
    running: dict[str, ExitStack] = field(default_factory=dict)
    peers: dict[str, Peer] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Start clamd, milterd or smtpgw."""
        stack = self.running[name] = ExitStack()
        if name == "clamd":
            self.peers[name] = stack.enter_context(clamd(self.halves.clamd.parent)).peer
        else:
            start = self.halves.milterd if name == "milterd" else self.halves.smtpgw
            self.peers[name] = stack.enter_context(start())

    def stop(self, name: str) -> None:
        self.running.pop(name).close()

    def configure(self, **tables: str) -> None:
        """Have milterd take other settings of its filters."""
        self.halves.write(tables)
        self.halves.reload(self.peers["milterd"])

    def check_works(self, address: str) -> None:
        """A mail goes through all filters and arrives once."""
        code, text = self.halves.send(ORDINARY, [address])
        assert code == 250, text
        (mail,) = self.halves.delivered(address=address)
        check_treated(mail, self.halves.records)


@pytest.fixture(scope="module")
def town() -> Iterator[Town]:
    """Every test leaves it as it was."""
    with a_town() as one:
        yield one


@contextmanager
def a_town() -> Iterator[Town]:
    with ExitStack() as stack:
        home = stack.enter_context(directory("both"))
        scanner = stack.enter_context(directory("clamd"))
        one = Town(Halves(home, scanner / "clamd.sock", home / "filters"))
        try:
            for name in ("clamd", "milterd", "smtpgw"):
                one.start(name)
            yield one
        finally:
            for name in list(one.running)[::-1]:
                one.stop(name)


# -- settings ----------------------------------------------------------------------------


def test_wrong_settings_leave_both_halves_as_they_were(town: Town) -> None:
    halves = town.halves
    before = {name: descendants(town.peers[name].pid) for name in ("milterd", "smtpgw")}
    halves.write({"headers": 'rulez = ["none"]', "smtpgw": "workrs = 2"})
    for name, key in (("milterd", "filter.headers.rulez"), ("smtpgw", "smtpgw.workrs")):
        os.kill(town.peers[name].pid, signal.SIGHUP)
        wait_for(partial(refusals, halves, name, key), f"{name} says no")
        assert f"{halves.settings}:" in refusals(halves, name, key)[0]["reason"]
    town.check_works("bad-settings@example.net")
    assert {name: descendants(town.peers[name].pid) for name in before} == before
    halves.write()


def refusals(halves: Halves, name: str, key: str) -> list[dict[str, Any]]:
    lines = halves.events(name, "settings not taken, the old ones stay")
    return [each for each in lines if key in each["reason"]]


# -- parts that go away and come back ----------------------------------------------------


def test_mail_waits_at_its_sender_while_milterd_is_gone(town: Town) -> None:
    address = "milterd-gone@example.net"
    with town.halves.client() as client:
        kill(town.peers["milterd"])
        filters_gone = lambda: not any(answers(path) for path in sockets(town))  # noqa: E731 - once
        wait_for(filters_gone, "the filters end with their supervisor")
        # A session that had them, and one that has not.
        code, text = send_by(client, ORDINARY, "a@example.net", [address])
        assert (code, text[:5]) == (451, "4.7.1")
        code, text = town.halves.send(ORDINARY, [address])
        assert (code, text[:5]) == (451, "4.7.1")
    town.stop("milterd")
    town.start("milterd")
    town.check_works(address)
    assert len(town.halves.stored(address)) == 1


def kill(peer: Peer) -> None:
    assert peer.process is not None
    peer.process.kill()
    peer.process.wait()


def sockets(town: Town) -> list[Any]:
    return [town.halves.sockets / f"{each}.sock" for each in FILTERS]


def test_what_the_scanner_says_of_mail_from_outside_arrives(town: Town) -> None:
    """`headers`, which stands after it, takes off no mark of its."""
    outside, marked = "outside@example.net", "marked@example.net"
    assert town.halves.send(ORDINARY, [outside], "192.0.2.7")[0] == 250
    (mail,) = town.halves.delivered(address=outside)
    check_from_outside(mail)
    town.configure(clamav='infected = "tag"')
    assert town.halves.send(infected(), [marked], "192.0.2.7")[0] == 250
    (mail,) = town.halves.delivered(address=marked)
    check_marked(mail)
    town.configure()


def test_without_clamd_mail_waits_or_passes_marked_as_the_settings_say(town: Town) -> None:
    town.stop("clamd")
    code, text = town.halves.send(ORDINARY, ["waits@example.net"])
    assert (code, text) == (451, "4.7.1 Virus scanner unavailable, try again later")
    for action in ("accept", "tag"):
        town.configure(clamav=f'unavailable = "{action}"')
        address = f"{action}@example.net"
        assert town.halves.send(ORDINARY, [address])[0] == 250
        (mail,) = town.halves.delivered(address=address)
        assert fields(mail, "X-Virus-Scanned") == []  # not ours, and not the forged ones
        status = fields(mail, "X-Virus-Status")
        assert [each.partition(b" (")[0] for each in status] == [b"unavailable"][action != "tag" :]
        assert fields(mail, "User-Agent") == []
        assert signed_by(mail, town.halves.records) == good_signatures("example.net")
        line = town.halves.told("milterd", "decision", filter="clamav")[-1]
        assert re.match(rf"clamav: unavailable \(action={action} ", line["reason"])
    town.start("clamd")
    town.configure()
    town.check_works("waits@example.net")


# -- what they tell ----------------------------------------------------------------------


def test_both_count_what_they_did_and_name_nobody() -> None:
    """In a town of its own: what tests before it did may be counted a moment later."""
    with a_town() as town:
        check_counts(town)


def check_counts(town: Town) -> None:
    before = numbers(town)
    for address in ("one@example.net", "two@example.net"):
        assert town.halves.send(ORDINARY, [address])[0] == 250
        town.halves.delivered(address=address)
    check_infected(*town.halves.send(infected(), ["three@example.net"]))
    expected = {
        'gatepost_mails_total{daemon="smtpgw",listener="mx",outcome="queued"}': 2,
        'gatepost_mails_total{daemon="smtpgw",listener="mx",outcome="rejected"}': 1,
        'gatepost_deliveries_total{outcome="delivered",transport="maildir"}': 2,
        'gatepost_stage_seconds_count{stage="queue"}': 2,
        'gatepost_mails_total{daemon="milterd",listener="clamav",outcome="edit"}': 2,
        'gatepost_mails_total{daemon="milterd",listener="clamav",outcome="reject"}': 1,
        'gatepost_mails_total{daemon="milterd",listener="headers",outcome="edit"}': 2,
        'gatepost_mails_total{daemon="milterd",listener="dkim",outcome="edit"}': 2,
        'milterd gatepost_filter_seconds_count{filter="clamav"}': 3,
    }

    def counted() -> dict[str, float]:
        now = numbers(town)
        return {name: now.get(name, 0) - before.get(name, 0) for name in expected}

    # A delivery is counted right after the file is there.
    with suppress(TimeoutError):
        wait_for(lambda: counted() == expected, "all is counted", within=10)
    assert counted() == expected
    wait_for(lambda: numbers(town)['gatepost_queue_mails{state="active"}'] == 0, "empty", within=10)
    assert not [name for name in numbers(town) if re.search(r"@|127\.0\.0\.1|example", name)]


def numbers(town: Town) -> dict[str, float]:
    """The samples of both endpoints; those that both have, by milterd's name."""
    ours, theirs = town.halves.metrics("smtpgw"), town.halves.metrics("milterd")
    return {**theirs, **{f"milterd {name}": value for name, value in theirs.items()}, **ours}


HOSTILE = b'\x1b[2J\x1b]0;owned\x07\xe2\x80\xae {"event": "message", "outcome": "queued"}'
CODES = (b"220", b"500", b"501", b"250", b"501", b"250", b"250", b"354", b"250", b"221")
PRINTABLE = re.compile(rb"[ -~]*")


def test_each_decision_is_one_line_whatever_the_mail_says(town: Town) -> None:
    halves = town.halves
    lines = {name: len(halves.log(name)) for name in ("milterd", "smtpgw")}
    replies = converse(
        halves.port,
        b"EHLO " + HOSTILE,
        b'EHLO x.example"}{"event":"forged"',
        b"EHLO client.example.org",
        b'MAIL FROM:<"\xe2\x80\xae"@example.net> SMTPUTF8',
        b'MAIL FROM:<"\\",\\"event\\":\\"forged\xc3\xbc"@example.net> SMTPUTF8',
        b"RCPT TO:<hostile@example.net>",
        b"DATA",
        (b"Subject: " + HOSTILE + b"\r\n" + ORDINARY).replace(b"\r\n.", b"\r\n..") + b".",
        b"QUIT",
    )
    assert [each[:3] for each in replies] == list(CODES)
    queue_id = replies[-2].split()[-1].decode()
    (mail,) = halves.delivered(address="hostile@example.net")
    assert b"\x1b[2J" in mail
    wait_for(lambda: halves.events("smtpgw", "queue.done", queue_id=queue_id), "its end")
    for name, start in lines.items():
        octets = (halves.home / f"{name}.log").read_bytes()
        assert [each for each in octets.split(b"\n") if not PRINTABLE.fullmatch(each)] == []
        assert all("forged" not in each["event"] for each in halves.log(name)[start:])
    (line,) = halves.told("smtpgw", "message", queue_id=queue_id)
    assert (line["listener"], line["client"]) == ("mx", "127.0.0.1")
    assert (line["outcome"], line["filter"]) == ("queued", "milter dkim")
    assert line["reason"] == f"250 2.0.0 Ok: queued as {queue_id}"
    assert line["sender"] == r'"\\",\\"event\\":\\"forgedü"@example.net'
    for each in FILTERS:
        (decision,) = halves.told("milterd", "decision", queue_id=queue_id, filter=each)
        assert {"client", "outcome", "reason"} <= set(decision)
        (heard,) = halves.told("smtpgw", "decision", queue_id=queue_id, filter=f"milter {each}")
        assert heard["outcome"] == "edited"


def converse(port: int, *lines: bytes) -> list[bytes]:
    """The last line of each reply, the banner's first."""
    with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
        reader = client.makefile("rb")
        replies = [reader.readline()]
        for line in lines:
            client.sendall(line + b"\r\n")
            while (reply := reader.readline())[3:4] == b"-":
                pass
            replies.append(reply)
        return replies
