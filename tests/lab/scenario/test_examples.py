"""The examples of docs/lab/scenarios.md do what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from milterd.lab.scenario import steps as s
from milterd.lab.scenario.parse import WORDS
from milterd.wire import messages as m
from milterd.wire.constants import Actions
from milterd.wire.milter import MilterConnection
from tests.lab.scenario.play import play, told
from tests.peers.process import directory
from tests.wire.programs import served

PAGE = (Path(__file__).parents[3] / "docs/lab/scenarios.md").read_text()


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


def test_every_word_is_on_the_page() -> None:
    words = [*WORDS, *s.ANSWERS, *s.EDITS, *s.STAGES, "nothing", "no answer", "progress", "silence"]
    words += ["no other edit", "no violation", "close", "broken", "version", "macros", "actions"]
    for each in words:
        assert re.search(rf"`[^`\n]*(?<![\w-]){re.escape(each)}(?![\w-])[^`\n]*`", PAGE), each
