"""The filter of docs/write-a-filter.md: its own test, its types, and it at work behind Postfix."""

from __future__ import annotations

import smtplib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from milterd.lab.testing import Milter
from tests.host.conftest import ROOT, until
from tests.host.own_cases import configure, example, example_settings, put
from tests.host.test_daemon import Milterd
from tests.peers.postfix import Postfix
from tests.peers.smtp_sink import SmtpSink

MAIL = b"From: a@example.net\r\nX-Trap: forged\r\nSubject: x\r\n\r\nhello\r\n"


@pytest.fixture
def trap(short_path: Path) -> Path:
    filter_, its_test = example()
    (short_path / "retired").write_bytes(b"old@example.net\n")
    put(short_path / "test_trap.py", its_test)
    return put(short_path / "trap.py", filter_)


@pytest.fixture
def milterd(short_path: Path, trap: Path) -> Iterator[Milterd]:
    made = Milterd(short_path, "native")
    settings = example_settings().replace("/etc/gatepost", str(short_path))
    configure(made, settings.replace('mode = "shadow"', 'mode = "on"'))
    yield made
    made.close()


def test_it_is_about_forty_lines_and_passes_its_own_test(trap: Path) -> None:
    lines = [each for each in trap.read_text().splitlines() if each.strip()]
    assert 30 <= len(lines) <= 42
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_trap.py"]
    done = subprocess.run(command, cwd=trap.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_it_has_the_right_types(trap: Path) -> None:
    command = [sys.executable, "-m", "mypy", "--strict", str(trap)]
    command.append(str(trap.parent / "test_trap.py"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_it_serves(milterd: Milterd, postfix: Postfix, smtp_sink: SmtpSink) -> None:
    text = milterd.config.read_text()
    sockets = postfix.queue / "milterd"
    sockets.mkdir(exist_ok=True)
    milterd.config.write_text(
        text.replace(f'y = "{milterd.directory}"', f'y = "{sockets}"').replace(
            'socket_group = ""', 'socket_group = "postfix"'
        )
    )
    milterd.start().ready()
    with Milter(f"unix:{sockets}/trap.sock") as milter:
        refused = milter.send(MAIL, recipients=["old@example.net"])
        assert refused.reply == "550 5.1.1 No such user"

    sink = f"smtp:[127.0.0.1]:{smtp_sink.port}"
    postfix.set({"smtpd_milters": "unix:milterd/trap.sock", "default_transport": sink})
    with smtplib.SMTP("127.0.0.1", postfix.port) as client:
        client.sendmail("a@example.org", ["old@example.net", "new@example.net"], MAIL)
        with pytest.raises(smtplib.SMTPDataError, match=r"5\.1\.1 No such user"):
            client.sendmail("a@example.org", ["OLD@example.net"], MAIL)
    until(smtp_sink.mails)
    (taken, *_) = smtp_sink.mails()
    assert b"\nX-Trap: 1 of 2\n" in taken
    assert b"forged" not in taken
    lines = until(lambda: len(found := milterd.log("decision")) == 3 and found)
    assert [each["outcome"] for each in lines] == ["reject", "edit", "reject"]
    assert lines[1]["reason"] == "trap: marked"
