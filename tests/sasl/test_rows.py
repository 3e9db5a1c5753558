"""docs/auth.md has a row for each of Postfix's parameters about logins, with tests there are."""

from __future__ import annotations

import re

import pytest

from smtpgw.config.sasl import ServerSasl
from tests import named

PAGE = (named.TOP / "docs" / "auth.md").read_text()
ROWS = re.findall(r"^\| (`.+?) \| (same|differs|not) \| (.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
OURS = {"smtpd_sasl_auth_limit"}


def test_no_row_is_missing() -> None:
    told = {name for row in ROWS for name in re.findall(r"`([^`]+)`", row[0])}
    assert told >= set(ServerSasl.model_fields) - OURS
    assert all(f"`{name}`" in PAGE for name in OURS)


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:40] for row in ROWS])
def test_a_row_names_tests_that_there_are(row: tuple[str, str, str, str]) -> None:
    if row[1] != "not":
        named.check(row[3])
