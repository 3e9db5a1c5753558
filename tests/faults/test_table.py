"""docs/faults.md names for each fault the tests that show what happens; here, that they exist."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
_ROW = re.compile(r"^\| ([A-K]\d\d) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
ROWS = _ROW.findall((TOP / "docs" / "faults.md").read_text())


def test_every_fault_has_a_row() -> None:
    assert {name for name, *_ in ROWS} >= {f"F{number:02}" for number in range(1, 35)}


@pytest.mark.parametrize("row", ROWS, ids=[f"{row[0]} {row[1][:30]}" for row in ROWS])
def test_a_row_names_tests_that_there_are(row: tuple[str, str, str, str]) -> None:
    named = _TEST.findall(row[3])
    assert named
    assert _TEST.sub("", row[3]).strip(" ,") == "", "only tests stand there"
    for file, test in named:
        assert test in _tests(file), f"{file} has no {test}"


@functools.cache
def _tests(file: str) -> set[str]:
    tree = ast.parse((TOP / file).read_text())
    return {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)}
