"""Sessions with a clamd that outlive a mail: what it gets, what counts, and what does not."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milterd.core.mail import Mail, PiecedBody, parse_message
from milterd.ports.clamd import Clamd, ClamdAddress
from milterd.ports.clamd_session import IDLE, KEPT, REST, SMALL, Sessions
from milterd.ports.scanner import Clean, Infected, ScanFact, Unavailable, Unscannable
from tests.filters.clamd_peer import ClamdPeer, attachment, eicar, running_clamd
from tests.filters.fake_clamd import fake_clamd
from tests.host.conftest import until

CLEAN = parse_message(b"Subject: clean\r\n\r\nnothing\r\n")
OPENED = b"nIDSESSION\n"
Turn = Callable[[socket.socket, int], None]


@pytest.fixture(scope="module")
def peer() -> Iterator[ClamdPeer]:
    with running_clamd() as running:
        yield running


def warm(address: str, **options: float) -> Clamd:
    """A scanner whose next mail goes through a session."""
    scanner = Clamd(ClamdAddress.parse(address), **({"timeout": 20} | options))  # type: ignore[arg-type]
    assert scanner.scan(CLEAN) == Clean()
    return scanner


class Scripted:
    """A clamd that does as told with each mail of its sessions, and well on other connections;
    `got` is what it read, with whether that was in a session."""

    def __init__(self, turn: Turn, plain: bytes = b"fd[7]: OK\n") -> None:
        self.turn, self.plain = turn, plain
        self.got: list[tuple[bool, bytes]] = []

    def __call__(self, peer: socket.socket) -> None:
        number, octets = 0, b""
        while True:
            piece, descriptors, _, _ = socket.recv_fds(peer, 100, 1)
            octets += piece
            if not piece:
                return
            if not descriptors:
                continue
            session = octets.startswith(OPENED)
            self.got.append((session, os.pread(descriptors[0], 2 * SMALL, 0)))
            os.close(descriptors[0])
            if not session:
                peer.sendall(self.plain)
                return
            number += 1
            self.turn(peer, number)


def fine(peer: socket.socket, number: int) -> None:
    peer.sendall(b"%d: fd[9]: OK\n" % number)


def mail_of(size: int, octets: bytes = b"") -> Mail:
    filling = (b"x" * 70 + b"\r\n") * (size // 72)
    return parse_message(b"Subject: %d\r\n\r\n%b%b\r\n" % (size, filling, octets))


def in_pieces(mail: Mail) -> Mail:
    """The same as a host has it: in more pieces, the larger it is."""
    return replace(mail, body=PiecedBody(tuple(mail.body.pieces(70)) or (b"",)))


def test_mails_of_all_sizes_one_after_the_other(peer: ClamdPeer) -> None:
    scanner = warm(peer.unix)
    infected = parse_message(attachment(eicar(), b"text\r\n" * 2000))
    for mail, bad in [
        (mail_of(50_000), False),
        (infected, True),
        (mail_of(100), False),  # what stood behind it in the file is gone
        (mail_of(SMALL + 1), False),  # not in the session
        (mail_of(0), False),
        (infected, True),
        (infected, True),
        (mail_of(200_000), False),
    ]:
        assert isinstance(scanner.scan(mail), Infected if bad else Clean)


@given(sizes=st.lists(st.integers(0, 9000), max_size=8))
@settings(max_examples=20, deadline=None)
def test_what_it_reads_is_the_mail(sizes: list[int]) -> None:
    behave = Scripted(fine)
    with fake_clamd(behave) as address:
        scanner = warm(address)
        mails = [in_pieces(mail_of(size)) for size in sizes]
        assert all(scanner.scan(each) == Clean() for each in mails)
        del scanner  # and with it, the session
    assert behave.got[1:] == [(True, b"".join(each.pieces())) for each in mails]


def test_signatures_that_are_loaded_count_at_once(tmp_path: Path) -> None:
    with running_clamd() as peer:
        scanner = warm(peer.unix)
        mail = mail_of(100, b"a word that is bad")
        assert scanner.scan(mail) == Clean()
        line = "Bad.Word:0:*:" + b"word that is bad".hex() + "\n"
        (peer.directory / "db" / "own.ndb").write_text(line)
        with socket.socket(socket.AF_UNIX) as command:
            command.connect(str(peer.path))
            command.sendall(b"nRELOAD\n")
            assert command.recv(100) == b"RELOADING\n"
        alone = lambda: Clamd(ClamdAddress.parse(peer.unix)).scan(mail)  # noqa: E731
        until(lambda: isinstance(alone(), Infected))
        assert isinstance(scanner.scan(mail), Infected)


def test_a_clamd_that_was_started_again() -> None:
    with running_clamd() as peer:
        scanner = warm(peer.unix)
        assert scanner.scan(CLEAN) == Clean()
        peer.close()
        assert isinstance(scanner.scan(CLEAN), Unavailable)
        peer.path.unlink(missing_ok=True)
        home = peer.directory
        shutil.rmtree(home / "db")
        again = ClamdPeer(home, "")
        try:
            assert scanner.scan(CLEAN) == Clean()
        finally:
            again.close()


ODD = [
    b"",
    b"COMMAND READ TIMED OUT\n",
    b"UNKNOWN COMMAND\n",
    b"fd[9]: OK\n",
    b"7: fd[9]: OK\n",
    b"%d: fd[9]: OK",
    b"%d: fd[9]: OK\n%d: fd[9]: OK\n",
    b"%d: fd[9]: no memory ERROR\n",
    b"%d: fd[9]: Eicar FOUND\n\n",
]


@pytest.mark.parametrize("after", [0, 2])
@pytest.mark.parametrize("odd", ODD)
def test_only_plain_answers_of_a_session_count(odd: bytes, after: int) -> None:
    """Anything else is asked again, and that answer counts."""

    def turn(peer: socket.socket, number: int) -> None:
        if number <= after:
            return fine(peer, number)
        peer.sendall(odd.replace(b"%d", b"%d" % number))
        peer.shutdown(socket.SHUT_RDWR)
        return None

    behave = Scripted(turn)
    with fake_clamd(behave) as address:
        scanner = warm(address)
        for _ in range(after):
            assert scanner.scan(CLEAN) == Clean()
        behave.plain = b"fd[7]: Bad FOUND\n"
        assert scanner.scan(CLEAN) == Infected("Bad")
    assert [session for session, _ in behave.got] == [False, *[True] * after, True, False]


@pytest.mark.parametrize(
    ("answer", "fact"),
    [
        (b"1: fd[9]: Bad.Thing FOUND\n", Infected("Bad.Thing")),
        (b"1: fd[9]: Heuristics.Encrypted.PDF FOUND\n", None),
        (b"1: fd[9]: A: b FOUND\n", Infected("A: b")),
    ],
)
def test_what_a_session_finds_is_what_anybody_finds(answer: bytes, fact: ScanFact | None) -> None:
    behave = Scripted(lambda peer, _: peer.sendall(answer))
    with fake_clamd(behave) as address:
        found = warm(address).scan(CLEAN)
    assert found == (fact or Unscannable("encrypted", "Heuristics.Encrypted.PDF"))
    assert [session for session, _ in behave.got] == [False, True]


def test_a_session_that_does_not_answer_in_time() -> None:
    done = threading.Event()
    with fake_clamd(Scripted(lambda _peer, _number: done.wait(60) and None)) as address:
        scanner = warm(address)
        began = time.monotonic()
        fact = scanner.scan(CLEAN, 0.3)
        took = time.monotonic() - began
        done.set()
    assert isinstance(fact, Unavailable)
    assert fact.why == "timeout"
    assert 0.25 < took < 30


def test_a_clamd_that_knows_no_sessions_is_not_asked_for_one_each_time() -> None:
    now = 1000.0

    def turn(peer: socket.socket, _: int) -> None:
        peer.sendall(b"UNKNOWN COMMAND\n")
        peer.shutdown(socket.SHUT_RDWR)

    behave = Scripted(turn)
    with fake_clamd(behave) as address:
        scanner = Clamd(ClamdAddress.parse(address), clock=lambda: now)
        for _ in range(4):
            assert scanner.scan(CLEAN) == Clean()
        assert [session for session, _ in behave.got] == [False, True, False, False, False]
        now += REST
        assert scanner.scan(CLEAN) == Clean()
    assert [session for session, _ in behave.got[5:]] == [True, False]


def test_few_sessions_are_kept_and_not_for_long(peer: ClamdPeer) -> None:
    now = 1000.0
    sessions = Sessions(str(peer.path), lambda: now)
    sessions.welcome()
    gate = threading.Barrier(KEPT + 3)
    before, answers = _open(), list[str]()

    def scan() -> None:
        answers.append(sessions.scan((b"A: b\r\n\r\n", b"x\r\n"), 10.0, gate.wait))

    for _ in range(2):
        threads = [threading.Thread(target=scan) for _ in range(KEPT + 3)]
        for each in threads:
            each.start()
        for each in threads:
            each.join(20)
        assert all(each.endswith(": OK") for each in answers)
        assert _open() - before == 2 * KEPT  # a socket and a file each
    now += IDLE
    assert sessions.scan((b"A: b\r\n\r\n", b"x\r\n"), 10.0, None).endswith(": OK")
    assert _open() - before == 2


def _open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_clamd_in_the_place_of_another_is_asked_from_then_on(tmp_path: Path) -> None:
    """Also while the one before it still runs and would answer."""
    before, after = Scripted(fine), Scripted(fine)
    path = tmp_path / "clamd.ctl"
    with fake_clamd(before) as old, fake_clamd(after) as new:
        path.symlink_to(old.removeprefix("unix:"))
        scanner = warm(f"unix:{path}")
        assert scanner.scan(CLEAN) == Clean()
        assert [session for session, _ in before.got] == [False, True]
        path.unlink()
        path.symlink_to(new.removeprefix("unix:"))
        assert scanner.scan(CLEAN) == Clean()
        assert (len(before.got), len(after.got)) == (2, 1)
        path.unlink()
        assert isinstance(scanner.scan(CLEAN), Unavailable)
