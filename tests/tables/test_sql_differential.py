"""SQL tables beside Debian's postmap with the same .cf files: same answers, same errors."""

from __future__ import annotations

import random

import pytest

from tests.queue.support import run
from tests.tables.databases import KEYS, TABLES, Database, Failures, Postmap, compare

pytestmark = pytest.mark.xdist_group("databases")

COLUMNS = ("goto", "goto", "number", "goto, number", "NULL, goto", "'OK'", "local, domain")
CONDITIONS = (
    "address = '%s'",
    "address = '%S' AND goto <> 'it''s 100%%'",
    "address = '%u@%d'",
    "address LIKE '%%@%d'",
    "address LIKE '%u%%' AND domain <> ''",
    "local = '%U' AND domain = '%D'",
    "domain = '%2.%1'",
    "domain = '%3.%2.%1' -- the third",
    "address IN ('%s', '@%d')",
    "address = '%s' OR address = '%u'",
    "number = '%u'",
    "number = %u",
    "number = %s AND /* a comment: 100%% */ 1 = 1",
    "'%s' = address",
    "address = concat('%u', '@', '%d')",
    "lower('%s') = address AND 7 %% 4 = 3",
)
OF_ONE = {
    "mysql": (
        'address = "%s"',
        'address = "%u@%d" AND `goto` <> "a\\"b"',
        "address = '%u\\@%d' # a comment",
        "address LIKE '%u\\%%%d'",
        "number + 0 = '%s'",
        "MATCH address",
    ),
    "pgsql": (
        "address = any(string_to_array('%s', ','))",
        "number::text = '%s'",
        "no_such_column = '%s'",
    ),
    "sqlite": (  # not "%s", where Postfix doubles the wrong quote of a key
        "address = '%u' || '@%d'",
        "address GLOB '%u*'",
        "number + 0 = '%s'",
        "[address] = '%s'",
    ),
}
FORMATS = ("%s", "%u@x", "smtp:[%d]", "%S=%s", "%U+%u@%D", "%%%s", "%1.%2 %s", "%D", "%S")
DOMAINS = ("example.net", "Example.NET, example.com", "!sub.example.net sub.example.net")


def _settings(chosen: random.Random, kind: str) -> str:
    conditions = (*CONDITIONS, *OF_ONE[kind])
    if kind == "sqlite":  # of Debian 12: it has no concat()
        conditions = tuple(each for each in conditions if "concat" not in each)
    condition = chosen.choice(conditions)
    if chosen.random() < 0.1:
        lines = [
            "select_field = goto", "table = alias", "where_field = address",
            "additional_conditions = AND number < 100\n  ORDER BY goto",
        ]  # fmt: skip
    else:
        bare, comment, rest = condition, "", ""
        for mark in (" -- ", " # "):
            if mark in condition:
                bare, comment, rest = condition.partition(mark)
        order = "" if comment else " ORDER BY number"
        lines = [
            f"query = SELECT {chosen.choice(COLUMNS)}",
            f"  FROM alias WHERE {bare}{comment}{rest}{order}",
        ]
    if chosen.random() < 0.5:
        lines.append(f"result_format = {chosen.choice(FORMATS)}")
    if chosen.random() < 0.3:
        lines.append(f"domain = {chosen.choice(DOMAINS)}")
    if chosen.random() < 0.3:
        lines.append(f"expansion_limit = {chosen.randrange(4)}")
    chosen.shuffle(lines[2:])
    return "\n".join(lines) + "\n"


@pytest.mark.timeout(120 + 2 * TABLES)
@pytest.mark.parametrize("kind", ["sqlite", "mysql", "pgsql"])
def test_generated_tables_answer_as_postfix(
    kind: str, postmap: Postmap, request: pytest.FixtureRequest
) -> None:
    database: Database = request.getfixturevalue(kind)
    keys = list(KEYS)
    if kind == "pgsql":
        # Postfix before 3.9 tells the server that it speaks Latin-1: a key in UTF-8 is another.
        keys = [key for key in keys if key.isascii()]
    failures = Failures(postmap)
    for number in range(TABLES):
        chosen = random.Random(f"{kind} {number}")
        spec = database.cf(_settings(chosen, kind), f"{kind}-{number}.cf")
        run(compare(spec, keys, postmap, failures), 60)
    failures.check()
