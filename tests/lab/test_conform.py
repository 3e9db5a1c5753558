"""The card of milters that run: ours under both hosts, one that dies, and the command."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from milterd.core.mail import parse_message
from milterd.lab.cli import app
from milterd.lab.conform.catalog import CHECKS, matching
from milterd.lab.conform.check import Outcome
from milterd.lab.conform.context import Options
from milterd.lab.conform.grade import Graded, grade
from milterd.lab.conform.judged import Judged, difference
from milterd.lab.conform.program import Program
from milterd.lab.conform.samples import default_envelope, default_session
from milterd.wire import messages as m
from tests.host.conftest import Hosted
from tests.peers.process import answers, daemon, directory
from tests.wire.programs import pymilter

ROOT = Path(__file__).parents[2]
run = CliRunner()


def with_outcome(card: list[Graded], outcome: Outcome) -> dict[str, str]:
    return {each.check.name: each.result.seen for each in card if each.result.outcome is outcome}


# --- ours -------------------------------------------------------------------------------

NOT_OURS = {
    "envelope/rejected-recipients",  # RCPT_REJ is not negotiated
    *(f"no-reply/{each}-{event}" for each in ("kept", "not-offered") for event in
      ("data", "end-of-headers", "unknown")),
    "skip/body-only",
}  # fmt: skip
BY_LIBMILTER = {
    "negotiate/no-actions",
    "header/packet-65536",
    "body/empty-piece",
    "body/in-end-of-message",
    "quit-nc/after-abort",
    "quit-nc/before-mail",
}
CASES = ("nothing", "headers", "body", "envelope", "quarantine", "reject", "tempfail", "discard")


def case(name: str) -> bytes:
    """A mail for the scripted filter."""
    fields = f"From: a@example.net\r\nSubject: old\r\nX-Gone: 1\r\nX-Gone: 2\r\nX-Case: {name}\r\n"
    return f"{fields}\r\nbody\r\n".encode()


@pytest.mark.parametrize(
    ("kind", "not_applicable"),
    [("native", NOT_OURS), ("libmilter", NOT_OURS | BY_LIBMILTER)],
)
def test_our_hosts_fail_nothing(kind: str, not_applicable: set[str]) -> None:
    """Every kind of edit and outcome, and SIGTERM in the end."""
    session, envelope = default_session(), default_envelope()
    mails = tuple(
        replace(parse_message(case(each)), session=session, envelope=envelope) for each in CASES
    )
    with directory("conform") as home:
        hosted = Hosted(kind, "script", home, socket.AF_UNIX, {})
        try:
            options = Options(answer=30, check=60, mails=mails, pid=hosted.process.pid)
            card = asyncio.run(grade(f"unix:{home / 's'}", CHECKS, options))
        finally:
            hosted.close()
    assert with_outcome(card, Outcome.FAILED) == {}
    assert set(with_outcome(card, Outcome.NOT_APPLICABLE)) == not_applicable


# --- a milter that is started -----------------------------------------------------------


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a milter_program has its socket."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with directory("program") as path:
        yield path


def command(home: Path, name: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.lab.milter_program", str(home / "s"), name)


def started(home: Path, name: str, *only: str, stop: float = 15.0) -> list[Graded]:
    """The card of a milter that the card itself starts."""
    options = Options(answer=10, quiet=0.05, command=command(home, name), stop=stop)
    return asyncio.run(grade(f"unix:{home / 's'}", matching(only, []), options))


def test_who_killed_the_milter_is_found_and_nobody_else(home: Path) -> None:
    card = started(home, "DiesOfNul", "body", "header", "messages", "order", "stop")
    assert with_outcome(card, Outcome.FAILED) == {
        "body/nul": "the milter's process ended by SIGABRT",
        "body/all-octets": "the milter's process ended by SIGABRT",
    }
    assert with_outcome(card, Outcome.NOT_APPLICABLE) == {}
    assert len(card) == len(matching(["body", "header", "messages", "order", "stop"], []))


def test_a_death_after_the_last_answer_is_found_too(home: Path) -> None:
    card = started(home, "DiesAtQuit", "session", "envelope", "messages")
    assert with_outcome(card, Outcome.FAILED) == {
        "session/8bit-helo": "the milter's process ended by SIGKILL"
    }


class Untold:
    """A process of whose end the loop hears late."""

    returncode: int | None = None

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process, self.pid = process, process.pid

    async def wait(self) -> int:
        await asyncio.sleep(0.05)
        self.returncode = self._process.wait()
        return self.returncode


def test_a_death_is_known_though_nobody_had_time_to_tell_of_it() -> None:
    """Who asks for it on a machine that stood still has the kernel's word."""

    async def there() -> bool:
        return True

    async def died() -> str:
        program._process = Untold(process)  # type: ignore[assignment]
        return await program.died(0.0)

    program = Program(("sleep", "1000"), there)
    with subprocess.Popen(("sleep", "1000")) as process:
        assert asyncio.run(died()) == ""
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert asyncio.run(died()) == "ended by SIGKILL"
    program.close()


def test_what_a_dead_milter_leaves_is_not_tried(home: Path) -> None:
    """Without a command to start it again."""
    checks = matching(["body/nul", "body/all-octets", "order", "stop"], [])
    with daemon("dies", command(home, "DiesOfNul"), home, lambda: answers(home / "s")):
        card = asyncio.run(grade(f"unix:{home / 's'}", checks, Options(answer=10, jobs=1)))
    assert set(with_outcome(card, Outcome.FAILED)) == {"body/nul"}
    left = with_outcome(card, Outcome.NOT_APPLICABLE)
    assert len(left) == len(checks) - 1
    assert all("nobody listens there any more" in each for each in left.values())


def test_a_milter_that_does_not_end(home: Path) -> None:
    card = started(home, "Deaf", "stop", "messages/plain", stop=0.3)
    assert with_outcome(card, Outcome.FAILED) == {
        "stop/sigterm": "the message is answered: continue at end of message; "
        "still there 0.3 s after SIGTERM"
    }


# --- the command ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def peer() -> Iterator[str]:
    with pymilter() as (path, _):
        yield f"unix:{path}"


def test_a_card_to_read(peer: str) -> None:
    result = run.invoke(app, ["conform", peer, "--only", "messages", "--only", "session/8bit-helo"])
    assert result.exit_code == 1, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "messages"
    assert lines[1].split() == ["✓", "messages/plain", "continue", "at", "end", "of", "message"]
    (at,) = (number for number, line in enumerate(lines) if "8bit-helo" in line)
    assert lines[at].strip().startswith("✗ session/8bit-helo")
    assert lines[at + 1].strip().startswith("rule: ")
    assert lines[at + 2].strip().startswith("source: ")
    assert lines[-1] == "4 passed, 1 failed, 0 not applicable"


def test_a_card_for_a_program(peer: str) -> None:
    result = run.invoke(
        app, ["conform", peer, "--json", "--only", "negotiate", "--skip", "*-withheld"]
    )
    found = {each["id"]: each for each in map(json.loads, result.stdout.splitlines())}
    assert len(found) == len(matching(["negotiate"], ["*-withheld"]))
    check = found["negotiate/unknown-protocol-flags"]
    assert check["result"] == "fail"
    assert (check["stage"], check["octet"]) == ("negotiate", 17)
    assert {each["result"] for each in found.values()} == {"pass", "fail", "n/a"}
    assert set(check) == {"id", "title", "rule", "source", "result", "seen", "stage", "octet"}


def test_a_card_without_a_fail(peer: str, tmp_path: Path) -> None:
    mail = tmp_path / "mail.eml"
    mail.write_bytes(b"From: a@example.net\nX-Ask: add\n\ntext\n")
    wishes = ["--file", str(mail), "--only", "abort", "--only", "edits", "--from", "a@example.net"]
    result = run.invoke(app, ["conform", peer, *wishes])
    assert result.exit_code == 0, result.output
    assert "1 AddHeader" in result.stdout


def test_no_milter(tmp_path: Path) -> None:
    result = run.invoke(app, ["conform", f"unix:{tmp_path}/none"])
    assert result.exit_code == 5
    assert "no connection" in result.stderr
    ends = f"{sys.executable} -c \"import sys; sys.exit('no socket')\""
    result = run.invoke(app, ["conform", f"unix:{tmp_path}/none", "--command", ends])
    assert result.exit_code == 5
    assert "ended with 1" in result.stderr
    assert "no socket" in result.stderr
    result = run.invoke(app, ["conform", f"unix:{tmp_path}/none", "--command", "/no/such/program"])
    assert result.exit_code == 5
    assert "cannot start /no/such/program: No such file" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["unix:/x", "--only", "no-such-check"],
        ["unix:/x", "--file", "/no/such/file"],
        ["unix:/x", "--client", "nobody knows"],
        ["unix:/x", "--pid", "4194305"],
        ["unix:/x", "--command", "'"],
        ["unix:/x", "--jobs", "0"],
    ],
)
def test_usage(arguments: list[str]) -> None:
    result = run.invoke(app, ["conform", *arguments])
    assert result.exit_code == 2, result.output
    assert "Traceback" not in result.output


def test_the_list_of_checks() -> None:
    result = run.invoke(app, ["conform", "--list"])
    assert result.exit_code == 0
    assert [each.partition(":")[0] for each in result.stdout.splitlines()] == [
        each.name for each in CHECKS
    ]


def test_every_check_has_its_rule_and_source() -> None:
    names = [each.name for each in CHECKS]
    assert len(set(names)) == len(names)
    for each in CHECKS:
        assert each.name.count("/") == 1
        assert each.title
        assert each.rule.endswith(".")
        assert each.source


# --- what is the same -------------------------------------------------------------------


def judged(*values: bytes) -> Judged:
    edits = tuple(m.AddHeaderReply(b"X", value) for value in values)
    return Judged("end of message", m.Continue(), edits)


@given(st.lists(st.binary(max_size=40).map(lambda each: each.replace(b"\0", b"")), max_size=3))
def test_a_judgement_is_as_itself(values: list[bytes]) -> None:
    assert difference(judged(*values), [judged(*values)]) == ""


@pytest.mark.parametrize(
    ("seen", "alone", "same"),
    [
        (b"2 fields", [b"1 fields"], False),
        (b"t=3; h=a", [b"t=1; h=a", b"t=2; h=a"], True),
        (b"t=3; h=b", [b"t=1; h=a", b"t=2; h=a"], False),
        (b"b=AbC\n\tdef=", [b"b=xxC\n def=", b"b=AyyydeF="], True),
        (b"id 12 x", [b"id 3", b"id 4 4"], True),
        (b"one word more", [b"one word"], False),
    ],
)
def test_only_what_differs_each_time_may_differ(
    seen: bytes, alone: list[bytes], same: bool
) -> None:
    assert (difference(judged(seen), [judged(each) for each in alone]) == "") is same


def test_the_page_of_checks_is_the_checks() -> None:
    maker = ROOT / "packaging/checks.py"
    made = subprocess.run([sys.executable, str(maker)], cwd=ROOT, capture_output=True, check=True)
    assert (ROOT / "docs/lab/conform-checks.md").read_bytes() == made.stdout, (
        "run: python packaging/checks.py > docs/lab/conform-checks.md"
    )
