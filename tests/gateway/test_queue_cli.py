"""The queue commands do what they say, with and without a daemon, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from milterd.core.decision import Reason
from milterd.core.mail import BytesBody, Client, Envelope, Family, HeaderField, Mail, Recipient
from milterd.core.mail import Session as MailSession
from smtpgw.cli import app
from smtpgw.intake import Intake
from smtpgw.queue.clock import QueueClock, SystemClock
from smtpgw.queue.sqlite import SqliteStore
from smtpgw.queue.states import MailState
from smtpgw.queue.tools import shard_directory

SHOW = (sys.executable, "-m", "smtpgw", "queue", "show")


class Command:
    """The command with a settings file of its own."""

    def __init__(self, place: Path) -> None:
        self.queue = place / "queue"
        self.file = place / "gatepost.toml"
        self.file.write_text(f'[smtpgw.queue]\ndirectory = "{self.queue}"\n')

    def __call__(self, *words: str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["queue", *words, "--config", str(self.file)])
        return done.exit_code, done.output

    def lines(self, *words: str) -> list[dict[str, object]]:
        code, output = self(*words, "--json")
        assert code == 0, output
        return [json.loads(line) for line in output.splitlines()]


def a_mail(sender: bytes = b"a@example.org", body: bytes = b"hello\r\n") -> Mail:
    return Mail(
        session=MailSession(Client(b"[192.0.2.1]", Family.INET, b"192.0.2.1", 1234), b"client"),
        envelope=Envelope(sender, (), (Recipient(b"u@example.net"), Recipient(b"v@example.net"))),
        headers=(HeaderField(b"Subject", b" x\x1b[31m"),),
        body=BytesBody(body),
    )


class Daemon:
    """A store that is open, as a worker has it."""

    def __init__(self, directory: Path) -> None:
        self.runner = asyncio.Runner()
        self.clock = QueueClock(SystemClock())
        self.store = self.runner.run(self._open(directory))
        self.intake = Intake(self.store, self.clock)

    async def _open(self, directory: Path) -> SqliteStore:
        store = SqliteStore.open(shard_directory(directory, 0), clock=self.clock)
        await store.recover(self.clock.now())
        return store

    def add(self, mail: Mail, hold: str | None = None) -> str:
        queue_id = self.intake.new_id()
        reasons = (Reason("milter clamav", "continue", {"stage": "eom"}),)
        self.runner.run(self.intake.accept(mail, queue_id=queue_id, decision=reasons, hold=hold))
        return queue_id

    def state(self, queue_id: str) -> MailState:
        return self.runner.run(self.store.show(queue_id)).state

    def close(self) -> None:
        self.runner.run(self.store.close())
        self.runner.close()


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path)


@pytest.fixture
def daemon(command: Command) -> Iterator[Daemon]:
    one = Daemon(command.queue)
    yield one
    one.close()


def test_mails_are_listed_oldest_first_and_by_state(command: Command, daemon: Daemon) -> None:
    first, second = daemon.add(a_mail()), daemon.add(a_mail(b""), hold="looks odd")
    found = command.lines("list")
    assert [each["queue_id"] for each in found] == [first, second]
    assert found[0]["state"] == "incoming"
    assert found[0]["recipients"] == ["u@example.net", "v@example.net"]
    assert found[1]["sender"] == ""
    assert found[1]["reason"] == "looks odd"
    assert [each["queue_id"] for each in command.lines("list", "--state", "hold")] == [second]
    code, output = command("list")
    assert (code, "-- 1 Kbytes in 2 Requests." in output, first in output) == (0, True, True)


def test_show_tells_all_and_the_message_is_exact(command: Command, daemon: Daemon) -> None:
    queue_id = daemon.add(a_mail())
    (found,) = command.lines("show", queue_id)
    assert found["client"] == "192.0.2.1"
    assert found["decision"] == [
        {"filter": "milter clamav", "outcome": "continue", "reason": {"stage": "eom"}}
    ]
    done = subprocess.run(
        [*SHOW, queue_id, "--message", "-c", str(command.file)],
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"Subject: x\x1b[31m\r\n\r\nhello\r\n"


def test_a_terminal_is_safe_from_what_is_in_a_mail(command: Command, daemon: Daemon) -> None:
    daemon.add(a_mail(b"\x1b]0;x\x07[red]@example.org"))
    for words in (("list",), ("list", "--json")):
        code, output = command(*words)
        assert code == 0
        assert "\x1b" not in output
        assert "[red]" in output


def test_changes_reach_a_running_daemon(command: Command, daemon: Daemon) -> None:
    queue_id = daemon.add(a_mail())
    assert command.lines("hold", queue_id, "--why", "wait\nfor it") == [{"held": 1}]
    assert daemon.state(queue_id) is MailState.HOLD
    assert command.lines("show", queue_id)[0]["reason"] == "wait for it"
    assert command.lines("release", queue_id) == [{"released": 1}]
    assert daemon.state(queue_id) is MailState.DEFERRED
    assert command.lines("flush", queue_id) == [{"flushed": 1}]
    assert command.lines("flush", "ALL") == [{"flushed": 0}]  # it is due already
    assert command.lines("delete", queue_id) == [{"deleted": 1}]
    assert command.lines("list") == []


def test_changes_stand_when_no_daemon_runs(command: Command) -> None:
    before = Daemon(command.queue)
    queue_id, other = before.add(a_mail()), before.add(a_mail(body=b"x" * 400_000 + b"\r\n"))
    before.close()
    assert command.lines("hold", queue_id) == [{"held": 1}]
    assert command.lines("delete", other) == [{"deleted": 1}]
    assert list(command.queue.glob("*/bodies/*")) == []
    after = Daemon(command.queue)
    assert after.state(queue_id) is MailState.HOLD
    after.close()


@pytest.mark.parametrize(
    "wrong",
    [
        "../../etc/passwd",
        "A/../B",
        "",
        "x" * 1000,
        "abc",
        "a\0bcdefghij",
        "٣" * 12,
        "-oQ/tmp/xxxxx",
    ],
)
@pytest.mark.parametrize(
    "verb", ["show", "delete", "hold", "release", "flush", "requeue", "bounce"]
)
def test_what_is_no_queue_id_never_reaches_the_queue(
    command: Command, verb: str, wrong: str
) -> None:
    assert command(verb, "--", wrong)[0] == 2


def test_an_unknown_mail_is_said_to_be_unknown(command: Command, daemon: Daemon) -> None:
    daemon.add(a_mail())
    code, output = command("delete", "0123456789abcd")
    assert (code, output) == (1, "0123456789abcd: no such mail\n")


def test_a_move_that_cannot_be_made_is_refused(command: Command, daemon: Daemon) -> None:
    code, output = command("release", daemon.add(a_mail()))
    assert code == 1
    assert "release" in output


def test_bad_settings_are_told_with_their_code(command: Command) -> None:
    command.file.write_text("[smtpgw.qeue]\n")
    code, output = command("list")
    assert code == 78
    assert "did you mean 'queue'?" in output


def test_the_queue_is_seen_while_the_settings_are_wrong_elsewhere(
    command: Command, daemon: Daemon
) -> None:
    queue_id = daemon.add(a_mail())
    with command.file.open("a") as file:
        file.write('[smtpgw]\nmyhostnam = "x"\n')
    assert [line["queue_id"] for line in command.lines("list")] == [queue_id]
    code, output = command("requeue", queue_id)
    assert code == 78  # which needs the transports
    assert "did you mean 'myhostname'?" in output


@pytest.mark.parametrize("text", ["[smtpgw.queue\n", "[smtpgw.queue]\ndirectory = 5\n"])
def test_a_queue_that_cannot_be_found_is_told_with_its_code(command: Command, text: str) -> None:
    command.file.write_text(text)
    code, output = command("list")
    assert code == 78
    assert str(command.file) in output


def test_a_queue_that_is_not_there_is_empty(command: Command) -> None:
    assert command.lines("list") == []
    assert not command.queue.exists()


@pytest.mark.parametrize(
    "verb",
    ["list", "show", "flush", "delete", "hold", "release", "requeue", "bounce", "shape", "top"],
)
def test_every_command_has_help_with_an_example(command: Command, verb: str) -> None:
    done = CliRunner().invoke(app, ["queue", verb, "--help"])
    assert done.exit_code == 0
    assert f"Example: smtpgw queue {verb}" in done.output


@pytest.mark.parametrize(
    "words", [("smtpgw.local.sendmail", "-bp"), ("smtpgw", "sendmail", "-q"), ("smtpgw", "config")]
)
def test_nothing_is_loaded_from_where_somebody_stands(
    command: Command, tmp_path: Path, words: tuple[str, ...]
) -> None:
    """Else root would run a user's code by `mailq` in that user's directory."""
    trap = tmp_path / "trap"
    trap.mkdir()
    for each in ("typer.py", "smtpgw.py", "milterd.py", "json.py"):
        (trap / each).write_text("import sys\nprint('caught')\nsys.exit(99)\n")
    done = subprocess.run(
        [sys.executable, "-Pm", *words],
        capture_output=True,
        check=False,
        cwd=trap,
        env={**os.environ, "GATEPOST_CONFIG": str(command.file)},
    )
    assert b"caught" not in done.stdout + done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("kind", ["queue", "quarantine"])
@pytest.mark.parametrize(("place", "mode"), [("", 0o711), ("00", 0o700), ("00", 0o600)])
def test_a_queue_that_may_not_be_looked_into_is_not_said_to_be_empty(
    command: Command, daemon: Daemon, kind: str, place: str, mode: int
) -> None:
    daemon.add(a_mail())
    command.queue.chmod(0o755)
    (command.queue / place).chmod(mode)
    for each in (command.file, *command.file.parents):
        if each.is_relative_to(tempfile.gettempdir()) and each.stat().st_uid == os.geteuid():
            each.chmod(stat.S_IMODE(each.stat().st_mode) | 0o055)
    words = [sys.executable, "-Pm", "smtpgw", kind, "list", "-c", str(command.file)]
    stranger = 65534 if os.geteuid() == 0 else None
    if stranger is None:
        (command.queue / place).chmod(0o000 if place else 0o100)
    done = subprocess.run(words, capture_output=True, check=False, user=stranger)
    (command.queue / place).chmod(0o700)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"Permission denied" in done.stderr
