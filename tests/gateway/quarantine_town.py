"""A gateway with our clamav filter, milterd's or its own, and a real clamd that knows two test
signatures."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from milterd.base import sockets
from smtpgw.cli import app
from tests.filters.clamd_peer import SIGNATURES, eicar
from tests.gateway.gateway import PATIENCE, Gateway, until
from tests.peers.clamd import clamd

SECOND = b"The quick brown fox is a second test signature"
EICAR = "clamav/Eicar-Test-Signature.UNOFFICIAL: infected"
HELD = "clamav/?not-scanned: held until a scanner answers"
OTHER = "clamav/Second.Test.UNOFFICIAL: infected"


@dataclass
class QuarantineTown:
    """`scripted` is the socket of a milter that is nobody's yet, `scanner` what ends clamd;
    `inside`: the gateway's workers run the filter themselves."""

    gateway: Gateway
    scripted: Path
    scanner: contextlib.ExitStack
    inside: bool = False

    def configure(
        self, lines: str = "", *, milters: str = "", infected: str = "quarantine"
    ) -> None:
        """Lines for [smtpgw.quarantine], and milters after ours."""
        place = self.gateway.place
        address = "filter:clamav" if self.inside else f"unix:{place}/m/clamav.sock"
        self.gateway.configure(
            'non_smtpd_milters = ["viruses"]',
            tables=f"""
[[smtpgw.milter]]
name = "viruses"
address = "{address}"
{milters}
[smtpgw.quarantine]
{lines}
[milterd]
socket_directory = "{place}/m"
socket_group = ""
[filter.clamav]
clamd = "unix:{place}/clamd.ctl"
retry = "1s"
infected = "{infected}"
unavailable = "hold"
hostname = "gw.example.net"
""",
        )
        text = self.gateway.file.read_text()
        self.gateway.file.write_text(text.replace("[metrics]\n", '[metrics]\nmilterd = ""\n'))

    def reload(self, lines: str = "", *, milters: str = "") -> None:
        """Other settings for the gateway that runs."""
        self.configure(lines, milters=milters)
        before = self.gateway.count("ready")
        assert self.gateway.process is not None
        self.gateway.process.send_signal(signal.SIGHUP)
        until(lambda: self.gateway.count("ready") > before, what="the reload")

    @contextlib.contextmanager
    def no_scanner(self) -> Iterator[None]:
        """There is no clamd, until the end of the block."""
        self.scanner.close()
        try:
            yield
        finally:
            self.begin_scanner()

    def begin_scanner(self) -> None:
        """Start clamd."""
        place = self.gateway.place
        self.scanner.enter_context(clamd(place / "clamd", place / "db"))

    def run(self, *words: str, check: int = 0) -> str:
        """A command of `smtpgw`, in this process, and what it says."""
        return self._result(*words, check=check).output

    def raw(self, queue_id: str) -> bytes:
        """A mail in quarantine, to the octet."""
        return self._result("quarantine", "show", queue_id, "--message").stdout_bytes

    def _result(self, *words: str, check: int = 0) -> Result:
        done = CliRunner().invoke(app, [*words, "--config", str(self.gateway.file)])
        assert done.exit_code == check, (done.output, done.exception)
        return done

    def listed(self, *words: str) -> list[dict[str, Any]]:
        """The quarantine, for programs."""
        lines = self.run("quarantine", "list", "--json", *words).splitlines()
        return [json.loads(line) for line in lines]

    def catch(self, message: bytes, *recipients: str, sender: str = "a@example.org") -> str:
        """Send a mail that is quarantined; its id."""
        code, text = self.gateway.send(message, sender, recipients)
        assert code == 250, (code, text)
        queue_id = text.rpartition(" ")[2]
        self.gateway.told("message", outcome="quarantined", queue_id=queue_id)
        return queue_id

    def told(self, queue_id: str, outcome: str) -> dict[str, Any]:
        """What the log says became of an entry."""
        return self.gateway.told("quarantine", queue_id=queue_id, outcome=outcome)[-1]


def mail(*parts: bytes, subject: bytes = b"hello", pad: int = 0) -> bytes:
    """A message with these octets as attachments."""
    text = b"--=_x\r\nContent-Type: text/plain\r\n\r\nsee below\r\n" + b"padding\r\n" * pad
    for each in parts:
        lines = base64.encodebytes(each).replace(b"\n", b"\r\n")
        text += (
            b"--=_x\r\nContent-Type: application/octet-stream; name=a.com\r\n"
            b"Content-Transfer-Encoding: base64\r\n\r\n" + lines
        )
    return (
        b"From: a@example.org\r\nTo: u@example.net\r\nSubject: " + subject + b"\r\n"
        b"Date: Mon, 1 Jan 2024 00:00:00 +0000\r\nMessage-ID: <1@example.org>\r\n"
        b"X-Folded: one\r\n\ttwo\r\nMIME-Version: 1.0\r\n"
        b'Content-Type: multipart/mixed; boundary="=_x"\r\n\r\n' + text + b"--=_x--\r\n"
    )


def alike(delivered: bytes) -> bytes:
    """A delivered mail without what differs between two that were sent one after the other."""
    found = re.sub(rb"id [0-9A-Za-z]{10,16}\b", b"id ID", delivered)
    found = re.sub(
        rb"(?m)(^|;)[ \t]*\w{3}, [ \d]\d \w{3} \d{4} [\d:]{8} [+-]\d{4}.*$", b"\\1 DATE", found
    )
    return re.sub(rb"u\d+@example\.net", b"u@example.net", found)


def signatures(directory: Path) -> None:
    """A database with two signatures."""
    directory.mkdir()
    shutil.copy(SIGNATURES, directory / "eicar.ndb")
    (directory / "second.ndb").write_text(f"Second.Test:0:*:{SECOND.hex()}\n")


@contextlib.contextmanager
def quarantine_town(
    place: Path, scripted: Path, *, inside: bool = False
) -> Iterator[QuarantineTown]:
    """Everything runs, milterd where it has something to do."""
    gateway = Gateway(place)
    (place / "clamd").mkdir()
    (place / "clamd.ctl").symlink_to(place / "clamd" / "clamd.sock")
    signatures(place / "db")
    with contextlib.ExitStack() as scanner, contextlib.ExitStack() as stack:
        one = QuarantineTown(gateway, scripted, scanner, inside)
        one.configure()
        one.begin_scanner()
        if not inside:
            stack.enter_context(_milterd(gateway))
        stack.callback(gateway.kill)
        gateway.start()
        yield one


@contextlib.contextmanager
def _milterd(gateway: Gateway) -> Iterator[None]:
    command = [sys.executable, "-m", "milterd", "run", "--config", str(gateway.file)]
    with (gateway.place / "milterd.log").open("wb") as log:
        milterd = subprocess.Popen(command, stderr=log)
    try:
        path = gateway.place / "m" / "clamav.sock"
        until(lambda: path.exists() and sockets.alive(str(path)), what="milterd")
        yield
    finally:
        milterd.send_signal(signal.SIGTERM)
        milterd.wait(PATIENCE)


__all__ = [
    "EICAR",
    "HELD",
    "OTHER",
    "SECOND",
    "QuarantineTown",
    "alike",
    "eicar",
    "mail",
    "quarantine_town",
]
