"""Definitions of SQL tables: logins, TLS, domain lists, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from smtpgw.tables.catalogue import open_table
from smtpgw.tables.context import Context
from smtpgw.tables.table import TableError
from tests.peers.mariadb import MariaDb
from tests.queue.support import run
from tests.tables.databases import DATABASE, PASSWORD, USER, Database, ours

pytestmark = pytest.mark.xdist_group("databases")

QUERY = "query = SELECT goto FROM alias WHERE address = '%s' ORDER BY number\n"


@pytest.mark.parametrize(
    ("authorities", "trusted"), [("ca.pem", True), ("other.pem", False), ("", True)]
)
def test_mysql_speaks_tls_to_whom_it_trusts(
    mariadb_server: MariaDb, mysql: Database, authority: Path, authorities: str, trusted: bool
) -> None:
    asked = f"tls_CAfile = {authority}/{authorities}\ntls_verify_cert = yes\n"
    spec = mysql.cf(
        "query = SELECT VARIABLE_VALUE FROM information_schema.session_status"
        " WHERE VARIABLE_NAME = 'Ssl_cipher' AND '%s' <> ''\n"
        + (
            asked
            if authorities
            else f"tls_cert_file = {authority}/cert.pem\ntls_key_file = {authority}/key.pem\n"
        ),
        settings=mysql.settings.replace(
            f"unix:{mariadb_server.socket}", f"127.0.0.1:{mariadb_server.port}"
        ),
    )
    found, failed = run(ours(spec, [b"x"]))
    assert (set(found), set(failed)) == (({b"x"}, set()) if trusted else (set(), {b"x"}))


def test_the_login_may_be_in_an_option_file(mariadb_server: MariaDb, mysql: Database) -> None:
    """The user in Postfix too; it takes no password from there."""
    options = mysql.directory / "my.cnf"
    quoted = PASSWORD.replace("\\", "\\\\")
    options.write_text(
        f"!include /nowhere\n[client]\nuser = nobody\n\n[mail]\nuser={USER}\npassword={quoted}\n"
    )
    settings = (
        f"hosts = unix:{mariadb_server.socket}\ndbname = {DATABASE}\n"
        f"option_file = {options}\noption_group = mail\n"
    )
    spec = mysql.cf(QUERY, settings=settings)
    assert run(ours(spec, [b"5"])) == ({b"5": b"five"}, {})


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("", "query = SELECT"),
        (f"{QUERY}option_file = /nowhere\n", "my.cnf"),
        ("query = \n", "SQL"),
        ("query = SELECT a FROM %d\n", "between quotes"),
        ("query = SELECT '%y'\n", "%s and the like"),
        (f"{QUERY}expansion_limit = many\n", "a number"),
        (f"{QUERY}require_result_set = maybe\n", "yes or no"),
        (f"{QUERY}result_format =\n", "a value"),
        (f"{QUERY}tls_CAfile = /nowhere\n", "certificates"),
        (f"{QUERY}domain = /nowhere\n", "a file with domains"),
        (f"{QUERY}hosts = 127.0.0.1:99999\n", "1 to 65535"),
    ],
)
def test_a_definition_that_cannot_be_used_says_where(
    mysql: Database, more: str, expected: str
) -> None:
    spec = mysql.cf(more)
    with pytest.raises(TableError, match=expected) as caught:
        open_table(spec, Context())
    assert caught.value.file == spec.partition(":")[2]


def test_the_domain_list_may_be_tables_and_files(sqlite: Database) -> None:
    names = sqlite.directory / "domains"
    names.write_text("# ours\nMAIL.sub.example.com\n!sub.example.net\n")
    net, sub, com = (
        b"user@example.net", b"user+tag@sub.example.net", b"user@mail.sub.example.com",
    )  # fmt: skip
    for domain, expected in (
        ("", {net, sub, com, b"user", b"example.net", b"@example.net"}),
        (f"{names} example.net", {net, com}),
        (f"!{names}, example.net", {net, sub}),
        ("inline:{ example.net=x }", {net}),
        ("!inline:{ example.net=x } example.net", set()),
    ):
        keys = [net, sub, com, b"user", b"example.net", b"@example.net"]
        found, failed = run(ours(sqlite.cf(f"{QUERY}domain = {domain}\n"), keys))
        assert (set(found), failed) == (expected, {}), domain


def test_an_unavailable_domain_list_is_no_answer(sqlite: Database) -> None:
    spec = sqlite.cf(f"{QUERY}domain = fail:out of order\n")
    _, failed = run(ours(spec, [b"user@example.net"]))
    assert failed
