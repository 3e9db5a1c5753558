"""Tests that documents name, as `tests/room/test_file.py::test_what`."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

TOP = Path(__file__).parents[1]
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def check(cell: str) -> None:
    """A cell of a table names tests, one at least, which there are, and nothing else."""
    named = _TEST.findall(cell)
    assert named, f"no test: {cell}"
    assert _TEST.sub("", cell).strip(" ,") == "", "only tests stand there"
    for file, test in named:
        assert test in _tests(file), f"{file} has no {test}"


@functools.cache
def _tests(file: str) -> set[str]:
    tree = ast.parse((TOP / file).read_text())
    return {each.name for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)}
