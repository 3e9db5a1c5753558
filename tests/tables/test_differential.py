"""Our tables answer what Debian's postmap answers: made-up sources and keys, for every type.

A failure prints the seed and the source.  GATEPOST_TABLES: how many tables of each type.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest

from smtpgw.tables import sources
from tests.peers.postfix import age
from tests.tables import generate, ours
from tests.tables.postmap import Postmap, Said

TABLES = int(os.environ.get("GATEPOST_TABLES", "30"))
pytestmark = pytest.mark.timeout(120 + TABLES)
SEED = int(os.environ.get("GATEPOST_SEED", "20261121"))


@dataclass(frozen=True)
class Trial:
    """One table: what it is called, what is in it, what it is asked for."""

    spec: bytes
    source: bytes
    keys: Sequence[bytes]
    smtputf8: bool

    def __str__(self) -> str:
        return f"{self.spec!r} (smtputf8 {self.smtputf8}):\n{self.source.decode('latin-1')}"


def trials(
    home: Path, kind: str, source: Callable[[Random], bytes], keys: Callable[[Random], list[bytes]]
) -> list[Trial]:
    """Each with a seed of its own, so that any of them can be run again."""
    found = []
    for number in range(TABLES):
        random = Random(f"{SEED}-{kind}-{number}")
        file = home / f"{kind}-{number}"
        text = source(random)
        file.write_bytes(text)
        age(file)
        spec = f"{kind}:{file}".encode()
        found.append(Trial(spec, text, keys(random), random.random() < 0.8))
    return found


def compare(trial: Trial, home: Path, *, aliases: bool = False, warned: Said | None = None) -> None:
    """Same answers, same failures, same lines named."""
    judge = Postmap(home, smtputf8=trial.smtputf8)
    given = ours.context(home, smtputf8=trial.smtputf8, aliases=aliases)
    theirs = judge.ask(trial.spec, trial.keys)
    mine = ours.ask(ours.opened(trial.spec, given), trial.keys)
    other = [(o, t) for o, t in zip_longest(mine.output, theirs.output) if o != t][:3]
    # A postmap that gives up may keep what it was about to print.
    expected = theirs.output if not theirs.failed else mine.output
    assert (mine.output, mine.failed) == (expected, theirs.failed), (
        f"{trial}\nours, theirs: {other}, {mine.failed}, {theirs.failed}\n{theirs.errors!r}"
    )
    named = warned if warned is not None else theirs
    assert ours.said(given).lines() == named.lines, f"{trial}\n{named.errors!r}"


@pytest.fixture(autouse=True)
def _every_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is named, not only the first."""
    monkeypatch.setattr(sources, "MAX_REPORTS", 1000)


@pytest.fixture
def home() -> Iterator[Path]:
    """In memory: postmap waits for the disk at every database it makes."""
    with TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


def _keys(kind: str) -> Callable[[Random], list[bytes]]:
    """With a key of no octet or more than 511 postmap ends when it asks LMDB."""
    if kind != "lmdb":
        return generate.fixed_keys
    return lambda random: [each for each in generate.fixed_keys(random) if 0 < len(each) < 500]


@pytest.mark.parametrize("kind", ["hash", "btree", "lmdb"])
def test_databases(home: Path, kind: str) -> None:
    for trial in trials(home, kind, generate.fixed_source, _keys(kind)):
        judge = Postmap(home, smtputf8=trial.smtputf8)
        made = judge.make(trial.spec)
        if b"MDB_BAD_VALSIZE" in made.errors:
            continue  # a key longer than LMDB has room for
        assert not made.failed, f"{trial}\n{made.errors!r}"
        # lmdb: reads what postmap wrote: it has no lines to name.
        compare(trial, home, warned=made if kind != "lmdb" else None)
        table = ours.opened(trial.spec, ours.context(home, smtputf8=trial.smtputf8))
        held = judge.list(trial.spec)
        assert ours.listed(table) == tuple(sorted(held.output)), str(trial)


def test_texthash(home: Path) -> None:
    for trial in trials(home, "texthash", generate.fixed_source, generate.fixed_keys):
        compare(trial, home)
        judge = Postmap(home, smtputf8=trial.smtputf8)
        table = ours.opened(trial.spec, ours.context(home, smtputf8=trial.smtputf8))
        assert ours.listed(table) == tuple(sorted(judge.list(trial.spec).output)), str(trial)


def test_aliases(home: Path) -> None:
    """All that postalias has put into a file, but what it says of itself."""
    for trial in trials(home, "hash", generate.alias_source, generate.fixed_keys):
        judge = Postmap(home, smtputf8=trial.smtputf8)
        made = judge.make(trial.spec, "postalias")
        assert not made.failed, f"{trial}\n{made.errors!r}"
        given = ours.context(home, smtputf8=trial.smtputf8, aliases=True)
        held = [
            each
            for each in judge.list(trial.spec).output
            if not each.startswith((b"@\t", b"YP_LAST_MODIFIED\t", b"YP_MASTER_NAME\t"))
        ]
        assert ours.listed(ours.opened(trial.spec, given)) == tuple(sorted(held)), str(trial)


def test_cidr(home: Path) -> None:
    for trial in trials(home, "cidr", generate.cidr_source, generate.cidr_keys):
        compare(trial, home)


@pytest.mark.parametrize("kind", ["regexp", "pcre"])
def test_patterns(home: Path, kind: str) -> None:
    def source(random: Random) -> bytes:
        return generate.regex_source(random, perl=kind == "pcre")

    for trial in trials(home, kind, source, generate.regex_keys):
        compare(trial, home)


NAMED = (
    "pcre:{{/^(a+)(.*)$/U <$1|$2>}}", "pcre:{{/b+?/U x}}", "pcre:{{/^(a+?)(.*)/U <$1|$2>}}",
    "pcre:{{/b/A x}}", "pcre:{{/a # b\\ /x x}}", "pcre:{{/^(?:a|b) c* $/x x}}",
    "inline:{a=1,B=2}", "inline:{a = 1}", "inline:{ {A = 1 2, 3} }", "inline:{ {a=1}, {a=2} }",
    "inline:{}", "inline:{ }", "inline:{a}", "inline:a=1", "inline:{a=}", "inline:{a=1}x",
    "inline:{ {=1} a=1}", "inline:{ {x y = 1} }", 'inline:{ {"a b" = 1} a=2}', "inline:{É=1}",
    "inline:{Straße=1}", "inline:{ a={x} }", "inline:{ {a={x} } }", "inline:{ {a=1}x }",
    "static:x", "static:", "static:{ x  y }", "static:{x", "static:{x}y", "static: x ",
    "static:é", "static:$1", "static:{{}}", "unionmap:{static:1,static:2}",
    "unionmap:{inline:{b=1},static:2}", "unionmap:{static:2,fail:1}", "unionmap:{}",
    "unionmap:static:1", "unionmap:{foo}", "unionmap:{ {static:1} }",
    "unionmap:{static:1 static:2 , inline:{a=3}}", "unionmap:{inline:{b=1},inline:{b=2,a=3}}",
    "unionmap:{static:{},static:2}", "unionmap:{static:2,static:{}}",
    "pipemap:{inline:{a=B},inline:{b=c}}", "pipemap:{inline:{a=x},fail:y}", "pipemap:{}",
    "pipemap:{inline:{b=x},fail:y}", "pipemap:{static:1}", "pipemap:{fail:y,static:1}",
    "pipemap:{pcre:{{/^(.*)$/ $1x}},pcre:{{/(.*)/ <$1>}}}", "pipemap:{static:a,static:{}}",
    "randmap:{1}", "randmap:{}", "randmap:{ {1 2} }", "randmap:1", "randmap:{1,1}",
    "randmap:{{}}", "fail:x", "environ:x", "unix:passwd.byname", "unix:group.byname", "unix:foo",
    "nosuch:x", "a", ":x", "hash:/nonexistent", "texthash:/nonexistent", "lmdb:/nonexistent",
    "cidr:/nonexistent", "pcre:/nonexistent", "regexp:/nonexistent", "texthash:{{a b}}",
    "cidr:{{192.0.2.0/24 x},{!192.0.2.1 y}}", "cidr:{{192.0.2.1 x} ::1}", "cidr:{}", "cidr:{{}}",
    "cidr:{{192.0.2.1 x}} ", "cidr:{{ # x} {192.0.2.1 x} { foo} }",
    "pcre:{{/a/ 1},{if /^[bB]/},{/(.*)/ <$1>},{endif}}", "pcre:{{/a/i 1}}", "pcre:{/a/ 1}",
    "pcre:{{/^(.)(.)?$/ $2}}", "regexp:{{/a/ 1}{!/b/ 2}}",
    "regexp:{ {/^(a|ab)(c|bcd)(d*)$/ <$1|$2|$3>} }",
    "regexp:{{/(a)\\1/ twice} {/(ab?)c\\1/ again}}",
    "pcre:{{/(a)\\1/ twice} {/(?<n>b)\\k<n>/ <$1>}}", "regexp:{{/(a|ab)(c|bcd)?/ <$1|$2>}}",
    "regexp:{{/\\(a\\)\\|x*b\\{2\\}/x <$1>}}",
)  # fmt: skip
ASKED = (
    b"a", b"A", b"b", b"B", b"", b"a b", b'"a b"', b"x y", b"\xc3\xa9", b"\xc3\x89", b"STRASSE",
    b"\xff", b"root", b"ROOT", b"0", b"PATH", b"path", b"192.0.2.1", b"192.0.2.2", b"::1", b"aa",
    b"abcd", b"abc", b"bb", b"abcab", b"%s", b"'", b"x" * 10_000,
)  # fmt: skip


def test_tables_that_are_written_in_their_name(home: Path) -> None:
    """What cannot be opened, and what is found, is the same."""
    judge = Postmap(home)
    with ThreadPoolExecutor(24) as many:  # a postmap that gives up sleeps for a second
        said = list(many.map(lambda spec: judge.ask(spec.encode(), ASKED), NAMED))
    for spec, theirs in zip(NAMED, said, strict=True):
        given = ours.context(home)
        if ours.refused(spec, given):
            assert theirs.failed, spec
            assert not theirs.output, spec
            continue
        mine = ours.ask(ours.opened(spec, given), ASKED)
        assert mine.failed == theirs.failed, (spec, theirs.errors)
        assert mine.failed or mine.output == theirs.output, (spec, theirs.errors)


LINES_IN_KEYS = (
    "regexp:{{/^a.b$/ dot} {/^b$/ line} {/c$/ end} {/a[^x]c/ class}}",
    "regexp:{{/^a.b$/m dot} {/^b$/m line} {/c$/m end} {/a[^x]c/m class}}",
    "pcre:{{/^a.b$/ dot} {/^b$/ line} {/c$/ end} {/d\\Z/ z} {/^a\\Nc/ N} {/a\\Rc/ R}}",
    "pcre:{{/^a.b$/s dot} {/^b$/m line} {/c$/E end} {/d\\z/ z} {/^$/m empty}}",
    "pcre:{{/^a.b$/msE dot} {/^b$/E line} {/c$/mE end}}",
    "inline:{a=1}",
)


def test_keys_of_several_lines(home: Path) -> None:
    """Header checks ask for them."""
    judge = Postmap(home)
    keys = (b"a\nb", b"a\nb\n", b"c", b"c\n", b"c\nx", b"a\nc", b"d\n", b"x\n", b"\nx")
    asked = [(spec, key) for spec in LINES_IN_KEYS for key in keys]
    with ThreadPoolExecutor(8) as many:
        said = list(many.map(lambda each: judge.ask_one(each[0].encode(), each[1]), asked))
    for (spec, key), theirs in zip(asked, said, strict=True):
        mine = ours.now(ours.opened(spec, ours.context(home)), key)
        assert (mine,) == (theirs.output or (None,)), (spec, key, theirs.errors)
