"""docs/faults.md names for each fault the tests that show what happens; here, that they exist."""

from __future__ import annotations

import re

import pytest

from tests import named

_ROW = re.compile(r"^\| ([A-K]\d\d) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)
ROWS = _ROW.findall((named.TOP / "docs" / "faults.md").read_text())


def test_every_fault_has_a_row() -> None:
    assert {name for name, *_ in ROWS} >= {f"F{number:02}" for number in range(1, 35)}


@pytest.mark.parametrize("row", ROWS, ids=[f"{row[0]} {row[1][:30]}" for row in ROWS])
def test_a_row_names_tests_that_there_are(row: tuple[str, str, str, str]) -> None:
    named.check(row[3])
