"""socketmap: tables, beside Debian's postmap where a reply has a meaning."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpgw.tables.catalogue import open_table
from smtpgw.tables.context import Context
from smtpgw.tables.servers import Lost, Server
from smtpgw.tables.socketmap import LONGEST, measure, netstring
from smtpgw.tables.streams import connect
from smtpgw.tables.table import TableError, Unavailable
from tests.queue.support import run, until
from tests.tables.databases import Postmap, ours
from tests.tables.scripted import scripted

pytestmark = pytest.mark.xdist_group("databases")

QUICK = Context(query_limit=1)
FOUND = [
    (b"OK x", b"x"), (b"OK ", b""), (b"OK  two  words ", b" two  words "),
    (b"NOTFOUND ", None), (b"NOTFOUND", None), (b"NOTFOUND x", None),
    (b"OK " + b"x" * (LONGEST - 3), b"x" * (LONGEST - 3)), (b"OK x\0y", b"x"),
    ("OK grüße".encode(), "grüße".encode()),
]  # fmt: skip
FAILED = [
    b"TEMP later", b"TEMP", b"TIMEOUT", b"PERM no", b"ok x", b"hello", b"", b"OK\tx",
    b"OK " + b"x" * (LONGEST - 2), b"OK \xff",
]  # fmt: skip
GARBAGE = [
    b"4:OK x;", b"4:OK xy,", b"x:OK x,", b":,", b"-1:,", b" 4:OK x,", b"99999999999:OK x,", b"\n",
    b"4 :OK x,",
]  # fmt: skip


@pytest.mark.parametrize(("reply", "value"), FOUND)
def test_replies_that_answer(reply: bytes, value: bytes | None, postmap: Postmap) -> None:
    with scripted(lambda _: netstring(reply)) as server:
        spec = f"socketmap:inet:127.0.0.1:{server.port}:a name"
        key = b"User@Example.net"
        expected = {} if value is None else {key: value}
        assert run(ours(spec, [key])) == (expected, {})
        assert postmap.find(spec, [key])[0] == expected
        assert server.asked == [netstring(b"a name User@Example.net")] * 2


@pytest.mark.parametrize("reply", [netstring(each) for each in FAILED] + GARBAGE)
def test_replies_that_are_no_answer(reply: bytes) -> None:
    with scripted(lambda _: reply) as server:
        spec = f"socketmap:inet:127.0.0.1:{server.port}:name"
        found, failed = run(ours(spec, [b"k"], QUICK))
        assert (found, set(failed)) == ({}, {b"k"})


def test_postmap_fails_for_some_of_them_too(postmap: Postmap) -> None:
    with scripted(lambda _: GARBAGE[0]) as server:
        assert postmap.find(f"socketmap:inet:127.0.0.1:{server.port}:name", [b"k"])[1]


@pytest.mark.parametrize("reply", [b"", b"4:OK", b"100:OK x,"])
def test_a_reply_that_does_not_end_is_no_answer(reply: bytes) -> None:
    for hang_up in (False, True):
        with scripted(lambda _, up=hang_up: None if up else reply) as server:
            spec = f"socketmap:inet:127.0.0.1:{server.port}:name"
            assert run(ours(spec, [b"k"], Context(query_limit=0.3)))[1]


@pytest.mark.parametrize("extra", [b"4:OK y,", b"9:NOTFOUND ,", b"x"])
def test_more_than_one_reply_is_no_answer(extra: bytes) -> None:
    with scripted(lambda _: b"4:OK x," + extra) as server:
        spec = f"socketmap:inet:127.0.0.1:{server.port}:name"
        found, _ = run(ours(spec, [b"a", b"b", b"c"], QUICK))
        assert found == {}


def test_what_nobody_asked_for_is_not_the_answer_to_the_next_question() -> None:
    async def ask() -> None:
        with scripted(lambda _: b"4:OK x,") as server:
            stream = await connect(Server("", "127.0.0.1", server.port), 100)
            assert await stream.ask(b"1:a,", measure) == b"4:OK x,"
            server.connections[0].sendall(b"4:OK y,")
            await until(lambda: stream.unasked)
            with pytest.raises(Lost, match="without being asked"):
                await stream.ask(b"1:b,", measure)
            stream.drop()

    run(ask())


def test_who_stops_waiting_leaves_no_answer_for_the_next_one() -> None:
    held = []

    def answer(octets: bytes) -> bytes:
        held.append(octets)
        return b"" if len(held) == 1 else netstring(b"OK " + held[-1])

    async def ask() -> None:
        with scripted(answer) as server:
            table = open_table(f"socketmap:inet:127.0.0.1:{server.port}:n", Context(connections=1))
            first = asyncio.create_task(table.find(b"first"))
            await until(lambda: held)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            found = await table.find(b"second")
            assert found is not None
            assert found.value == netstring(b"n second")
            assert server.opened == 2  # on the first one the reply to the first may still come
            await table.close()

    run(ask())


def test_a_connection_is_kept_and_a_dead_one_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"

    async def ask() -> None:
        table = open_table(f"socketmap:unix:{path}:name", Context())
        with scripted(lambda _: b"4:OK x,", path) as server:
            for _ in range(5):
                assert await table.find(b"k")
            assert server.opened == 1
            server.answer = lambda _: None
            with pytest.raises(Unavailable):
                await table.find(b"k")
            server.answer = lambda _: b"4:OK y,"
            found = await table.find(b"k")
            assert found is not None
            assert found.value == b"y"
        await table.close()

    run(ask())


def test_a_server_that_is_not_there_is_asked_again_later(tmp_path: Path) -> None:
    path, now = tmp_path / "s", [0.0]

    async def ask() -> None:
        table = open_table(f"socketmap:unix:{path}:name", Context(clock=lambda: now[0]))
        with pytest.raises(Unavailable, match="No such file"):
            await table.find(b"k")
        with scripted(lambda _: b"4:OK x,", path):
            with pytest.raises(Unavailable, match="a moment ago"):
                await table.find(b"k")
            now[0] += 1.1
            assert await table.find(b"k")
        await table.close()

    run(ask())


def test_connections_have_a_bound(tmp_path: Path) -> None:
    async def ask() -> None:
        with scripted(lambda _: b"4:OK x,", tmp_path / "s") as server:
            table = open_table(f"socketmap:unix:{tmp_path}/s:name", Context(connections=3))
            answers = await asyncio.gather(*(table.find(b"%d" % each) for each in range(50)))
            assert all(each and each.value == b"x" for each in answers)
            assert server.opened <= 3
            await table.close()
            await until(lambda: len(server.asked) == 50)

    run(ask())


@pytest.mark.parametrize(
    "name", ["", "x", "inet:host:port:name", "inet:host:name", "unix:/s", "tcp:h:1:n", "unix::n"]
)
def test_a_name_that_cannot_be_used_says_what_is_expected(name: str) -> None:
    with pytest.raises(TableError, match="expected"):
        open_table(f"socketmap:{name}", Context())


@given(st.binary(max_size=200), st.binary(max_size=20))
def test_a_netstring_is_measured_however_it_comes(octets: bytes, more: bytes) -> None:
    whole = netstring(octets)
    assert measure(whole + more) == len(whole)
    assert all(measure(whole[:end]) == 0 for end in range(len(whole)))


@given(st.binary(max_size=12))
def test_anything_else_is_refused_or_waited_for(octets: bytes) -> None:
    try:
        length = measure(octets)
    except Lost:
        return
    assert length == 0 or octets[length - 1 : length] == b","
