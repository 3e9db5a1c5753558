"""From .cf files and templates to statements: no database needed."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpgw.tables.cf import Cf
from smtpgw.tables.sql import MYSQL, POSTGRESQL, SQLITE, Dialect, NotANumber, compile_query
from smtpgw.tables.table import TableError
from smtpgw.tables.template import Formats, Parts, parse

DIALECTS = [SQLITE, MYSQL, POSTGRESQL]


def cf(text: str) -> Cf:
    return Cf("mysql:x.cf", Path("x.cf"), text)


def key(text: bytes, *templates: str, result: str = "%s") -> Parts | None:
    return Formats([parse(each) for each in templates], parse(result)).key(text)


# .cf files


def test_a_file_is_read_as_postfix_reads_it() -> None:
    settings = cf(
        "# comment\n\nhosts = a b\n  c\n# comment inside\n\n\td\nquery=SELECT $x\n"
        "password =   two words  \nempty =\n"
    )
    assert settings.text("hosts") == "a b\n  c\n\td"
    assert settings.text("query") == "SELECT $x"
    assert settings.text("password") == "two words"
    assert settings.get("empty") == ""
    assert settings.get("missing") is None
    assert (settings.line("hosts"), settings.line("query")) == (3, 8)


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [("hosts = a\nquery\n", 2, "'query'"), ("= x\n", 1, "'= x'"), ("a b = c\n", 1, "'a b = c'")],
)
def test_a_line_that_is_no_setting_is_named(text: str, line: int, found: str) -> None:
    with pytest.raises(TableError) as caught:
        cf(text)
    assert (caught.value.file, caught.value.line, caught.value.found) == ("x.cf", line, found)


def test_numbers_flags_and_times_are_checked() -> None:
    settings = cf("n = 12\nbad = 1x\nf = YES\nt = 2m\nnegative = -1\n")
    assert (settings.number("n", 0), settings.flag("f", default=False)) == (12, True)
    assert settings.seconds("t", 0) == 120
    for ask in (
        lambda: settings.number("bad", 0),
        lambda: settings.number("negative", 0),
        lambda: settings.flag("n", default=True),
        lambda: settings.seconds("bad", 0),
        lambda: settings.text("nothing", empty=False),
    ):
        with pytest.raises(TableError):
            ask()


def test_settings_that_mean_nothing_are_named_with_the_nearest_that_does() -> None:
    settings = cf("querry = SELECT 1\nhosts = x\nhosts = y\n")
    settings.text("query")
    assert settings.text("hosts") == "y"
    assert settings.unused() == ["x.cf:1: unused parameter: querry (did you mean query?)"]
    assert settings.warnings == ["x.cf:3: hosts again: line 2 is ignored"]


@given(st.text(alphabet="ab= \t\n#%\\\"'\x00é", max_size=60))
def test_any_file_is_read_or_refused(text: str) -> None:
    try:
        settings = cf(text)
    except TableError:
        return
    assert len(settings.unused()) <= text.count("=")


# Keys and results


@pytest.mark.parametrize(
    ("template", "text", "asked"),
    [
        ("%s", b"user", True),
        ("%s", b"", False),
        ("%u", b"user", True),
        ("%u", b"@example.net", False),
        ("%d", b"user", False),
        ("%d", b"user@", False),
        ("%d", b"@example.net", True),
        ("%2", b"user@net", False),
        ("%2", b"user@example.net", True),
        ("%3", b"user@a..net", False),
        ("%D%U", b"user@x", True),
    ],
)
def test_a_key_that_lacks_a_part_is_not_asked_for(template: str, text: bytes, asked: bool) -> None:
    assert (key(text, template) is not None) == asked


def test_what_the_result_needs_of_the_key_counts_too() -> None:
    assert key(b"user", "%s", result="%s %D") is None
    assert key(b"user", "%s", result="%s %d") is not None


@pytest.mark.parametrize(
    ("result", "value", "shown"),
    [
        ("smtp:[%s]", b"mx", b"smtp:[mx]"),
        ("%u at %d", b"a@b@c", b"a@b at c"),
        ("%d", b"a", None),
        ("%u", b"@a", None),
        ("%u", b"a", b"a"),
        ("%s", b"", None),
        ("%s", None, None),
        ("%S %U %D %1.%2 100%%", b"v", b"u@x.net u x.net net.x 100%"),
    ],
)
def test_a_value_is_shown_as_result_format_says(
    result: str, value: bytes | None, shown: bytes | None
) -> None:
    formats = Formats([parse("%s")], parse(result))
    asked = formats.key(b"u@x.net")
    assert asked is not None
    assert formats.value(value, asked) == shown


@pytest.mark.parametrize("text", ["%", "100% sure", "%x", "%0", "%s%"])
def test_an_expansion_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="%"):
        parse(text)


# Statements


@pytest.mark.parametrize(
    ("dialect", "query", "text", "bound"),
    [
        (SQLITE, "a='%s' AND b = '%d'", "a=?1 AND b = ?2", ["u@x", "x"]),
        (SQLITE, "a='%u@%d'", "a=?1", ["u@x"]),
        (SQLITE, "a LIKE '%%%d' ", "a LIKE ?1 ", ["%x"]),
        (SQLITE, "a='it''s %u'''", "a=?1", ["it's u'"]),
        (SQLITE, 'a="%s" AND "b"="c"', 'a=?1 AND "b"="c"', ["u@x"]),
        (SQLITE, "a='%s'; DROP TABLE x", "a=?1", ["u@x"]),
        (SQLITE, "a='x' -- 100%%\n AND b='%s'", "a='x' -- 100%\n AND b=?1", ["u@x"]),
        (SQLITE, r"a='\%u'", "a=?1", [r"\u"]),
        (MYSQL, "a='%s' AND b %% 2 = 1", "a=%s AND b %% 2 = 1", ["u@x"]),
        (MYSQL, r"a='\'%u\\\n\%%\_%d'", "a=%s", ["'u\\\n\\%\\_x"]),
        (MYSQL, "a=\"%s\" AND `b`='c'", "a=%s AND `b`='c'", ["u@x"]),
        (MYSQL, "a=_utf8mb4'%s'", "a=_utf8mb4%s", ["u@x"]),
        (MYSQL, "CALL find('%s') # %%", "CALL find(%s) # %%", ["u@x"]),
        (POSTGRESQL, "a='%s' OR \"b\"='%u'", 'a=$1 OR "b"=$2', ["u@x", "u"]),
        (POSTGRESQL, r"a=E'\'%u\t'", "a=$1", ["'u\t"]),
        (POSTGRESQL, r"a='\%u'", "a=$1", [r"\u"]),
        (POSTGRESQL, "a=$$'%s'$$ OR b=$t$x$t$", "a=$1 OR b=$t$x$t$", ["'u@x'"]),
        (POSTGRESQL, "/* it's */ a='%s'", "/* it's */ a=$1", ["u@x"]),
    ],
)
def test_a_quoted_string_becomes_one_parameter(
    dialect: Dialect, query: str, text: str, bound: list[str]
) -> None:
    asked = key(b"u@x", query)
    assert asked is not None
    statement = compile_query(parse(query), dialect)
    assert statement.text == text
    assert statement.bind(asked) == bound


@pytest.mark.parametrize("dialect", DIALECTS)
def test_outside_of_quotes_only_a_number_can_stand(dialect: Dialect) -> None:
    statement = compile_query(parse("SELECT a FROM t WHERE id = %u AND (b=%d)"), dialect)
    asked = key(b"7@12", "%u%d")
    assert asked is not None
    assert statement.bind(asked) == [7, 12]
    for other in (b"x@1", b"1 OR 1=1@1", b"-1@1", b"0x1@1", b"\xd9\xa3@1", b"1" * 19 + b"@1"):
        asked = key(other, "%u%d")
        assert asked is not None
        with pytest.raises(NotANumber):
            statement.bind(asked)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "query",
    [
        "SELECT a FROM %d", "SELECT a FROM t_%d", "SELECT a FROM t JOIN %d", "SELECT t.%u FROM t",
        "SELECT %u(1)", "SELECT a FROM t WHERE x=%u%d", "SELECT a FROM t ORDER BY %u",
        "SELECT a FROM `%d`", "SELECT 1 /* %s */", "SELECT 1 -- %s", "SELECT X'%s'",
        "SELECT 'open %s", "SELECT a_%s", "SELECT @%u",
    ],
)  # fmt: skip
def test_where_no_parameter_can_stand_the_template_is_refused(dialect: Dialect, query: str) -> None:
    if "`" in query and dialect is POSTGRESQL:
        return  # it has no such quotes: %d stands in the open, next to an operator
    with pytest.raises(ValueError, match=r"%|string|expansion"):
        compile_query(parse(query), dialect)


@given(st.binary(min_size=1, max_size=30), st.sampled_from(DIALECTS))
def test_the_text_of_a_statement_never_depends_on_the_key(octets: bytes, dialect: Dialect) -> None:
    query = "SELECT a FROM t WHERE a='%s' AND b='x%ux' AND c='%%'"
    statement = compile_query(parse(query), dialect)
    asked = key(octets, query)
    if asked is None or not _decodes(octets):
        return
    bound = statement.bind(asked)
    assert bound[0] == octets.decode()
    assert bound[1] == f"x{asked.user.decode()}x"
    assert re.sub(r"[?$]\d|%s", "?", statement.text).replace("%%", "%") == (
        "SELECT a FROM t WHERE a=? AND b=? AND c='%'"
    )


def _decodes(octets: bytes) -> bool:
    try:
        octets.decode()
    except UnicodeDecodeError:
        return False
    return True


PIECES = st.lists(
    st.sampled_from(["%s", "%u", "%%", "'", '"', "a", " ", "\\", "--", "/*", "*/", "\n", "$", "`",
                     ";", "#", "[", "]", "E'", "(", "=", "1"]), max_size=14,
)  # fmt: skip


@given(PIECES, st.sampled_from(DIALECTS))
def test_any_template_is_compiled_or_refused(pieces: list[str], dialect: Dialect) -> None:
    try:
        statement = compile_query(parse("".join(pieces)), dialect)
    except ValueError:
        return
    assert statement.text.count("\0") == 0
    if dialect is SQLITE:
        assert len(statement.parameters) == len(set(re.findall(r"\?\d+", statement.text)))


TEMPLATES = st.lists(
    st.sampled_from(["%s", "%u", "%d", "''", "a", "%%", "-", '"', ";", "\\", "é"]), max_size=8
)


@given(TEMPLATES, st.text(alphabet="ab@'\"%;\\-é.", min_size=1, max_size=12))
def test_sqlite_sees_the_string_that_the_template_means(pieces: list[str], text: str) -> None:
    """What SQLite gets as a parameter is what it reads where the quoted key is pasted in."""
    query = f"SELECT '{''.join(pieces)}'"
    asked = key(text.encode(), query)
    if asked is None:
        return
    statement = compile_query(parse(query), SQLITE)
    parts = {"%s": asked.whole, "%u": asked.user, "%d": asked.domain, "%%": b"%"}
    pasted = "".join(
        parts[each].decode().replace("'", "''") if each in parts else each for each in pieces
    )
    database = sqlite3.connect(":memory:")
    bound = database.execute(statement.text, statement.bind(asked)).fetchone()
    assert bound == database.execute(f"SELECT '{pasted}'").fetchone()
    database.close()
