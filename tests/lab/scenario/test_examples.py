"""The examples of docs/lab/scenarios.md do what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from milterd.lab.scenario import steps as s
from milterd.lab.scenario.load import play_file
from milterd.lab.scenario.parse import WORDS
from milterd.wire import messages as m
from milterd.wire.constants import Actions
from milterd.wire.milter import MilterConnection
from tests.filters.clamd_peer import eicar
from tests.lab.scenario.play import play, told
from tests.peers.clamd import clamd
from tests.peers.process import directory
from tests.scenarios.halves import Halves
from tests.wire.programs import served

DOCS = Path(__file__).parents[3] / "docs/lab"
PAGE = (DOCS / "scenarios.md").read_text()
EXAMPLES = DOCS / "examples"


def example(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    return found[1]


def answer(event: m.CommandMessage) -> Sequence[m.Reply]:
    if isinstance(event, m.RcptTo) and event.address.startswith(b"<nobody@"):
        return [m.ReplyCode(b"550 5.1.1 <nobody@example.org>: No such user here")]
    if isinstance(event, m.EndOfMessage):
        return [m.AddHeaderReply(b"X-Checked", b"yes"), m.Continue()]
    return [m.Continue()]


@pytest.fixture
def milter() -> Iterator[str]:
    with served(lambda: MilterConnection(accept_actions=Actions.ALL), answer) as found:
        yield found.address


def test_the_scenario(milter: str) -> None:
    assert told(play(example(""), milter)) == []


def test_the_tests(milter: str) -> None:
    with directory("page") as home:
        (home / "test_page.py").write_text(example("python").replace("unix:/run/my.sock", milter))
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--color=no"]
        done = subprocess.run(command, cwd=home, capture_output=True, text=True, check=False)
        assert "2 passed" in done.stdout, done.stdout


@pytest.fixture(scope="module")
def filters() -> Iterator[Path]:
    """The sockets of our own filters."""
    with ExitStack() as stack:
        home, scanner = (stack.enter_context(directory(each)) for each in ("examples", "clamd"))
        stack.enter_context(clamd(scanner))
        halves = Halves(home, scanner / "clamd.sock", home / "filters")
        halves.write({"headers": 'authserv_id = "mx.example.net"'})
        stack.enter_context(halves.milterd())
        yield halves.sockets


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.milter")), ids=lambda each: each.stem)
def test_our_own_filters(path: Path, filters: Path) -> None:
    values = {"virus": eicar(), "scanned": b"clamav at mx.example.net"}
    outcome = play_file(path, values, socket=f"unix:{filters}/{path.stem}.sock")
    assert told(outcome) == []


def test_there_are_examples() -> None:
    assert {each.stem for each in EXAMPLES.iterdir()} == {"headers", "clamav", "dkim"}


def test_every_word_is_on_the_page() -> None:
    words = [*WORDS, *s.ANSWERS, *s.EDITS, *s.STAGES, "nothing", "no answer", "progress", "silence"]
    words += ["no other edit", "no violation", "close", "broken", "version", "macros", "actions"]
    for each in words:
        assert re.search(rf"`[^`\n]*(?<![\w-]){re.escape(each)}(?![\w-])[^`\n]*`", PAGE), each
