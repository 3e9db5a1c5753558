"""tcp: tables, beside Debian's postmap where a reply has a meaning."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpgw.tables.catalogue import open_table
from smtpgw.tables.context import Context
from smtpgw.tables.table import TableError
from smtpgw.tables.tcp import quoted, unquoted
from tests.queue.support import run
from tests.tables.databases import Postmap, ours
from tests.tables.scripted import scripted

pytestmark = pytest.mark.xdist_group("databases")

FOUND = [
    (b"200 ok", b"ok"), (b"200 ", b""), (b"200 a%20b%2525", b"a b%25"), (b"200 a b ", b"a b "),
    (b"200\ttab", b"tab"), (b"200 x\r", b"x\r"), (b"201 x", b"x"), (b"500 no", None),
    (b"501 no", None), (b"200 " + b"x" * 4091, b"x" * 4091), (b"200 x%00y", b"x"),
    (b"200 gr%c3%BC%c3%9fe", "grüße".encode()),
]  # fmt: skip
FAILED = [
    b"200", b"500", b"400 later", b"499 later", b"200 a%2", b"200 a%zz", b"500 %zz", b"hello", b"",
    b"2000 x", b" 200 x", b"20 x", b"200x", b"300 x", b"200 " + b"x" * 4092, b"200 %ff",
]  # fmt: skip


@pytest.mark.parametrize(("reply", "value"), FOUND)
def test_replies_that_answer(reply: bytes, value: bytes | None, postmap: Postmap) -> None:
    with scripted(lambda _: reply + b"\n") as server:
        spec = f"tcp:127.0.0.1:{server.port}"
        keys = ["Ü b%@Example.net".encode()]
        expected = {} if value is None else {keys[0]: value}
        assert run(ours(spec, keys)) == (expected, {})
        assert postmap.find(spec, keys)[0] == expected
        assert server.asked[0] == b"get %C3%9C%20b%25@Example.net\n"
        assert server.asked[1] == server.asked[0]


@pytest.mark.parametrize("reply", FAILED)
def test_replies_that_are_no_answer(reply: bytes) -> None:
    with scripted(lambda _: reply + b"\n") as server:
        found, failed = run(ours(f"tcp:127.0.0.1:{server.port}", [b"k"], Context(query_limit=2)))
        assert (found, set(failed)) == ({}, {b"k"})


def test_postmap_fails_for_some_of_them_too(postmap: Postmap) -> None:
    with scripted(lambda _: b"500 %zz\n") as server:
        assert postmap.find(f"tcp:127.0.0.1:{server.port}", [b"k"])[1]


def test_a_line_too_many_is_never_the_answer_to_the_next_question() -> None:
    with scripted(lambda _: b"200 x\n200 y\n") as server:
        found, _ = run(ours(f"tcp:127.0.0.1:{server.port}", [b"a", b"b", b"c"]))
        assert b"y" not in found.values()


def test_a_line_that_does_not_end_is_no_answer() -> None:
    with scripted(lambda _: b"200 x") as server:
        assert run(ours(f"tcp:127.0.0.1:{server.port}", [b"a"], Context(query_limit=0.3)))[1]


@pytest.mark.parametrize("name", ["host", "host:", "host:0", "host:99999", "host:smtp:"])
def test_a_name_that_cannot_be_used_says_what_is_expected(name: str) -> None:
    with pytest.raises(TableError, match="expected host:port"):
        open_table(f"tcp:{name}", Context())


@given(st.binary(max_size=60))
def test_what_is_quoted_comes_back(octets: bytes) -> None:
    text = quoted(octets)
    assert unquoted(text) == octets
    assert not set(text) & set(b" \t\r\n")
    assert text.isascii()


@given(st.binary(max_size=20))
def test_any_text_is_read_or_refused(octets: bytes) -> None:
    try:
        unquoted(octets)
    except ValueError:
        assert b"%" in octets
