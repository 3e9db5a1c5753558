"""`milterlab send`: what it prints, writes, and exits with."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from milterd.lab.cli import app
from tests.peers.clamav_milter import Milter
from tests.peers.mail_dkim import verify as dkim_verify
from tests.peers.opendkim import Key
from tests.wire.programs import pymilter

run = CliRunner()


@pytest.fixture(scope="module")
def peer() -> Iterator[str]:
    with pymilter() as (path, _):
        yield f"unix:{path}"


def _mail(directory: Path, *asked: str, end: str = "\r\n") -> str:
    path = directory / "mail.eml"
    lines = ["From: a@example.net", "Subject: hello", *(f"X-Ask: {each}" for each in asked)]
    path.write_bytes((end.join([*lines, "", "text", ""])).encode())
    return str(path)


def test_accepted_with_edits(peer: str, tmp_path: Path) -> None:
    out = tmp_path / "out.eml"
    mail = _mail(tmp_path, "add", "delete", end="\n")
    result = run.invoke(app, ["send", peer, mail, "--out", str(out)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == f"{mail}: continue"
    assert "  -Subject: hello" in lines
    assert "  +X-Added: one" in lines
    assert "  end of message: continue" in lines
    assert any(each.startswith("  edit: delete header index=1 name=Subject") for each in lines)
    received, _, rest = out.read_bytes().partition(b"\r\nFrom: ")
    assert received.startswith(b"Received: from localhost (localhost [127.0.0.1])\r\n\tby ")
    assert b"From: " + rest == (
        b"From: a@example.net\r\nX-Ask: add\r\nX-Ask: delete\r\n"
        b"X-Added: one\r\n\ttwo\r\n\r\ntext\r\n"
    )


def test_refused(peer: str, tmp_path: Path) -> None:
    out = tmp_path / "out.eml"
    result = run.invoke(app, ["send", peer, _mail(tmp_path, "reply"), "--out", str(out)])
    assert result.exit_code == 1
    assert result.stdout.splitlines()[0].endswith("reject 554 5.7.1 no % thanks really")
    assert not out.exists()
    assert run.invoke(app, ["send", peer, _mail(tmp_path, "discard")]).exit_code == 0


def test_json(peer: str, tmp_path: Path) -> None:
    result = run.invoke(app, ["send", peer, _mail(tmp_path, "reject"), "--json"])
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["verdict"] == "reject"
    assert report["reply"] == "550 5.7.1 Command rejected"
    assert report["replies"][-1] == {"stage": "end of message", "subject": "", "reply": "reject"}


def test_json_has_all_that_is_shown(peer: str, tmp_path: Path) -> None:
    mail = _mail(tmp_path, "add", "from", "rcpt+", "quarantine")
    result = run.invoke(app, ["send", peer, mail, "--json", "--as", "sendmail"])
    report = json.loads(result.stdout)
    assert report["as"] == "sendmail"
    assert "  +X-Added: one" in report["diff"]
    assert len(report["envelope"]["recipients"]) == 2
    assert report["envelope"]["sender"] != "sender@example.org"
    assert report["quarantine"]
    assert report["notes"] == []


def test_an_mbox_out_and_in_again(peer: str, tmp_path: Path) -> None:
    box, out = tmp_path / "box", tmp_path / "out"
    box.write_bytes(
        b"From a\nSubject: 1\nX-Ask: add\n\n>From me\n\nFrom b\nSubject: 2\nX-Ask: reject\n\n"
        b"\nFrom c\nSubject: 3\n\nlast\n"
    )
    result = run.invoke(app, ["send", peer, str(box), "--out", str(out), "--one-connection"])
    assert result.exit_code == 1, result.output
    lines = [each for each in result.stdout.splitlines() if each.startswith(str(box))]
    assert [each.split(": ")[0] for each in lines] == [f"{box}, message {n}" for n in (1, 2, 3)]
    assert lines[1].endswith("message 2: reject 550 5.7.1 Command rejected")
    written = out.read_bytes()
    assert written.count(b"\nReceived: from localhost") == 2
    assert b"X-Added: one\n\ttwo\n\n>From me\n\nFrom sender@example.org" in written
    again = run.invoke(app, ["send", peer, str(out), "--out", f"{tmp_path}/files/"])
    assert again.exit_code == 0, again.output
    assert len(list((tmp_path / "files").iterdir())) == 2


def test_no_colour_but_on_a_terminal(peer: str, tmp_path: Path) -> None:
    """script(1) gives the command a terminal; NO_COLOR is obeyed there too."""
    mail = _mail(tmp_path, "add")
    code = "from milterd.lab.cli import main; main()"
    command = shlex.join([sys.executable, "-c", code, "send", peer, mail])
    for environ, coloured in (({}, True), ({"NO_COLOR": "1"}, False)):
        done = subprocess.run(
            ["script", "-qec", command, "/dev/null"],
            capture_output=True,
            timeout=60,
            check=True,
            env={**os.environ, "TERM": "xterm", **environ},
        )
        assert (b"\x1b[32m" in done.stdout) is coloured, done.stdout
    assert b"X-Added" in done.stdout


def test_the_worst_of_several_counts(peer: str, tmp_path: Path) -> None:
    (tmp_path / "2").mkdir()
    files = [_mail(tmp_path, "reject"), _mail(tmp_path / "2")]
    result = run.invoke(app, ["send", peer, *files])
    assert result.exit_code == 1
    assert len([each for each in result.stdout.splitlines() if each[0] != " "]) == 2


def test_fault(tmp_path: Path) -> None:
    result = run.invoke(app, ["send", f"unix:{tmp_path}/none", _mail(tmp_path), "--json"])
    assert result.exit_code == 5
    assert "no connection" in json.loads(result.stdout)["fault"]


@pytest.mark.parametrize(
    "options",
    [
        ["--client", "nobody knows"],
        ["--macro", "novalue"],
        ["--to", "a@b\r\nc"],
        ["--protocol", "7"],
        ["--nonsense"],
    ],
)
def test_usage(peer: str, tmp_path: Path, options: list[str]) -> None:
    assert run.invoke(app, ["send", peer, _mail(tmp_path), *options]).exit_code == 2


def test_more_usage(peer: str, tmp_path: Path) -> None:
    mail = _mail(tmp_path)
    assert run.invoke(app, ["send", peer, f"{tmp_path}/none"]).exit_code == 2
    assert run.invoke(app, ["send", "nonsense", mail]).exit_code == 2
    assert run.invoke(app, ["send", peer, mail, "--as", "exim"]).exit_code == 2
    assert run.invoke(app, ["send", peer, mail, "--out", f"{tmp_path}/no/o"]).exit_code == 2
    (tmp_path / "nul").write_bytes(b"Subject: a\0b\r\n\r\n")
    assert run.invoke(app, ["send", peer, f"{tmp_path}/nul"]).exit_code == 2


def test_help_has_an_example_and_the_exit_codes() -> None:
    text = " ".join(run.invoke(app, ["send", "--help"]).stdout.split())
    assert "Example: milterlab send" in text
    assert (
        "Exit codes: 0 accepted, 1 refused, 2 wrong usage, 3 the milter broke the protocol" in text
    )


def test_standard_input_as_a_program(peer: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from milterd.lab.cli import main; main()", "send", peer, "-"],
        input=b"Subject: x\nX-Ask: reject\n\n",
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stdout.startswith(b"-: reject 550 5.7.1")


def test_opendkim_signs_what_mail_dkim_verifies(
    opendkim: Milter, dkim_key: Key, tmp_path: Path
) -> None:
    """The bytes written are those OpenDKIM signed, 8-bit header and folding included."""
    mail, out = tmp_path / "mail.eml", tmp_path / "signed.eml"
    mail.write_bytes(
        b"From: a@example.net\r\nSubject:tight gr\xc3\xbc\xdfe\r\n\t folded\r\n"
        b"To:  b@example.net\r\n\r\n.dots\r\ntext\r\n"
    )
    options = ["--from", "a@example.net", "--auth", "a", "--out", str(out)]
    result = run.invoke(app, ["send", opendkim.address, str(mail), *options])
    assert result.exit_code == 0, result.output
    (signature,) = dkim_verify(out.read_bytes(), dkim_key.records)
    assert signature["result"] == "pass"
    assert out.read_bytes().endswith(mail.read_bytes())
