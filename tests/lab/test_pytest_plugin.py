"""The pytest plugin: scenarios as tests, and the fixture `milter`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from milterd.core.actions import AddHeader
from milterd.lab.testing import Milter, MilterError
from tests.peers.process import directory
from tests.wire.programs import pymilter

TOP = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def peer() -> Iterator[str]:
    with pymilter() as (path, _):
        yield f"unix:{path}"


@pytest.fixture
def project() -> Iterator[Path]:
    """An empty project of somebody who tests a milter of theirs."""
    with directory("project") as home:
        (home / "pytest.ini").write_text("[pytest]\n")
        yield home


def pytest_in(project: Path, *words: str) -> tuple[int, str]:
    """What pytest says in a project whose environment has ours installed: its status, its words."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=no", *words]
    done = subprocess.run(
        command, cwd=project, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_pytest_finds_the_plugin() -> None:
    (found,) = entry_points(group="pytest11", name="milterlab")
    assert found.value == "milterd.lab.pytest_plugin"


def test_the_plugin_costs_nothing_until_it_is_used() -> None:
    code = (
        "import sys, pytest; before = set(sys.modules); import milterd.lab.pytest_plugin;"
        "print(sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=TOP, check=True
    )
    assert done.stdout == "['milterd', 'milterd.lab', 'milterd.lab.pytest_plugin']\n"


def test_scenarios_are_tests(project: Path, peer: str) -> None:
    (project / "sub").mkdir()
    (project / "good.milter").write_text("connect x\nhelo ${name}\n")
    (project / "sub" / "bad.milter").write_text(
        "connect x\nhelo y\nmail <>\nrcpt <refuse@x>\n  expect accept\n"
    )
    (project / "broken.milter").write_text("connect x\nexpekt reject\n")
    words = ("--milter-socket", peer, "--milter-set", "name=y", "--strict-markers")
    code, said = pytest_in(project, "-rA", "--strict-config", "--import-mode=importlib", *words)
    assert code == 1
    assert "1 passed" in said
    assert "2 failed" in said
    assert "PASSED good.milter::scenario" in said
    assert "sub/bad.milter:5: rcpt <refuse@x>: expected accept, found reject" in said
    assert "     4  rcpt <refuse@x>\n          -> reject\n" in said
    assert 'broken.milter:2: expected an action, found "expekt", perhaps expect' in said
    assert "Traceback" not in said
    assert pytest_in(project, "good.milter", *words)[0] == 0


def test_where_the_address_of_a_scenario_is_from(project: Path, peer: str) -> None:
    (project / "own.milter").write_text("socket unix:/none\nconnect x\n")
    (project / "other.milter").write_text("connect x\n")
    code, said = pytest_in(project)
    assert code == 1
    assert "own.milter:2: no connection to unix:/none" in said
    assert "other.milter:1: no address: give a socket line, or --socket" in said
    (project / "pytest.ini").write_text(f"[pytest]\nmilter_socket = {peer}\n")
    code, said = pytest_in(project)
    assert "1 failed, 1 passed" in said
    assert pytest_in(project, "--milter-socket", peer)[0] == 0


TESTS = """
import pytest

MESSAGE = b"From: a@example.net\\nX-Ask: add\\n\\ntext\\n"
pytestmark = pytest.mark.milter({peer!r})


def test_adds_a_header(milter):
    result = milter.send(MESSAGE, sender="a@example.net", recipients=["c@example.net"])
    assert result.verdict == "continue"
    assert result.edits == ["add-header X-Added: one\\\\r\\\\n\\\\ttwo"]
    assert b"X-Added: one\\r\\n\\ttwo\\r\\n" in result.message


def test_refuses(milter):
    with milter({peer!r}).session() as session:
        assert session.helo("x").verdict == "continue"
        assert session.mail("<spam@example.net>").verdict == "continue"
        assert session.rcpt("<refuse@example.net>").verdict == "reject"


def test_that_fails(milter):
    result = milter.send(MESSAGE)
    assert result.edits == ["add-header X-Other: one"]


@pytest.mark.milter("unix:/none")
def test_without_a_milter(milter):
    milter.send(MESSAGE)
"""


def test_the_fixture(project: Path, peer: str) -> None:
    (project / "test_it.py").write_text(TESTS.format(peer=peer))
    code, said = pytest_in(project, "--strict-markers")
    assert code == 1
    assert "2 failed, 2 passed" in said
    assert "'add-header X-Added: one\\\\r\\\\n\\\\ttwo' != 'add-header X-Other: one'" in said
    assert "MilterError: no connection to unix:/none: No such file or directory" in said
    (project / "test_it.py").write_text("def test_it(milter):\n    milter.send(b'')\n")
    code, said = pytest_in(project)
    assert "no milter to talk to: call milter(ADDRESS), mark the test" in said
    assert pytest_in(project, "--milter-socket", peer)[0] == 0


# --- the library below it ------------------------------------------------------------------


@pytest.fixture
def lab(peer: str) -> Iterator[Milter]:
    with Milter(peer) as found:
        yield found


def test_what_became_of_a_message(lab: Milter, tmp_path: Path) -> None:
    path = tmp_path / "mail.eml"
    path.write_bytes(b"Subject: hello\nX-Ask: reply\n\nbody\n")
    result = lab.send(path, auth="joe", macros={"i": "QID"}, client_address="2001:db8::1")
    assert (result.verdict, result.code) == ("reject", 554)
    assert result.reply == "554 5.7.1 no % thanks really"
    assert result.edits == []
    refused = lab.send("X-Ask: reject\n\n", recipients=["<refuse@x>", "b@x"], mta="sendmail")
    assert (refused.verdict, refused.code, refused.refused) == ("reject", 554, ["refuse@x"])
    assert lab.send("X-Ask: reject\n\n").reply == "550 5.7.1 Command rejected"  # Postfix's words
    fine = lab.send("X-Ask: add\n\n", sender="<>")
    assert (fine.code, fine.reply) == (None, "")
    assert fine.actions == (AddHeader(b"X-Added", b" one\r\n\ttwo"),)


def test_event_by_event(lab: Milter) -> None:
    with lab.session() as session:
        assert session.agreed[0] == 6
        session.macro("mail", i="QID", auth_authen="joe")
        session.connect("mx.example.org", "192.0.2.1", 25)
        session.helo("mx")
        assert session.mail("<a@example.net>", "SIZE=10").verdict == "continue"
        session.rcpt("<b@example.net>")
        session.data()
        session.header("Subject", "gr\xfc\xdfe")
        for asked in ("add", "rcpt-", "progress", "reply"):
            assert session.header("X-Ask", asked).verdict == "continue"
        session.eoh()
        session.body("body\r\n")
        answer = session.end()
        assert (answer.verdict, answer.code, answer.enhanced) == ("reply", 554, "5.7.1")
        assert answer.text == "no % thanks really"
        assert answer.edits == [r"add-header X-Added: one\r\n\ttwo", "del-rcpt <b@example.net>"]
        assert answer.progress == 1
        assert "del-rcpt" in repr(answer)
        session.abort()
        assert session.mail("<>").verdict == "continue"
    with lab.session(version=2, actions=1, protocol=0x7F) as session:
        assert session.agreed[0] == 2
        assert session.helo("x").verdict == "continue"
        assert session.mail("<>").verdict == "continue"
        assert session.rcpt("<x>").verdict == "continue"
        assert session.data().verdict == "nothing"


def test_faults(lab: Milter, tmp_path: Path) -> None:
    session = lab.session()
    session.helo("x")
    session.mail("<>")
    session.rcpt("<b>")
    with pytest.raises(MilterError, match="connection lost at body"):
        session.body("")  # which libmilter takes for an end of the connection
    with pytest.raises(MilterError, match="no connection"), Milter(f"unix:{tmp_path}/s") as other:
        other.session()
