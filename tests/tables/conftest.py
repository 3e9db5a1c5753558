"""Real databases, started once a session and shared: tests of theirs are one xdist group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.peers import mariadb as _mariadb
from tests.peers import postgresql as _postgresql
from tests.peers import slapd as _slapd
from tests.peers.process import directory
from tests.tables import databases, entries
from tests.tables.databases import CREATE, DATABASE, PASSWORD, USER, Database, Postmap


@pytest.fixture(scope="session")
def table_directory() -> Iterator[Path]:
    """A directory for .cf files."""
    with directory("tables") as path:
        yield path


@pytest.fixture(scope="session")
def postmap(table_directory: Path) -> Postmap:
    """Debian's postmap."""
    return Postmap.make(table_directory / "postfix")


@pytest.fixture(scope="session")
def authority(table_directory: Path) -> Path:
    """A directory with ca.pem, cert.pem and key.pem for 127.0.0.1, and other.pem, whom nobody
    has asked to sign anything."""
    ca, home = trustme.CA(), table_directory / "tls"
    home.mkdir()
    ca.cert_pem.write_to_path(str(home / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(home / "other.pem"))
    issued = ca.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(str(home / "cert.pem"))
    issued.private_key_pem.write_to_path(str(home / "key.pem"))
    (home / "key.pem").chmod(0o644)  # the databases run as users of their own
    return home


@pytest.fixture(scope="session")
def mariadb_server(authority: Path) -> Iterator[_mariadb.MariaDb]:
    """MariaDB with the rows; who stops it starts it again."""
    quoted = PASSWORD.replace("\\", "\\\\").replace("'", "\\'")
    tls = [f"--ssl-{name}={authority}/{name}.pem" for name in ("ca", "cert", "key")]
    with _mariadb.mariadb(tls) as server:
        server.sql(
            f"CREATE DATABASE {DATABASE}; USE {DATABASE}; {CREATE}"
            + databases.inserts(backslash=True)
            + "".join(
                f"CREATE USER {USER}@'{host}' IDENTIFIED BY '{quoted}';"
                f"GRANT SELECT, EXECUTE ON {DATABASE}.* TO {USER}@'{host}';"
                for host in ("localhost", "127.0.0.1")
            )
        )
        yield server


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[_postgresql.PostgreSql]:
    """PostgreSQL with the rows; who stops it starts it again."""
    quoted = PASSWORD.replace("'", "''")
    with _postgresql.postgresql() as server:
        server.sql(f"CREATE DATABASE {DATABASE}")
        server.sql(f"CREATE USER {USER} PASSWORD '{quoted}'")
        # Debian's Postfix speaks Latin-1 to it: values beyond that are tests of their own.
        rows = databases.inserts(row for row in databases.ROWS if row[0].isascii())
        server.sql(CREATE + rows + f"GRANT SELECT ON alias TO {USER};", DATABASE)
        yield server


@pytest.fixture(scope="session")
def slapd_server(authority: Path) -> Iterator[_slapd.Slapd]:
    """slapd with the entries of tests.tables.entries."""
    tls = (
        f"TLSCACertificateFile {authority}/ca.pem\nTLSCertificateFile {authority}/cert.pem\n"
        f"TLSCertificateKeyFile {authority}/key.pem\n"
    )
    with _slapd.slapd(entries.LDIF, tls) as server:
        yield server


@pytest.fixture(scope="session")
def mysql(mariadb_server: _mariadb.MariaDb, table_directory: Path) -> Database:
    """mysql: with the rows."""
    return Database(
        "mysql",
        f"hosts = unix:{mariadb_server.socket}\nuser = {USER}\npassword = {PASSWORD}\n"
        f"dbname = {DATABASE}\n",
        table_directory,
    )


@pytest.fixture(scope="session")
def pgsql(postgresql_server: _postgresql.PostgreSql, table_directory: Path) -> Database:
    """pgsql: with the rows."""
    return Database(
        "pgsql",
        f"hosts = inet:127.0.0.1:{postgresql_server.port}\nuser = {USER}\n"
        f"password = {PASSWORD}\ndbname = {DATABASE}\n",
        table_directory,
    )


@pytest.fixture(scope="session")
def sqlite(table_directory: Path) -> Database:
    """sqlite: with the rows."""
    path = databases.sqlite_file(table_directory / "rows.db")
    return Database("sqlite", f"dbpath = {path}\n", table_directory)


@pytest.fixture(scope="session")
def ldap(slapd_server: _slapd.Slapd, table_directory: Path) -> Database:
    """ldap: with the entries."""
    return Database(
        "ldap",
        f"server_host = {slapd_server.ldapi}\nversion = 3\nsearch_base = {_slapd.BASE}\n",
        table_directory,
    )
