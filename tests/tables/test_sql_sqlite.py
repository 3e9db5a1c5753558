"""sqlite: tables when the file is locked, slow, missing, replaced or no database."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

import pytest

from smtpgw.tables.catalogue import open_table
from smtpgw.tables.context import Context
from smtpgw.tables.table import TableError, Unavailable
from tests.queue.support import run
from tests.tables.databases import ours, sqlite_file

QUERY = "query = SELECT goto FROM alias WHERE address = '%s' ORDER BY number\n"
SLOW = (
    "query = WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)\n"
    "  SELECT count(*) FROM n WHERE '%s' = 'slow'\n"
)
KEY = b"5"


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return sqlite_file(tmp_path / "rows.db")


def spec(directory: Path, more: str = QUERY, path: str = "rows.db") -> str:
    (directory / "table.cf").write_text(f"dbpath = {directory / path}\n{more}")
    return f"sqlite:{directory / 'table.cf'}"


def test_a_locked_file_is_waited_for_and_then_no_answer(rows: Path) -> None:
    table = spec(rows.parent)
    writer = sqlite3.connect(rows, isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    _, failed = run(ours(table, [KEY], Context(query_limit=0.2)))
    writer.rollback()
    writer.close()
    assert "no answer within" in failed[KEY]
    assert run(ours(table, [KEY])) == ({KEY: b"five"}, {})


def test_a_slow_query_ends_and_the_next_one_is_answered(rows: Path) -> None:
    async def ask() -> None:
        table = open_table(spec(rows.parent, SLOW), Context(query_limit=0.2))
        begun = time.process_time()
        with pytest.raises(Unavailable, match="no answer within"):
            await table.find(b"slow")
        await table.close()
        assert time.process_time() - begun < 10

    run(ask())


def test_a_missing_file_is_no_answer_and_is_not_made(tmp_path: Path) -> None:
    _, failed = run(ours(spec(tmp_path), [KEY]))
    assert "No such file" in failed[KEY]
    assert not (tmp_path / "rows.db").exists()


def test_something_else_than_a_database_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "rows.db").write_bytes(b"no database" * 1000)
    assert run(ours(spec(tmp_path), [KEY]))[1]


def test_new_rows_and_a_new_file_are_seen(rows: Path) -> None:
    async def ask() -> None:
        table = open_table(spec(rows.parent), Context())
        found = await table.find(KEY)
        assert found is not None
        assert found.value == b"five"
        query = "SELECT goto FROM alias WHERE address = '%s' ORDER BY number"
        assert found.where == f"{rows.parent}/table.cf:2: {query}"
        for other, change in (
            (b"again", lambda path: path),
            (b"anew", lambda path: sqlite_file(path.with_name("new.db"))),
        ):
            path = change(rows)
            with sqlite3.connect(path) as database:
                database.execute("UPDATE alias SET goto = ? WHERE address = '5'", (other.decode(),))
            database.close()
            os.replace(path, rows)  # noqa: PTH105 - onto itself the first time
            found = await table.find(KEY)
            assert found is not None
            assert found.value == other
        await table.close()

    run(ask())


def test_the_file_cannot_be_written(rows: Path) -> None:
    """Not even by the postmaster's own query."""
    table = spec(rows.parent, "query = DELETE FROM alias WHERE address = '%s' RETURNING goto\n")
    assert "readonly" in run(ours(table, [KEY]))[1][KEY]
    assert run(ours(spec(rows.parent), [KEY]))[0]


def test_values_of_every_kind_are_texts(rows: Path) -> None:
    query = "query = SELECT %s FROM alias WHERE address = '%%s'\n"
    for value, text in (
        ("1", b"1"), ("0.1", b"0.1"), ("1e100", b"1.0e+100"), ("x'6100'", b"a"), ("NULL", None),
        ("''", None), ("'a' || char(0) || 'b'", b"a"),
    ):  # fmt: skip
        found, failed = run(ours(spec(rows.parent, query % value), [KEY]))
        assert (found.get(KEY), failed) == (text, {}), value


def test_keys_that_are_no_text_are_not_found(rows: Path) -> None:
    for smtputf8 in (True, False):
        keys = [b"\xff", b"5\0", b"", b"\xed\xa0\x80"]
        context = Context(smtputf8=smtputf8)
        assert run(ours(spec(rows.parent), keys, context)) == ({}, {})


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ("query = SELECT 1\n", 0, "a value for dbpath"),
        ("dbpath = x\nquery = SELECT a FROM t\n  WHERE %s_x = 1\n", 2, "between quotes"),
        ("dbpath = x\nquery = SELECT '%s'\nresult_format = %\n", 3, "%s and the like"),
        ("dbpath = x\nnonsense\n", 2, "name = value"),
        ("dbpath = x\ntable = t\nselect_field = a\n", 0, "query = SELECT"),
    ],
)
def test_a_definition_that_cannot_be_used_says_where(
    tmp_path: Path, text: str, line: int, expected: str
) -> None:
    (tmp_path / "table.cf").write_text(text)
    with pytest.raises(TableError, match=expected) as caught:
        open_table("sqlite:table.cf", Context(base=tmp_path))
    assert (caught.value.line, caught.value.file) == (line, str(tmp_path / "table.cf"))


def test_a_missing_definition_says_so(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="No such file"):
        open_table("sqlite:none.cf", Context(base=tmp_path))
