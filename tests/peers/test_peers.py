"""One mail through every peer, so that a failing peer is not taken for a failing gateway."""

from __future__ import annotations

import os
import signal
import smtplib
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from smtplib import LMTP

import pytest

from tests.peers import mail_dkim
from tests.peers import postfix as postfix_peer
from tests.peers.clamav_milter import clamav_milter
from tests.peers.clamd import Clamd, clamd
from tests.peers.dovecot import dovecot
from tests.peers.opendkim import Key, opendkim, verify
from tests.peers.postfix import Postfix
from tests.peers.process import daemon, program, running, wait_for
from tests.peers.smtp_sink import SmtpSink

MAIL = b"From: a@example.net\r\nTo: b@example.org\r\nSubject: one\r\n\r\nhello\r\n"
EICAR = rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"


def send(port: int, message: bytes, rcpt: str = "b@example.org") -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        client.sendmail("a@example.net", [rcpt], message)


@pytest.fixture
def marked(peer_directory: Path) -> Iterator[Clamd]:
    """A clamd that knows EICAR's text and nothing else."""
    database = peer_directory / "database"
    database.mkdir()
    (database / "peers.ndb").write_text(f"Peers.Eicar:0:*:{EICAR.hex()}\n")
    with clamd(peer_directory, database) as peer:
        yield peer


def _instream(connection: socket.socket, octets: bytes) -> bytes:
    with connection:
        connection.sendall(b"zINSTREAM\0" + struct.pack("!I", len(octets)) + octets + bytes(4))
        return connection.recv(4096)


def test_clamd_answers_on_both_its_sockets(marked: Clamd) -> None:
    for octets, verdict in ((MAIL, b"stream: OK\0"), (EICAR, b"Peers.Eicar.UNOFFICIAL FOUND\0")):
        local = socket.socket(socket.AF_UNIX)
        local.connect(str(marked.socket))
        assert _instream(local, octets).endswith(verdict)
        remote = socket.create_connection(("127.0.0.1", marked.port))
        assert _instream(remote, octets).endswith(verdict)


def test_postfix_with_both_foreign_milters_delivers_to_the_sink(
    postfix: Postfix, marked: Clamd, smtp_sink: SmtpSink, dkim_key: Key
) -> None:
    milters = postfix.queue / "milters"
    milters.mkdir()
    with clamav_milter(milters, marked), opendkim(milters, key=dkim_key):
        chain = "unix:milters/clamav-milter.sock, unix:milters/opendkim.sock"
        sink = f"smtp:[127.0.0.1]:{smtp_sink.port}"
        postfix.set({"smtpd_milters": chain, "default_transport": sink})
        send(postfix.port, MAIL)
        with pytest.raises(smtplib.SMTPDataError) as refused:
            send(postfix.port, MAIL + EICAR + b"\r\n")
        wait_for(smtp_sink.mails, "the mail arrives")
    assert refused.value.smtp_code == 550
    assert b"Peers.Eicar" in refused.value.smtp_error
    assert not postfix.troubles()
    (mail,) = smtp_sink.mails()
    assert b"\nX-Virus-Scanned: " in mail
    signed = mail[mail.index(b"DKIM-Signature:") :].replace(b"\n", b"\r\n")
    assert [each["result"] for each in mail_dkim.verify(signed, dkim_key.records)] == ["pass"]
    assert "succeeded" in verify(signed, dkim_key.records)
    broken = signed.replace(b"hello", b"hallo")
    assert [each["result"] for each in mail_dkim.verify(broken, dkim_key.records)] != ["pass"]
    assert "succeeded" not in verify(broken, dkim_key.records)


def test_postfix_takes_local_submissions(postfix: Postfix, smtp_sink: SmtpSink) -> None:
    postfix.set({"default_transport": f"smtp:[127.0.0.1]:{smtp_sink.port}"})
    postfix.submit(MAIL.replace(b"\r\n", b"\n"), "a@example.net", "b@example.org")
    wait_for(smtp_sink.mails, "the mail arrives")
    assert b"Subject: one" in smtp_sink.mails()[0]


def test_postfix_has_new_settings_when_that_is_said(
    postfix: Postfix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late it hears of them."""
    master = int((postfix.queue / "pid/master.pid").read_text())

    def late(condition: Callable[[], object], what: str) -> None:
        if what == "postfix reloads":
            os.kill(master, signal.SIGCONT)
        wait_for(condition, what)

    monkeypatch.setattr(postfix_peer, "wait_for", late)
    os.kill(master, signal.SIGSTOP)
    try:
        postfix.set({"smtpd_banner": "new"})
        with smtplib.SMTP() as client:
            assert client.connect("127.0.0.1", postfix.port) == (220, b"new")
    finally:
        os.kill(master, signal.SIGCONT)


def test_postfix_smtpd_is_chrooted(postfix: Postfix) -> None:
    with smtplib.SMTP("127.0.0.1", postfix.port, timeout=30) as client:
        client.ehlo()
        assert postfix.queue in set(_roots_of("smtpd"))


def _roots_of(name: str) -> Iterator[Path]:
    """The root directory of every process of that name."""
    for each in Path("/proc").glob("[0-9]*"):
        try:
            if (each / "comm").read_text().strip() == name:
                yield (each / "root").readlink()
        except OSError:
            continue  # it ended while we looked


def test_dovecot_takes_lmtp_and_keeps_the_quota() -> None:
    users = {"u@example.net": "", "full@example.net": "1k"}
    with dovecot(users) as peer:
        for address in (str(peer.socket), peer.port):
            first, second = _lmtp(address, list(users), MAIL + b"x" * 4000 + b"\r\n")
            assert first.startswith(b"250 2.0.0 <u@example.net>")
            assert second.startswith(b"452 4.2.2 <full@example.net>")
        assert len(peer.mails("u@example.net")) == 2
        assert not peer.mails("full@example.net")


def _lmtp(address: str | int, rcpts: list[str], message: bytes) -> list[bytes]:
    """The reply for each recipient, which smtplib does not read (RFC 2033 section 4.2)."""
    host = address if isinstance(address, str) else "127.0.0.1"
    with LMTP(host, address if isinstance(address, int) else 0) as client:
        client.ehlo()
        client.mail("a@example.net")
        for rcpt in rcpts:
            assert client.rcpt(rcpt)[0] == 250
        first = client.data(message)
        replies = [first, *(client.getreply() for _ in rcpts[1:])]
        return [b"%d %b" % each for each in replies]


def test_a_missing_program_names_its_package() -> None:
    with pytest.raises(FileNotFoundError, match="Debian package no-such-package"):
        program("no-such-daemon", "no-such-package")


def test_a_daemon_that_does_not_start_shows_its_log(peer_directory: Path) -> None:
    command = ["sh", "-c", "echo no such setting; exit 3"]
    with (
        pytest.raises(RuntimeError, match="no such setting"),
        daemon("sh", command, peer_directory, lambda: False),
    ):
        pytest.fail("it was never ready")
    assert "sh" not in [each.name for each in running]
