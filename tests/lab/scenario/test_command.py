"""`milterlab run`: which scenarios, what is printed and written, and the exit status."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from milterd.lab import status
from milterd.lab.cli import app
from milterd.lab.scenario import report
from milterd.lab.scenario.run import Exchange, Failure, Outcome
from tests.peers.process import answers, directory
from tests.wire.programs import pymilter

GOOD = "connect x\nhelo x\n"
BAD = "connect x\nexpect reject\n"


@pytest.fixture(scope="module")
def peer() -> Iterator[str]:
    with pymilter() as (path, _):
        yield f"unix:{path}"


def run(*words: str | Path) -> Result:
    return CliRunner().invoke(app, ["run", *map(str, words)])


def written(home: Path, **scenarios: str) -> Path:
    for name, text in scenarios.items():
        path = home / f"{name.replace('_', '/')}.milter"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return home


def test_what_is_printed(peer: str, tmp_path: Path) -> None:
    written(tmp_path, a=GOOD, b_c=BAD)
    (tmp_path / "other.txt").write_text("nothing")
    done = run(tmp_path, "--socket", peer)
    assert done.exit_code == status.BAD
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        f"ok       {tmp_path}/a.milter",
        f"FAILED   {tmp_path}/b/c.milter",
        f"  {tmp_path}/b/c.milter:2: connect x: expected reject, found continue",
    ]
    assert lines[3].startswith("2 scenarios: 1 passed, 1 failed, in ")
    assert run(tmp_path, "--socket", peer, "-k", "a.m").exit_code == status.GOOD
    talk = run(tmp_path / "b", "--socket", peer, "--verbose").stdout
    assert "     1  connect x\n          -> continue\n" in talk


def test_for_programs(peer: str, tmp_path: Path) -> None:
    written(tmp_path, a=GOOD, b=BAD, c="expekt\n")
    out = tmp_path / "out.xml"
    done = run(tmp_path, "--socket", peer, "--json", "--junit", out)
    assert done.exit_code == status.USAGE
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [each["passed"] for each in found] == [True, False, False]
    assert found[1]["failures"] == [
        {"line": 2, "text": "connect x: expected reject, found continue"}
    ]
    suite = ElementTree.parse(out).getroot()[0]
    assert {each: suite.get(each) for each in ("tests", "failures", "errors")} == {
        "tests": "3",
        "failures": "1",
        "errors": "1",
    }
    cases = list(suite)
    assert [len(each) for each in cases] == [0, 2, 2]
    assert cases[1][0].text == f"{tmp_path}/b.milter:2: connect x: expected reject, found continue"
    assert cases[1][0].tag == "failure"
    assert cases[2][0].tag == "error"


@given(st.text(max_size=30), st.text(min_size=1, max_size=30))
def test_junit_can_carry_anything(name: str, text: str) -> None:
    failures, exchanges = (Failure(3, text),), (Exchange(3, text, (), text),)
    odd = Outcome(name, status.BAD, failures, exchanges)
    case = ElementTree.fromstring(report.junit([odd, odd]).encode("utf-8"))[0][0]
    assert case.get("name", "").isprintable()
    assert (case[0].text or "").startswith(f"{case.get('name')}:3: ")
    if text.isprintable() and text.isascii():
        assert case[0].text == f"{case.get('name')}:3: {text}"


def test_what_is_wrong_with_the_command(peer: str, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run(empty).exit_code == status.USAGE
    written(tmp_path, a=GOOD)
    for words in (["--set", "x"], ["--set", "=x"], ["-k", "nothing"]):
        done = run(tmp_path, *words)
        assert done.exit_code == status.USAGE
        assert not done.stdout
    missing = run(tmp_path / "none.milter", "--socket", peer)
    assert missing.exit_code == status.USAGE
    assert "none.milter:1: cannot be read: No such file or directory" in missing.stdout
    nowhere = run(tmp_path / "a.milter")
    assert nowhere.exit_code == status.USAGE
    assert "no address: give a socket line, or --socket" in nowhere.stdout
    unwritable = run(tmp_path / "a.milter", "--socket", peer, "--junit", empty)
    assert unwritable.exit_code == status.USAGE
    assert "cannot write" in unwritable.output


def test_names_and_values_from_outside(peer: str, tmp_path: Path) -> None:
    path = tmp_path / "odd\x1b[31m\n.milter"
    path.write_text("socket ${S}\nhelo ${missing}\n")
    done = run(path, "--set", f"S={peer}")
    assert "\x1b" not in done.stdout
    assert r"odd\x1b[31m\n.milter:2: ${missing} has no value" in done.stdout
    path.write_text("socket ${S}\nconnect ${name}\n")
    assert run(path, "--set", f"S={peer}", "--set", "name=a b").exit_code == status.GOOD


def test_the_worst_counts(tmp_path: Path, peer: str) -> None:
    written(tmp_path, a=BAD, b=f"socket unix:{tmp_path}/none\nconnect x\n")
    assert run(tmp_path / "b.milter").exit_code == status.GONE
    assert run(tmp_path).exit_code == status.GONE
    written(tmp_path, c=f"socket {peer}\nwithin 0.1\nraw 00000002\nexpect continue\n")
    assert run(tmp_path / "c.milter").exit_code == status.SILENT


def test_a_milter_that_the_scenario_starts(peer: str) -> None:
    program = Path(__file__).parents[2] / "wire" / "pymilter_peer.py"
    with directory("start") as home:
        started = f'start "{sys.executable}" "{program}" {home}/s {home}/log'
        written(
            home,
            a=f"socket unix:{home}/s\n{started}\n{GOOD}",
            b=f'socket unix:{home}/none\nstart sh -c "echo away >&2; exit 3"\n{GOOD}',
            c=f"socket unix:{home}/none\nstart /no/such/program\n{GOOD}",
        )
        good = run(home / "a.milter", "-v")
        assert good.exit_code == status.GOOD, good.stdout
        assert "helo x\n" in (home / "log").read_text()
        assert not answers(home / "s")
        ended = run(home / "b.milter")
        assert ended.exit_code == status.GONE
        assert "sh ended with 3; it printed: away" in ended.stdout
        missing = run(home / "c.milter")
        assert missing.exit_code == status.GONE
        assert "cannot start /no/such/program: No such file" in missing.stdout
        elsewhere = run(home / "c.milter", "--socket", peer)
        assert elsewhere.exit_code == status.GOOD
