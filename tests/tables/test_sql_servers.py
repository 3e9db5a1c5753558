"""Databases that are killed, that hang, that refuse: an answer is right, or there is none."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
import uvloop

from smtpgw.tables.catalogue import open_table
from smtpgw.tables.context import Context
from smtpgw.tables.table import Found, Table, Unavailable
from tests.peers.mariadb import MariaDb
from tests.peers.postgresql import PostgreSql
from tests.queue.support import run, until
from tests.tables.databases import (
    DATABASE,
    USER,
    Database,
    Failures,
    Postmap,
    compare,
    ours,
)

pytestmark = pytest.mark.xdist_group("databases")

QUERY = "query = SELECT goto FROM alias WHERE address = '%s' ORDER BY number\n"
EXPECTED = {
    b"user@example.net": b"box@example.org,second@example.org",
    b"o'brien@example.net": b"o'brien@example.org",
    b"missing@example.net": None,
    b"5": b"five",
}


def values(found: Found | None) -> bytes | None:
    return found.value if found else None


@dataclass
class Load:
    """Tasks that ask without end, and what became of it."""

    table: Table
    seen: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[bytes, bytes | None]] = field(default_factory=list)
    stopping: bool = False

    async def ask(self, seed: int) -> None:
        chosen = random.Random(seed)
        while not self.stopping:
            key = chosen.choice(list(EXPECTED))
            try:
                answer = values(await self.table.find(key))
            except Unavailable:
                self.seen["unavailable"] += 1
                await asyncio.sleep(0.01)
                continue
            self.seen["answer"] += 1
            if answer != EXPECTED[key]:
                self.wrong.append((key, answer))

    async def more(self, what: str) -> None:
        """Until there is more of it."""
        before = self.seen[what]
        await until(lambda: self.seen[what] >= before + 50, 60)


async def nobody_left(server: MariaDb | PostgreSql, user: str = USER) -> None:
    """Wait for the server to notice that the connections of an earlier test are closed."""
    await until(lambda: server.connections(user) == 0, 60)


async def _killed_under_load(
    spec: str, server: MariaDb | PostgreSql, user: str, most: int = 4
) -> Counter[str]:
    await nobody_left(server, user)
    table = open_table(spec, Context(connections=most, connect_limit=5, query_limit=10))
    load = Load(table)
    tasks = [asyncio.create_task(load.ask(seed)) for seed in range(12)]
    for _ in range(2):
        await load.more("answer")
        assert await asyncio.to_thread(server.connections, user) <= most
        await asyncio.to_thread(server.kill)
        await load.more("unavailable")
        await asyncio.to_thread(server.start)
        await load.more("answer")
    load.stopping = True
    await asyncio.gather(*tasks)
    held = await asyncio.to_thread(server.connections, user)
    assert 0 < held <= most
    await table.close()
    await nobody_left(server, user)
    assert not load.wrong
    return load.seen


@pytest.mark.parametrize("kind", ["mysql", "pgsql"])
def test_killed_and_started_again_under_load(kind: str, request: pytest.FixtureRequest) -> None:
    """Unavailable meanwhile, never a wrong answer, never a connection that stays."""
    database: Database = request.getfixturevalue(kind)
    server = request.getfixturevalue("mariadb_server" if kind == "mysql" else "postgresql_server")
    spec = database.cf(f"{QUERY}retry_interval = 1\n", f"killed-{kind}.cf")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        seen = runner.run(asyncio.wait_for(_killed_under_load(spec, server, USER), 100))
    assert seen["answer"] >= 200
    assert seen["unavailable"] >= 100


SLOW = {
    "mysql": "query = SELECT SLEEP(3), goto FROM alias WHERE address = '%s'\n",
    "pgsql": "query = SELECT pg_sleep(3)::text, goto FROM alias WHERE address = '%s'\n",
}


@pytest.mark.parametrize("kind", SLOW)
def test_a_slow_answer_is_none_and_its_connection_is_not_used_again(
    kind: str, request: pytest.FixtureRequest
) -> None:
    database: Database = request.getfixturevalue(kind)
    spec = database.cf(SLOW[kind])

    async def ask() -> None:
        table = open_table(spec, Context(query_limit=0.5))
        with pytest.raises(Unavailable, match="no answer within"):
            await table.find(b"5")
        await table.close()

    run(ask())


@pytest.mark.parametrize("kind", SLOW)
def test_who_stops_waiting_leaves_no_answer_for_the_next_one(
    kind: str, request: pytest.FixtureRequest
) -> None:
    """One connection only: what is cut off in mid-answer must not be read by another question."""
    database: Database = request.getfixturevalue(kind)
    sleep = "SLEEP(0.2)" if kind == "mysql" else "pg_sleep(0.2)"
    spec = database.cf(
        f"query = SELECT goto FROM (SELECT {sleep}) AS slow, alias WHERE address = '%s'\n"
        "  ORDER BY number\n"
    )

    async def ask() -> None:
        table = open_table(spec, Context(connections=1))
        for pause in (0.01, 0.1):
            left = asyncio.create_task(table.find(b"user@example.net"))
            await asyncio.sleep(pause)
            left.cancel()
            await asyncio.gather(left, return_exceptions=True)
            assert values(await table.find(b"5")) == b"five"
        await table.close()

    run(ask())


def test_a_server_that_hangs_is_left_alone_and_then_asked_again(
    mariadb_server: MariaDb, mysql: Database
) -> None:
    spec = mysql.cf(f"{QUERY}retry_interval = 1\n")
    now = [0.0]

    async def ask() -> None:
        table = open_table(spec, Context(query_limit=2, clock=lambda: now[0]))
        assert values(await table.find(b"5")) == b"five"
        assert mariadb_server.peer is not None
        mariadb_server.peer.pause()
        try:
            for reason in ("no answer", "a moment ago"):
                with pytest.raises(Unavailable, match=reason):
                    await table.find(b"5")
        finally:
            mariadb_server.peer.resume()
        now[0] += 2
        assert values(await table.find(b"5")) == b"five"
        await table.close()

    run(ask(), 60)


@pytest.mark.parametrize("kind", ["mysql", "pgsql"])
def test_another_host_answers(kind: str, request: pytest.FixtureRequest) -> None:
    database: Database = request.getfixturevalue(kind)
    server = request.getfixturevalue("mariadb_server" if kind == "mysql" else "postgresql_server")
    _, _, rest = database.settings.partition("\n")
    hosts = f"hosts = unix:/nowhere, 127.0.0.1:1\n  inet:127.0.0.1:{server.port}\n"
    spec = database.cf(QUERY, settings=hosts + rest)
    for seed in range(5):
        context = Context(random=random.Random(seed))
        assert run(ours(spec, list(EXPECTED), context))[1] == {}


@pytest.mark.parametrize("kind", ["mysql", "pgsql", "sqlite"])
def test_a_refused_question_costs_no_connection(
    kind: str, request: pytest.FixtureRequest, postmap: Postmap
) -> None:
    database: Database = request.getfixturevalue(kind)
    server = request.getfixturevalue("mariadb_server" if kind == "mysql" else "postgresql_server")
    spec = database.cf("query = SELECT nothing FROM alias WHERE address = '%s'\n")

    async def ask() -> None:
        if kind != "sqlite":
            await nobody_left(server)
        table = open_table(spec, Context())
        for _ in range(3):
            with pytest.raises(Unavailable, match="nothing"):
                await table.find(b"5")
        if kind != "sqlite":
            assert await asyncio.to_thread(server.connections, USER) == 1
        await table.close()

    run(ask())
    assert postmap.find(spec, [b"5"])[1]


def test_stored_procedures_answer_as_in_postfix(
    mariadb_server: MariaDb, mysql: Database, postmap: Postmap
) -> None:
    mariadb_server.sql(
        "DELIMITER //\n"
        "CREATE PROCEDURE one(IN a VARCHAR(250)) BEGIN\n"
        "  SELECT goto FROM alias WHERE address = a ORDER BY number; END//\n"
        "CREATE PROCEDURE none(IN a VARCHAR(250)) BEGIN SET @x = a; END//\n"
        "CREATE PROCEDURE two(IN a VARCHAR(250)) BEGIN SELECT 1; SELECT 2; END//\n",
        DATABASE,
    )
    failures = Failures(postmap)
    for name in ("one", "none", "two"):
        for strict in ("yes", "no"):
            spec = mysql.cf(
                f"query = CALL {name}('%s')\nrequire_result_set = {strict}\n",
                f"call-{name}-{strict}.cf",
            )
            run(compare(spec, list(EXPECTED), postmap, failures))
    failures.check()
    assert run(ours(mysql.cf("query = CALL one('%s')\n"), [b"5"])) == ({b"5": b"five"}, {})


def test_columns_of_every_kind_come_as_the_server_writes_them(
    postgresql_server: PostgreSql, pgsql: Database, postmap: Postmap
) -> None:
    postgresql_server.sql(
        "CREATE TABLE kinds (k VARCHAR(20), i INT, b BOOL, f FLOAT8, n NUMERIC(9,3), t TIMESTAMPTZ,"
        " a TEXT[], r INT4RANGE, o OID, c CHAR(5), j JSONB, u UUID, x INET, y BYTEA);"
        "INSERT INTO kinds VALUES ('k', -5, true, 1e100, 7.5, '2026-01-02 03:04:05+00',"
        " '{a,\"b c\",NULL}', '[1,5)', 7, 'ab', '{\"a\": [1]}',"
        " '11111111-2222-3333-4444-555555555555', '10.0.0.1/8', 'x');"
        "INSERT INTO kinds (k) VALUES ('null');"
        f"GRANT SELECT ON kinds TO {USER}",
        DATABASE,
    )
    keys = [
        b"k",
        b"null",
        b"-5",
        b"t",
        b"10.0.0.1/8",
        b"{k}",
        b"[1,5)",
        b"11111111-2222-3333-4444-555555555555",
    ]
    failures = Failures(postmap)
    for number, condition in enumerate(
        (
            "k = '%s'",
            "i = '%s'",
            "b = '%s'",
            "x = '%s'",
            "u = '%s'",
            "i IS NULL AND k = '%s'",
            "k = concat('%s', '')",
            "k = any('%s'::text[])",
            "k = '%s' AND '$1' <> ''",
            "a @> string_to_array('%s', ',') OR r = '%s'",
        )
    ):
        query = f"query = SELECT * FROM kinds WHERE {condition}\n"
        spec = pgsql.cf(query, f"kinds-{number}.cf")
        run(compare(spec, keys, postmap, failures))
    failures.check()


def test_postgresql_is_asked_in_utf_8(postgresql_server: PostgreSql, pgsql: Database) -> None:
    postgresql_server.sql(
        "INSERT INTO alias VALUES ('ü@example.net', '日本@example.org', 1, 'ü', 'example.net')",
        DATABASE,
    )
    key = "Ü@example.net".encode()
    try:
        found, _ = run(ours(pgsql.cf(QUERY), [key, b"\xfc@example.net"]))
    finally:
        postgresql_server.sql("DELETE FROM alias WHERE local = 'ü'", DATABASE)
    assert found == {key: "日本@example.org".encode()}


def test_a_changed_schema_is_noticed(postgresql_server: PostgreSql, pgsql: Database) -> None:
    postgresql_server.sql(
        "CREATE TABLE changing (k TEXT, v INT); INSERT INTO changing VALUES ('k', 1);"
        f"GRANT SELECT ON changing TO {USER}",
        DATABASE,
    )
    spec = pgsql.cf("query = SELECT v FROM changing WHERE k = '%s'\n")

    async def ask() -> None:
        table = open_table(spec, Context())
        assert values(await table.find(b"k")) == b"1"
        postgresql_server.sql("ALTER TABLE changing ALTER v TYPE TEXT USING v || 'x'", DATABASE)
        assert values(await table.find(b"k")) == b"1x"
        await table.close()

    run(ask())


def test_new_rows_are_seen_on_a_kept_connection(mariadb_server: MariaDb, mysql: Database) -> None:
    spec = mysql.cf(QUERY)

    async def ask() -> None:
        table = open_table(spec, Context())
        assert await table.find(b"later@example.net") is None
        mariadb_server.sql(
            "INSERT INTO alias (address, goto) VALUES ('later@example.net', 'x')", DATABASE
        )
        assert values(await table.find(b"later@example.net")) == b"x"
        await table.close()

    run(ask())
    mariadb_server.sql("DELETE FROM alias WHERE address = 'later@example.net'", DATABASE)


def test_answers_are_kept_for_their_time(mariadb_server: MariaDb, mysql: Database) -> None:
    now = [0.0]
    context = Context(clock=lambda: now[0], cache_size=2, cache_time=60, cache_missing_time=10)
    table: Table

    async def ask() -> None:
        nonlocal table
        table = open_table(mysql.cf(QUERY), context)
        kept = b"kept@example.net"

        async def says(expected: bytes | None) -> None:
            assert values(await table.find(kept)) == expected

        await says(None)
        mariadb_server.sql(
            "INSERT INTO alias (address, goto) VALUES ('kept@example.net', 'x')", DATABASE
        )
        await says(None)
        now[0] += 11
        await says(b"x")
        mariadb_server.sql("DELETE FROM alias WHERE address = 'kept@example.net'", DATABASE)
        now[0] += 59
        await says(b"x")
        for other in (b"a@x", b"b@x"):  # there is room for two
            await table.find(other)
        await says(None)
        await table.close()

    run(ask())
