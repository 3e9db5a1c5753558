"""docs/screening.md has a row for each of Postfix's parameters, and names tests that there are."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests import named
from tests.peers.process import program

_ROW = re.compile(r"^\| (.+?) \| (same|differs|not) \| (.*?) ?\| (.+?) \|$", re.MULTILINE)
PAGE = (named.TOP / "docs" / "screening.md").read_text()
ROWS = _ROW.findall(PAGE)


def test_no_parameter_of_debians_postfix_is_missing() -> None:
    told = {name for row in ROWS for name in re.findall(r"`([^`]+)`", row[0])}
    done = subprocess.run(
        [program("postconf", "postfix"), "-d"], capture_output=True, check=True, text=True
    )
    names = {line.partition(" ")[0] for line in done.stdout.splitlines()}
    theirs = {each for each in names if each.startswith(("postscreen_", "dnsblog_"))}
    assert len(theirs) > 40
    assert theirs - told == set()


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:40] for row in ROWS])
def test_a_row_names_tests_that_there_are(row: tuple[str, str, str, str]) -> None:
    if row[1] == "not" and row[3] == "-":
        assert row[2], "what is not done has its reason"
        return
    named.check(row[3])
