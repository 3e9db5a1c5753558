"""The clamd port against a real clamd, and against one that misbehaves."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from milterd.core.decision import Verdict
from milterd.core.mail import FileBody, HeaderField, Mail, parse_message, split_header
from milterd.filters import build_clamav
from milterd.filters.clamav import ClamavOptions
from milterd.filters.setup import SetupError
from milterd.ports.clamd import Clamd, ClamdAddress, timeval
from milterd.ports.scanner import Clean, Infected, TooLarge, Unavailable, Unscannable
from tests.filters.clamd_peer import ClamdPeer, attachment, eicar, running_clamd, zipped
from tests.filters.fake_clamd import fake_clamd

MIB = 1_048_576
SETTINGS = "StreamMaxLength 8M\nMaxFileSize 6M\nAlertEncrypted yes\nAlertExceedsMax yes\n"
FOUND = Infected("Eicar-Test-Signature.UNOFFICIAL")


@pytest.fixture(scope="module")
def peer() -> Iterator[ClamdPeer]:
    with running_clamd(SETTINGS) as running:
        yield running


@pytest.fixture(params=["fildes", "session", "instream-unix", "instream-tcp"])
def scanner(peer: ClamdPeer, request: pytest.FixtureRequest) -> Clamd:
    """The same clamd by each of the four ways."""
    address = ClamdAddress.parse(peer.tcp if request.param == "instream-tcp" else peer.unix)
    memory = 0 if request.param == "instream-unix" else 64 * MIB
    found = Clamd(address, timeout=20, memory_limit=memory, max_size=64 * MIB)
    if request.param == "session":  # the second mail is in one
        assert found.scan(Mail()) == Clean()
    return found


def spooled(octets: bytes, directory: Path, lead: bytes = b"") -> Mail:
    """A mail whose body is a view of a file that holds `lead` and the whole message."""
    file = tempfile.NamedTemporaryFile(dir=directory)  # noqa: SIM115  # the mail keeps it open
    file.write(lead + octets)
    file.flush()
    headers, separator, offset = split_header(octets)
    body = FileBody(file, len(lead) + offset, len(octets) - offset)  # type: ignore[arg-type]
    return Mail(headers=headers, separator=separator, body=body)


def test_eicar_is_found_in_a_plain_body(scanner: Clamd) -> None:
    assert scanner.scan(parse_message(b"From: a@b.example\r\n\r\n" + eicar())) == FOUND


def test_eicar_is_found_in_a_base64_zip(scanner: Clamd) -> None:
    assert scanner.scan(parse_message(attachment(zipped(eicar())))) == FOUND


def test_eicar_is_found_in_the_header(scanner: Clamd) -> None:
    assert scanner.scan(parse_message(b"Subject: " + eicar() + b"\r\n\r\nx\r\n")) == FOUND


def test_eicar_is_found_behind_five_megabytes(scanner: Clamd) -> None:
    text = b"some words that differ from each other\r\n" * 130_000
    mail = parse_message(attachment(zipped(eicar()), text))
    assert mail.size > 5_000_000
    assert scanner.scan(mail) == FOUND


def test_a_clean_mail_is_clean(scanner: Clamd) -> None:
    assert scanner.scan(parse_message(attachment(zipped(os.urandom(1000))))) == Clean()
    assert scanner.scan(parse_message(b"")) in (Clean(), Unscannable("error", "Empty file"))


@pytest.mark.parametrize("lead", [b"", b"something before the message"])
def test_a_spooled_mail_is_scanned_wholly(scanner: Clamd, tmp_path: Path, lead: bytes) -> None:
    assert scanner.scan(spooled(attachment(zipped(eicar())), tmp_path, lead)) == FOUND
    assert scanner.scan(spooled(b"Subject: " + eicar() + b"\r\n\r\nx", tmp_path, lead)) == FOUND


def test_an_encrypted_archive_is_not_an_infection(scanner: Clamd, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(eicar())
    subprocess.run(["zip", "-q", "-P", "secret", "a.zip", "a.txt"], cwd=tmp_path, check=True)
    fact = scanner.scan(parse_message(attachment((tmp_path / "a.zip").read_bytes())))
    assert fact == Unscannable("encrypted", "Heuristics.Encrypted.Zip")


def test_a_mail_over_a_limit_of_clamd_is_not_clean(scanner: Clamd) -> None:
    text = b"some words, more than clamd is willing to look at\r\n" * 180_000
    fact = scanner.scan(parse_message(attachment(zipped(eicar()), text)))
    assert isinstance(fact, Unscannable)
    assert fact.why == "limit"


def test_our_own_limit_keeps_it_from_clamd(peer: ClamdPeer) -> None:
    scanner = Clamd(ClamdAddress.parse(peer.unix), max_size=1000)
    assert scanner.scan(parse_message(b"a: b\r\n\r\n" + b"x" * 993)) == TooLarge(1001, 1000)
    assert scanner.scan(parse_message(b"a: b\r\n\r\n" + b"x" * 992)) == Clean()


def test_version_names_the_program(scanner: Clamd) -> None:
    assert str(scanner.version()).startswith("ClamAV 1.")


def test_the_filter_refuses_eicar(peer: ClamdPeer) -> None:
    built = build_clamav(ClamavOptions(clamd=(peer.unix,)))
    assert built.check() == ()
    mail = parse_message(attachment(zipped(eicar())))
    decision = built.decide(mail, built.gather(mail))
    assert decision.verdict is Verdict.REJECT
    assert str(decision.reply) == (
        "550 5.7.1 Message refused: infected with Eicar-Test-Signature.UNOFFICIAL"
    )


def test_a_clamd_that_hangs_is_a_timeout(peer: ClamdPeer) -> None:
    mail = parse_message(b"From: a@b.example\r\n\r\n" + os.urandom(2 * MIB).hex().encode())
    with peer.stopped():
        for address in (peer.unix, peer.tcp):
            scanner = Clamd(ClamdAddress.parse(address), timeout=0.3)
            began = time.monotonic()
            fact = scanner.scan(mail)
            assert isinstance(fact, Unavailable)
            assert fact.why == "timeout"
            assert time.monotonic() - began < 10
            assert isinstance(scanner.version(), Unavailable)
    scanner = Clamd(ClamdAddress.parse(peer.unix), timeout=20)
    assert scanner.scan(mail) == Clean()


def test_a_clamd_that_is_not_there_is_down(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        for address in (f"unix:{tmp_path / 'none'}", f"inet:{port}@127.0.0.1"):
            fact = Clamd(ClamdAddress.parse(address), timeout=20).scan(Mail())
            assert isinstance(fact, Unavailable)
            assert fact.why == "down"


@pytest.mark.parametrize(
    ("answer", "fact"),
    [
        (b"", Unavailable("empty")),
        (b"\n", Unavailable("empty")),
        (b"fd[7]: OK", Unavailable("garbled", "closed in the middle of an answer")),
        (b"fd[7]: O", Unavailable("garbled", "closed in the middle of an answer")),
        (b"OK\n", Unavailable("garbled", "OK")),
        (b"/etc/passwd: OK\n", Unavailable("garbled", "/etc/passwd: OK")),
        (b"fd[7]: NOT OK\n", Unavailable("garbled", "fd[7]: NOT OK")),
        (b"fd[7]: FOUND\n", Unavailable("garbled", "fd[7]: FOUND")),
        (b"fd[7]: \xff\xfe FOUND\n", Unavailable("garbled", "UnicodeDecodeError")),
        (b"fd[7]: X FOUND\nfd[7]: OK\n", Unavailable("garbled", "ResponseError")),
        (b"x" * 9000 + b"\n", Unavailable("garbled", "ResponseError")),
        (b"fd[7]: Can't allocate memory ERROR\n", Unscannable("error", "Can't allocate memory")),
        (b"UNKNOWN COMMAND\n", Unavailable("garbled", "UNKNOWN COMMAND")),
        (b"COMMAND READ TIMED OUT ERROR\n", Unscannable("error", "COMMAND READ TIMED OUT ERROR")),
        (
            b"fd[7]: Heuristics.Limits.Exceeded.MaxScanTime FOUND\n",
            Unscannable("limit", "Heuristics.Limits.Exceeded.MaxScanTime"),
        ),
        (b"fd[7]: A name: with colon FOUND\n", Infected("A name: with colon")),
        (b"fd[7]: OK\n", Clean()),
    ],
)
def test_only_ok_for_this_scan_is_clean(answer: bytes, fact: object) -> None:
    def behave(peer: socket.socket) -> None:
        octets, numbers = b"", list[int]()
        while not numbers:  # all of it: closing with something unread resets the connection
            piece, numbers, _, _ = socket.recv_fds(peer, 100, 1)
            octets += piece
        os.close(numbers[0])
        assert octets.startswith(b"nFILDES\n")
        peer.sendall(answer)

    with fake_clamd(behave) as address:
        assert (
            Clamd(ClamdAddress.parse(address), timeout=20).scan(parse_message(b"a: b\r\n")) == fact
        )


def test_a_dribbled_answer_ends_at_the_deadline() -> None:
    stop = threading.Event()

    def behave(peer: socket.socket) -> None:
        while not stop.wait(0.02):
            peer.sendall(b"f")

    with fake_clamd(behave) as address:
        began = time.monotonic()
        fact = Clamd(ClamdAddress.parse(address), timeout=0.4).scan(Mail())
        stop.set()
    assert isinstance(fact, Unavailable)
    assert fact.why == "timeout"
    assert time.monotonic() - began < 10


def test_a_spool_file_that_is_the_message_is_passed_itself(tmp_path: Path) -> None:
    received: list[tuple[int, bytes]] = []

    def behave(peer: socket.socket) -> None:
        octets = b""
        while True:
            piece, numbers, _, _ = socket.recv_fds(peer, 100, 1)
            octets += piece
            if numbers:
                break
        assert octets.startswith(b"nFILDES\n")
        received.append((os.fstat(numbers[0]).st_ino, os.pread(numbers[0], 1000, 0)))
        os.close(numbers[0])
        peer.sendall(b"fd[7]: OK\n")

    octets = b"From: a@b.example\r\n\r\nbody\r\n"
    whole, part = spooled(octets, tmp_path), spooled(octets, tmp_path, b"x")
    longer = whole.with_headers(whole.headers * 2)
    other = whole.with_headers([HeaderField(b"Form", whole.headers[0].value)])
    assert isinstance(whole.body, FileBody)
    inode = os.fstat(whole.body.file.fileno()).st_ino
    with fake_clamd(behave) as address:
        scanner = Clamd(ClamdAddress.parse(address), timeout=20)
        assert [scanner.scan(each) for each in (whole, part, longer, other)] == [Clean()] * 4
    assert received[0] == (inode, octets)
    assert received[1][0] != inode
    assert received[1][1] == octets
    assert received[2][1] == b"".join(longer.pieces())
    assert received[3][1] == b"".join(other.pieces())


def test_a_full_backlog_is_waited_for() -> None:
    """A clamd under load accepts late; that is no reason to refuse mail."""
    let_go, accepted = threading.Event(), threading.Event()

    def behave(peer: socket.socket) -> None:
        accepted.set()
        let_go.wait(30)
        peer.recv(100)
        peer.sendall(b"fd[7]: OK\n")

    with fake_clamd(behave, backlog=0) as address:
        path = address.removeprefix("unix:")
        waiting = [socket.socket(socket.AF_UNIX)]
        waiting[0].connect(path)
        assert accepted.wait(30)
        with contextlib.suppress(BlockingIOError):
            while True:
                each = socket.socket(socket.AF_UNIX)
                each.setblocking(False)
                waiting.append(each)
                each.connect(path)
        late = Clamd(ClamdAddress.parse(address), timeout=0.3).scan(Mail())
        assert late == Unavailable("timeout", "clamd accepts no connection")
        facts: list[object] = []
        scanner = Clamd(ClamdAddress.parse(address), timeout=30)
        thread = threading.Thread(target=lambda: facts.append(scanner.scan(Mail())))
        thread.start()
        for each in waiting:
            each.close()
        let_go.set()
        thread.join(30)
        assert facts == [Clean()]


@pytest.mark.parametrize("text", ["", "unix:", "inet:3310", "inet:0@h", "inet:x@h", "local:/x"])
def test_a_wrong_address_says_what_is_expected(text: str) -> None:
    with pytest.raises(SetupError, match="expected unix:PATH or inet:PORT@HOST"):
        build_clamav(ClamavOptions(clamd=(text,)))


def test_nothing_is_left_open(peer: ClamdPeer, tmp_path: Path) -> None:
    scanner = Clamd(ClamdAddress.parse(peer.unix), timeout=5)
    gone = Clamd(ClamdAddress.parse(f"unix:{tmp_path / 'none'}"), timeout=5)
    for _ in range(2):  # the second opens the session that all others use
        scanner.scan(Mail())
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # a count of names is all it takes
    for _ in range(20):
        scanner.scan(parse_message(b"From: a@b.example\r\n\r\nx\r\n"))
        gone.scan(Mail())
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208  # as above


def test_work_for_the_meantime_is_done_before_the_answer() -> None:
    done = threading.Event()

    def behave(peer: socket.socket) -> None:
        numbers: list[int] = []
        while not numbers:
            _, numbers, _, _ = socket.recv_fds(peer, 100, 1)
        os.close(numbers[0])
        peer.sendall(b"fd[7]: OK\n" if done.wait(20) else b"fd[7]: not done ERROR\n")

    with fake_clamd(behave) as address:
        scanner = Clamd(ClamdAddress.parse(address), timeout=30)
        assert scanner.scan(parse_message(b"a: b\r\n"), meanwhile=done.set) == Clean()


def test_a_silent_clamd_ends_at_the_deadline() -> None:
    """The kernel watches the time: a wait of less than a millisecond must not be one for ever."""
    stop = threading.Event()

    def behave(_: socket.socket) -> None:
        stop.wait(10)

    with fake_clamd(behave) as address:
        fact = Clamd(ClamdAddress.parse(address)).scan(Mail(), 0.2)
        stop.set()
    assert isinstance(fact, Unavailable)
    assert fact.why == "timeout"
    assert struct.unpack("ll", timeval(0.0000001)) == (0, 1000)
