"""OpenDKIM's `dsn:` tables: keys and signers in real MariaDB and PostgreSQL servers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.mail import Mail
from milterd.filters.dkim import DkimFilter, DkimOptions, NotSigned, Signed
from milterd.filters.setup import SetupError
from milterd.ports.dkim_databases import TableDownError
from milterd.ports.dkim_dsn import Dsn, DsnTable
from tests.filters.dkim_world import NOW, RSA, originating, write_key
from tests.peers.mariadb import mariadb
from tests.peers.postgresql import postgresql

PASSWORD = "it's @+:/?="
ENCODED = "".join(f"={each:02X}" for each in PASSWORD.encode())
ROWS = """
CREATE TABLE keys_of (name varchar(100), d varchar(100), s varchar(100), path varchar(200));
CREATE TABLE signers (address varchar(100), name varchar(100), active int);
INSERT INTO keys_of VALUES ('one', 'example.net', 'sel', '{path}');
INSERT INTO signers VALUES ('example.net', 'one', 1), ('example.org', 'one', 0),
  ('o''brien@example.com', 'one', 1), ('nothing.example', NULL, 1);
"""
Server = tuple[str, int, Callable[[], None], Callable[[], None]]


@contextmanager
def _mysql(path: Path) -> Iterator[Server]:
    with mariadb() as server:
        name = PASSWORD.replace("'", "''")
        server.sql(f"CREATE DATABASE dkim; CREATE USER mail@'%' IDENTIFIED BY '{name}';")
        server.sql("GRANT SELECT ON dkim.* TO mail@'%';")
        server.sql(ROWS.format(path=path), "dkim")
        yield "mysql", server.port, server.kill, server.start


@contextmanager
def _pgsql(path: Path) -> Iterator[Server]:
    with postgresql() as server:
        name = PASSWORD.replace("'", "''")
        server.sql(f"CREATE ROLE mail LOGIN PASSWORD '{name}';")
        server.sql("CREATE DATABASE dkim;")
        server.sql(ROWS.format(path=path) + "GRANT SELECT ON keys_of, signers TO mail;", "dkim")
        yield "pgsql", server.port, server.kill, server.start


def _mail(author: str) -> Mail:
    return originating(f"From: {author}\r\nSubject: x\r\n\r\nhello\r\n".encode())


@pytest.mark.parametrize("start", [_mysql, _pgsql])
def test_keys_and_signers_come_from_a_server(
    start: Callable[[Path], Iterator[Server]], tmp_path: Path
) -> None:
    key = write_key(tmp_path / "key.pem", RSA)
    with start(key) as (backend, port, kill, again):  # type: ignore[attr-defined]
        place = f"dsn:{backend}://mail:{ENCODED}@{port}+127.0.0.1/dkim"
        keys = f"{place}/table=keys_of?keycol=name?datacol=d,s,path"
        signers = f"{place}/table=signers?keycol=address?datacol=name?filter=active=3D1"
        built = DkimFilter(DkimOptions(tables=(keys, signers)), lambda: NOW)
        assert built.at_once(_mail("a@example.net")) is None  # a server has to be waited for
        found = built.gather(_mail("a@example.net"))
        assert isinstance(found, Signed)
        assert (found.domain, found.signatures[0][0]) == ("example.net", "sel")
        assert isinstance(built.gather(_mail("O'Brien@example.com")), Signed)
        for author in ("a@example.org", "a@nothing.example", "a@elsewhere.example"):
            assert isinstance(built.gather(_mail(author)), NotSigned), author
        kill()
        mail = _mail("a@example.net")
        down = built.decide(mail, built.gather(mail))
        assert down.reply is not None
        assert down.reply.code == 451
        assert PASSWORD not in repr(down)
        again()
        assert isinstance(built.gather(_mail("a@example.net")), Signed)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mysql://h/d", "expected backend://"),
        ("mssql://h/d/table=t?keycol=k?datacol=v", "expected mysql or pgsql"),
        ("mysql://h/d/table=t?keycol=k", "datacol= is missing"),
        ("mysql://h/d/table=t?keycol=k?datacol=v?fliter=x", "'fliter'"),
        ("mysql://h/d/table=t;x?keycol=k?datacol=v", "no name of a table"),
        ("mysql://h/d/table=t?keycol=k?datacol=v,w=27", "no name of a table"),
    ],
)
def test_what_is_wrong_with_a_name_is_said_without_the_password(text: str, says: str) -> None:
    secret = text.replace("://", "://user:secret@")
    with pytest.raises(SetupError) as caught:
        DkimFilter(DkimOptions(tables=(f"dsn:{secret}", "csl:a=b")), lambda: NOW)
    assert says in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_server_that_is_not_there_is_told() -> None:
    table = DsnTable("pgsql://u:secret@1+127.0.0.1/d/table=t?keycol=k?datacol=v", 2.0)
    with pytest.raises(TableDownError) as caught:
        table.get("x")
    assert "secret" not in str(caught.value)


@given(st.text(st.characters(max_codepoint=255), max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert Dsn.parse(text).backend in ("mysql", "pgsql")


@given(st.text(st.characters(max_codepoint=127), min_size=1, max_size=20))
def test_every_octet_can_be_written(password: str) -> None:
    encoded = "".join(f"={ord(each):02X}" for each in password)
    found = Dsn.parse(f"mysql://u:{encoded}@h/d/table=a.b?keycol=k?datacol=v,w")
    assert (found.user, found.password, found.host, found.port) == ("u", password, "h", 3306)
    assert found.query("?") == "SELECT v,w FROM a.b WHERE k = ? LIMIT 1"
