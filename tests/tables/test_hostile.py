"""Keys and patterns of people who mean harm, and results that are garbage."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milterd.patterns import perl, posix
from milterd.patterns.expression import BadPatternError
from milterd.patterns.rulefile import split_result
from smtpgw.tables import spec as specs
from smtpgw.tables.catalogue import open_maps
from smtpgw.tables.table import LocalTable, Table, TableError, Unavailable
from tests.tables import ours

KEYS = (
    b"", b"\0", b"k\0", b"k\0x", b"\n", b"k\nx", b"%s%n%d", b"'", b'"', b"\\", b"k' OR 1=1 --",
    b"k" * 10_240, b"\xff", b"\x80k", b"\xed\xa0\x80", b"$1", b"${", b"{", b"../../etc/passwd",
)  # fmt: skip
SPECS = (
    "hash:source", "texthash:source", "cidr:{{192.0.2.0/24 x}}", "regexp:{{/^k$/ x}}",
    "pcre:{{/^k\\z/ x}}", "inline:{k=x}", "unix:passwd.byname", "unix:group.byname", "environ:x",
    "unionmap:{inline:{k=x}}", "pipemap:{inline:{k=x}}",
)  # fmt: skip


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("key", KEYS, ids=range(len(KEYS)))
def test_a_strange_key_is_in_no_table(tmp_path: Path, spec: str, key: bytes) -> None:
    """Above all it is not taken for what stands before its NUL or newline."""
    (tmp_path / "source").write_bytes(b"k x\n")
    assert ours.now(ours.opened(spec, ours.context(tmp_path)), key) is None


@pytest.mark.parametrize("smtputf8", [True, False])
def test_octets_beyond_ascii(tmp_path: Path, smtputf8: bool) -> None:
    table = ours.opened("pcre:{{/./ found}}", ours.context(tmp_path, smtputf8=smtputf8))
    assert ours.now(table, b"\xff") == (None if smtputf8 else b"found")


@pytest.mark.parametrize("kind", ["regexp", "pcre"])
@pytest.mark.parametrize("pattern", ["^(a+)+$", "^(a|aa)+$", "(.*)*x(.*)*y", "^(([a-z])+.)+b$"])
def test_a_pattern_that_never_ends(tmp_path: Path, kind: str, pattern: str) -> None:
    """Unavailable at the end of its time, never "not found"."""
    given = ours.context(tmp_path, clock=time.monotonic, regex_limit=0.2)
    table = ours.opened(f"{kind}:{{{{/{pattern}/ <$1>}}}}", given)
    began = time.monotonic()
    # A library that sees at once that nothing fits may say so.
    with contextlib.suppress(Unavailable):
        assert ours.now(table, b"a" * 5000 + b"!") is None
    assert time.monotonic() - began < 10


def test_the_time_of_a_lookup_is_for_all_its_patterns(tmp_path: Path) -> None:
    """Each of these takes a quarter of it, as it seems."""
    clock = ours.Clock()

    def slow() -> float:
        clock.go(0.25)
        return clock.now

    lines = "".join(f"{{/^(a|aa|b{n})+$/ x}} " for n in range(40))
    table = ours.opened(f"pcre:{{{lines}}}", ours.context(tmp_path, clock=slow, regex_limit=1))
    with pytest.raises(Unavailable):
        ours.now(table, b"x")


def test_a_pattern_with_too_many_groups_inside_each_other(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(
        b"/" + b"(" * 5000 + b"a" + b")" * 5000 + b"/ x\n/" + b"(?:a" * 9000 + b"/ x\n/k/ good\n"
    )
    for kind in ("regexp", "pcre"):
        given = ours.context(tmp_path)
        assert ours.now(ours.opened(f"{kind}:source", given), b"k") == b"good"
        assert ours.said(given).lines() == {1, 2}


@pytest.mark.parametrize("value", [b"\xff", b"\xc3", b"\xed\xa0\x80"])
def test_an_answer_that_is_no_utf8(tmp_path: Path, value: bytes) -> None:
    """As with Postfix: an error, whatever asks."""
    text = value.decode("utf-8", "surrogateescape")
    for spec in (f"static:{text}", f"randmap:{{{text}}}", f"pcre:{{{{/(.)/ {text}}}}}"):
        try:
            table = ours.opened(spec, ours.context(tmp_path))
        except TableError:
            continue
        given_back = []
        try:
            given_back.append(ours.now(table, b"k"))
        except Unavailable:
            continue
        assert given_back == [None], spec


def test_the_first_table_that_has_the_key_answers(tmp_path: Path) -> None:
    maps = open_maps("inline:{a=1}, inline:{a=2,b=3} static:4", ours.context(tmp_path))
    found = [asyncio.run(maps.find(key)) for key in (b"a", b"b", b"c")]
    assert [each.value for each in found if each] == [b"1", b"3", b"4"]
    assert asyncio.run(maps.find(b"")) is None


@pytest.mark.parametrize("tables", ["fail:x inline:{a=1}", "static:{} static:1"])
def test_a_table_that_cannot_answer_ends_the_search(tmp_path: Path, tables: str) -> None:
    """An empty answer is none that anything can be done with."""
    with pytest.raises(Unavailable):
        asyncio.run(open_maps(tables, ours.context(tmp_path)).find(b"a"))


def test_a_member_that_answers_later(tmp_path: Path) -> None:
    """What is made of tables in memory is one; of others, not."""
    given = ours.context(tmp_path)
    assert isinstance(ours.opened("unionmap:{static:1}", given), LocalTable)
    (tmp_path / "source").write_bytes(b"k x\n")
    from tests.tables.postmap import Postmap

    Postmap(tmp_path).make(b"lmdb:%s" % str(tmp_path / "source").encode())
    table: Table = ours.opened("pipemap:{lmdb:source,inline:{x=y}}", given)
    assert not isinstance(table, LocalTable)
    assert ours.now(table, b"k") == b"y"


def test_an_unknown_type_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="expected regexp:"):
        ours.opened("regex:/x", ours.context(tmp_path))


def test_members_and_proxy(tmp_path: Path) -> None:
    given = ours.context(tmp_path)
    assert ours.now(ours.opened("proxy:static:1", given), b"a") == b"1"
    seen = {ours.now(ours.opened("randmap:{1,2,3}", given), b"a") for _ in range(100)}
    assert seen == {b"1", b"2", b"3"}


@settings(max_examples=150, deadline=None)
@given(st.text('{} ,=:ab"\\\t', max_size=30))
def test_a_list_is_taken_apart_without_loss(text: str) -> None:
    parts = list(specs.split(text))
    assert "".join(parts).replace(",", "") == "".join(part.replace(",", "") for part in parts)
    assert sum(map(len, parts)) <= len(text)
    for part in parts:
        assert part in text
    for each in (specs.parse_list, specs.inside, specs.members):
        try:
            each(text)
        except (TableError, ValueError):
            continue


@settings(max_examples=300, deadline=None)
@given(st.text("abZ()[]{}|*+?^$.\\-,:=!<>#'PRQEdwx129 \xe9", max_size=24).map(str.encode))
def test_any_pattern_is_read_or_refused(pattern: bytes) -> None:
    for read in (
        lambda: posix.translate(pattern, posix.Flags()),
        lambda: posix.translate(pattern, posix.Flags(extended=False)),
        lambda: perl.translate(pattern, perl.Options()),
        lambda: perl.translate(pattern, perl.Options(extended=True, ignore_case=False)),
    ):
        try:
            read()
        except BadPatternError:
            continue


@settings(max_examples=150, deadline=None)
@given(st.text("$12{}()a ", max_size=16).map(str.encode))
def test_any_result_is_read_or_refused(text: bytes) -> None:
    try:
        parts = split_result(text)
    except ValueError:
        return
    assert all(isinstance(each, bytes) or each > 0 for each in parts)
