"""Show 1: what `make run` runs, met as a person meets it: with swaks, and with Ctrl-C."""

from __future__ import annotations

import os
import re
import secrets
import signal
import smtplib
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.peers.process import directory, free_port, program, wait_for
from tests.scenarios.letters import (
    AGENT,
    FORGED,
    SIGNATURE,
    check_treated,
    fields,
    infected_attachment,
    zone,
)
from tests.steady import Running

pytestmark = pytest.mark.xdist_group("scenario-make-run")
TOP = Path(__file__).parents[2]
MARK = "GATEPOST_SCENARIO"
"""A variable in the environment of all that the launcher starts, however deep."""


@dataclass
class Terminal:
    """The launcher in a process group of its own, as a shell would have it."""

    var: Path
    port: int
    process: subprocess.Popen[bytes]
    output: Path
    mark: str

    def said(self) -> str:
        return self.output.read_text(errors="replace")

    def ctrl_c(self) -> None:
        """What a terminal does: the signal goes to the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def processes(self) -> list[str]:
        """Every process that has our mark, by command line."""
        found = []
        for each in Path("/proc").glob("[0-9]*"):
            try:
                if f"{MARK}={self.mark}".encode() in (each / "environ").read_bytes():
                    found.append((each / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue  # it ended while we looked
        return found

    def mails(self, address: str = "u@example.net") -> list[bytes]:
        new = self.var / "mail" / address / "new"
        return [each.read_bytes() for each in new.iterdir()] if new.is_dir() else []

    def swaks(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = [program("swaks", "swaks"), "--server", f"127.0.0.1:{self.port}"]
        command += ["--to", "u@example.net", *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@contextmanager
def launched() -> Iterator[Terminal]:
    """Started, and told that it takes mail."""
    with directory("run") as home:
        port, mark = free_port(), secrets.token_hex(8)
        command = [sys.executable, "packaging/run/launch.py"]
        command += ["--port", str(port), "--var", str(home / "var")]
        with (home / "terminal").open("wb") as output:
            process = subprocess.Popen(
                command, cwd=TOP, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env={**os.environ, MARK: mark}, start_new_session=True,
            )  # fmt: skip
        one = Terminal(home / "var", port, process, home / "terminal", mark)
        try:
            wait_for(lambda: "Try this" in one.said() or process.poll() is not None, "it starts")
            assert process.poll() is None, one.said()
            yield one
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(20)
            sys.stderr.write(one.said()[-8000:])


@pytest.fixture(scope="module")
def running() -> Iterator[Terminal]:
    with launched() as one:
        yield one


@pytest.mark.parametrize("sender", ["me@example.org", ""], ids=["example", "default-sender"])
def test_a_mail_is_stored_scanned_signed_and_without_its_agent(
    running: Terminal, sender: str
) -> None:
    """Without --from, swaks sends from this machine's own name, for which there are keys too."""
    before = running.mails()
    options = ["--from", sender] if sender else []
    for each in (AGENT, FORGED):
        options += ["--header", each.decode()]
    sent = running.swaks(*options)
    assert sent.returncode == 0, sent.stdout
    used = re.search(r"MAIL FROM:<\S+@(\S+)>", sent.stdout)
    assert used is not None
    wait_for(lambda: len(running.mails()) > len(before), "the mail arrives")
    (mail,) = [each for each in running.mails() if each not in before]
    check_treated(mail, zone((running.var / "keys/keys.zone").read_text()), used[1])
    assert fields(mail, "X-Mailer") == []
    assert b"This is a test mailing" in mail


def test_eicar_in_a_zip_is_refused_by_name_and_not_stored(running: Terminal) -> None:
    before = len(running.mails())
    message = running.output.parent / "infected"
    message.write_bytes(
        b"From: me@example.org\r\nTo: u@example.net\r\nMIME-Version: 1.0\r\n"
        b"Content-Type: application/zip; name=a.zip\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + infected_attachment()
    )
    sent = running.swaks("--from", "me@example.org", "--data", f"@{message}")
    assert sent.returncode == 26, sent.stdout  # swaks(1): DATA failed
    assert re.search(rf"^<\*\* 550 5\.7\.1 .*{SIGNATURE}", sent.stdout, re.MULTILINE), sent.stdout
    assert len(running.mails()) == before
    queue = running.var / "queue"
    assert not [*queue.glob("spool/*"), *queue.glob("*/bodies/*")]


def test_ctrl_c_ends_everything_within_three_seconds_and_leaves_nothing() -> None:
    with launched() as one, smtplib.SMTP("127.0.0.1", one.port, timeout=10) as client:
        client.ehlo()  # somebody is in the middle of a message
        for line in ("MAIL FROM:<me@example.org>", "RCPT TO:<u@example.net>", "DATA"):
            client.docmd(line)
        client.send(b"Subject: half a m")
        # launcher, clamd, milterd with nursery and three filters, smtpgw with nursery and worker
        wait_for(lambda: len(one.processes()) == 10, "all have started")
        assert [each for each in one.var.rglob("*") if each.is_socket()]
        with Running() as clock:
            before = clock()
            one.ctrl_c()
            assert one.process.wait(60) == 0
            assert clock() - before < 3.0
        assert one.processes() == []
        assert [each for each in one.var.rglob("*") if each.is_socket()] == []
        assert "was killed" not in one.said()
        client.close()
