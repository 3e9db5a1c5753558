"""clamd asked in an event loop: what it says, what is left to a thread, and what is called off."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from milterd.base.metrics import FILTER_FAILURES
from milterd.core.mail import Mail, parse_message
from milterd.filters import Clocks, build_clamav
from milterd.filters.clamav import ClamavFilter, ClamavOptions
from milterd.ports.clamd import Clamd, ClamdAddress
from milterd.ports.clamd_loop import LoopSessions
from milterd.ports.clamd_session import Sessions
from milterd.ports.clamds import Clamds
from milterd.ports.scanner import Clean, Infected, Unavailable
from milterd.ports.thorough import LINES_AT_ONCE, MARKS_AT_ONCE, SIZE_AT_ONCE
from tests.filters.clamd_peer import ClamdPeer, attachment, eicar, running_clamd
from tests.filters.fake_clamd import fake_clamd
from tests.filters.test_clamd_session import Scripted

CLEAN = parse_message(b"Subject: clean\r\n\r\nnothing\r\n")
PATIENCE = 20.0
Begin = Callable[[Mail, Callable[[object], None]], object]


@pytest.fixture(scope="module")
def peer() -> Iterator[ClamdPeer]:
    with running_clamd() as running:
        yield running


def clamds(*addresses: str, timeout: float = PATIENCE) -> Clamds:
    """One scanner of several, whose next mail goes through a session."""
    those = [Clamd(ClamdAddress.parse(each), timeout=timeout) for each in addresses]
    made = Clamds(those, timeout=timeout, retry=8.0, clock=time.monotonic)
    assert made.scan(CLEAN) == Clean()
    return made


def come(begin: Begin, mail: Mail = CLEAN) -> object:
    """What `then` is told; the string "not begun" where nothing was."""

    async def ask() -> object:
        told = asyncio.get_running_loop().create_future()
        if begin(mail, told.set_result) is None:
            return "not begun"
        return await asyncio.wait_for(told, PATIENCE)

    return asyncio.run(ask())


def test_what_a_real_clamd_says_is_told_in_the_loop(peer: ClamdPeer) -> None:
    scanner = clamds(peer.unix)

    async def both() -> list[object]:
        found: list[object] = []
        for mail in (CLEAN, parse_message(attachment(eicar())), CLEAN):
            told = asyncio.get_running_loop().create_future()
            assert scanner.begin(mail, told.set_result) is not None
            found.append(await asyncio.wait_for(told, PATIENCE))
        return found

    first, infected, again = asyncio.run(both())
    assert first == again == Clean()
    assert isinstance(infected, Infected)


def test_nothing_is_begun_with_a_clamd_that_has_not_answered_yet(peer: ClamdPeer) -> None:
    scanner = Clamds(
        [Clamd(ClamdAddress.parse(peer.unix))],
        timeout=PATIENCE,
        retry=8.0,
        clock=time.monotonic,
    )
    assert come(scanner.begin) == "not begun"


def test_a_session_that_ends_in_mid_mail_leaves_the_rest_to_a_thread() -> None:
    def close(peer: socket.socket, _: int) -> None:
        peer.shutdown(socket.SHUT_RDWR)

    with fake_clamd(Scripted(close)) as address:
        rest = come(clamds(address).begin)
    assert callable(rest)


def test_the_thread_asks_on_a_connection_of_its_own() -> None:
    def nonsense(peer: socket.socket, number: int) -> None:
        peer.sendall(b"%d: fd[7]: ERROR\n" % number)

    with fake_clamd(Scripted(nonsense)) as address:
        rest = come(clamds(address).begin)
        assert callable(rest)
        assert rest() == Clean()


def test_a_silent_clamd_is_told_in_its_time_and_rests() -> None:
    before = FILTER_FAILURES.labels("clamav", "clamd")._value.get()
    with fake_clamd(Scripted(lambda *_: None)) as address:
        scanner = clamds(address, timeout=0.2)
        fact = come(scanner.begin)
        assert fact == Unavailable("timeout", "no answer in time")
        assert come(scanner.begin) == "not begun"
    assert FILTER_FAILURES.labels("clamav", "clamd")._value.get() == before + 1


def test_behind_a_silent_clamd_the_next_one_is_asked(peer: ClamdPeer) -> None:
    with fake_clamd(Scripted(lambda *_: None)) as address:
        rest = come(clamds(address, peer.unix, timeout=2.0).begin)
        assert callable(rest)
        assert rest() == Clean()


def test_what_is_called_off_is_told_to_nobody_and_its_session_closed() -> None:
    with fake_clamd(Scripted(lambda *_: None)) as address:
        trust = Sessions(address.removeprefix("unix:"), time.monotonic)
        trust.welcome()
        sessions = LoopSessions(address.removeprefix("unix:"), trust, time.monotonic)

        async def ask() -> list[object]:
            told: list[object] = []
            call_off = sessions.begin((b"mail",), PATIENCE, told.append)
            assert call_off is not None
            call_off()
            return told

        assert asyncio.run(ask()) == []
        assert sessions._count == 0


def filter_of(address: str) -> ClamavFilter:
    """A whole filter, whose clamd has answered once."""
    built = build_clamav(ClamavOptions(clamd=(address,), timeout=PATIENCE), Clocks())
    assert built.gather(CLEAN) == Clean()
    return built


def test_a_filter_tells_facts_of_clean_mail_and_has_work_for_all_other(peer: ClamdPeer) -> None:
    built = filter_of(peer.unix)
    assert come(built.begin) == Clean()
    rest = come(built.begin, parse_message(attachment(eicar())))
    assert callable(rest)
    assert isinstance(rest(), Infected)


def test_doubts_about_a_clean_mail_are_for_a_thread(peer: ClamdPeer) -> None:
    partial = b"MIME-Version: 1.0\r\nContent-Type: message/partial; id=a; number=1\r\n\r\nx\r\n"
    mail = parse_message(partial)
    built = filter_of(peer.unix)
    rest = come(built.begin, mail)
    assert callable(rest)
    assert rest() == built.gather(mail) != Clean()


def of_parts(number: int, line: bytes = b"text\r\n") -> Mail:
    """A mail of so many parts, in which nothing is doubtful."""
    head = b"MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n"
    part = b"--b\r\nContent-Type: text/plain\r\n\r\n" + line
    return parse_message(head + part * number + b"--b--\r\n")


LONG = b"%b\r\n" % (b"x" * (SIZE_AT_ONCE // MARKS_AT_ONCE))
PLAIN = parse_message(b"Subject: no parts\r\n\r\n" + b"--b\r\n" * LINES_AT_ONCE * 2)


@pytest.mark.parametrize(
    "mail",
    [of_parts(MARKS_AT_ONCE + 1, LONG), of_parts(1, b"wxyz\r\n" * LINES_AT_ONCE)],
    ids=["parts", "lines"],
)
def test_a_structure_that_takes_long_to_look_at_is_for_a_thread(
    peer: ClamdPeer, mail: Mail
) -> None:
    built = filter_of(peer.unix)
    for short in (of_parts(MARKS_AT_ONCE, LONG), of_parts(MARKS_AT_ONCE + 1), PLAIN):
        assert come(built.begin, short) == Clean()
    rest = come(built.begin, mail)
    assert callable(rest)
    assert rest() == built.gather(mail) == Clean()


def test_a_header_that_takes_long_to_look_at_is_for_a_thread(peer: ClamdPeer) -> None:
    built = filter_of(peer.unix)
    fields = [parse_message(b"A: b\r\n" * number + b"\r\nx\r\n") for number in (500, 501)]
    assert [come(built.begin, each) for each in fields] == [Clean(), "not begun"]
