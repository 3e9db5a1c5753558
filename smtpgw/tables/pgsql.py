"""pgsql: tables, pgsql_table(5): a query to PostgreSQL servers, through asyncpg.

All columns of all rows count, as the server writes them.  A parameter is sent as text of
whatever type the server finds for it, so that `uid = '%s'` means what it means in Postfix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from smtpgw.tables import cf as cfs
from smtpgw.tables.asked import Asked, bound, sql_of
from smtpgw.tables.cf import Cf
from smtpgw.tables.context import Context
from smtpgw.tables.hosts import hosts_of, limits_of, with_port
from smtpgw.tables.servers import Lost, Refused, Server, Servers
from smtpgw.tables.sql import POSTGRESQL, Statement
from smtpgw.tables.table import Table
from smtpgw.tables.template import Parts

if TYPE_CHECKING:
    import asyncpg
    from asyncpg.prepared_stmt import PreparedStatement
    from asyncpg.types import Type

_URI = ("postgresql://", "postgres://")
_AS_TEXT = frozenset({"text", "varchar", "bpchar", "name", "json", "xml", "unknown"})
"""Types that asyncpg gives and takes as the server's text anyway."""
_LOST = frozenset({"08", "57", "58", "XX"})
"""Classes of SQLSTATE after which another server may do better: connection, operator, system."""


def open(name: str, context: Context) -> Table:
    """The table of the .cf file `name`.  Raises TableError."""
    cf = cfs.read(name, context)
    query, statement, where = sql_of(cf, POSTGRESQL)
    return Asked(cf, context, _Database(cf, statement, context), [query], where)


def _servers(cf: Cf) -> list[Server]:
    found = []
    for kind, rest in hosts_of(cf):
        if not kind and rest.startswith(_URI):
            found.append(Server(rest.rpartition("@")[2], rest))
            continue
        host, port = with_port(cf, rest, 5432)
        found.append(Server(f"{host}:{port}", host, port, unix=host.startswith("/")))
    return found or [Server("localhost:5432", "localhost", 5432)]


def _text(value: str) -> str:
    return value


class _Connection:
    """One connection with its prepared statement, and asyncpg's errors made ours."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection
        self._prepared: PreparedStatement[Any] | None = None

    async def query(
        self, statement: Statement, parameters: Sequence[str | int]
    ) -> list[Sequence[bytes | None]]:
        """The rows.  Raises Lost, Refused."""
        try:
            if self._prepared is None:
                self._prepared = await self._prepare(statement)
            rows = await self._prepared.fetch(*map(str, parameters))
        except Exception as error:
            self._prepared = None
            raise _error(error) from error
        return [[None if each is None else str(each).encode() for each in row] for row in rows]

    async def _prepare(self, statement: Statement) -> PreparedStatement[Any]:
        """The statement with text for every parameter and column."""
        text, prepared = await self._typed(statement)
        columns = [each.type.kind != "scalar" for each in prepared.get_attributes()]
        if any(columns):
            text = _cast(text, columns)
            prepared = await self._connection.prepare(text)
        types = [*prepared.get_parameters(), *(each.type for each in prepared.get_attributes())]
        if await self._text_for(types):
            prepared = await self._connection.prepare(text)
        return prepared

    async def _typed(self, statement: Statement) -> tuple[str, PreparedStatement[Any]]:
        """Where the server cannot tell a parameter's type, or finds an array, it is text."""
        from asyncpg import IndeterminateDatatypeError

        casts: set[int] = set()
        while True:
            text = statement.behind(casts, "::text")
            try:
                prepared = await self._connection.prepare(text)
            except IndeterminateDatatypeError as error:
                found = {int(each) for each in re.findall(r"\$(\d+)", str(error))} - casts
                if not found:
                    raise
            else:
                types = enumerate(prepared.get_parameters(), 1)
                found = {number for number, each in types if each.kind != "scalar"} - casts
                if not found:
                    return text, prepared
            casts |= found

    async def _text_for(self, types: Sequence[Type]) -> bool:
        """Let values of these types be text; whether there was anything to do."""
        others = {(each.schema, each.name) for each in types if each.name not in _AS_TEXT}
        for schema, name in others:
            await self._connection.set_type_codec(
                name, schema=schema, encoder=_text, decoder=_text, format="text"
            )
        return bool(others)

    def drop(self) -> None:
        self._connection.terminate()

    async def close(self) -> None:
        try:
            await self._connection.close()
        except Exception as error:
            raise _error(error) from error


def _cast(text: str, wide: Sequence[bool]) -> str:
    """The query with the columns that are arrays, ranges and the like made text."""
    names = [f"c{number}" for number in range(len(wide))]
    shown = (f"{name}::text" if each else name for name, each in zip(names, wide, strict=True))
    inner = text.strip().rstrip(";")
    return " ".join(
        ("SELECT", ", ".join(shown), "FROM (", inner, "\n) AS answer(", ", ".join(names), ")")
    )


def _error(error: Exception) -> Lost | Refused:
    """Whether the server refused, or the connection is no good any more."""
    from asyncpg import InvalidCachedStatementError, PostgresError

    said = f"{type(error).__name__}: {error}"
    state = str(getattr(error, "sqlstate", None) or "")
    changed = isinstance(error, InvalidCachedStatementError)  # what is prepared is out of date
    if isinstance(error, PostgresError) and state[:2] not in _LOST and not changed:
        return Refused(said)
    return Lost(said)


class _Database:
    """The servers, and the statement they are asked."""

    def __init__(self, cf: Cf, statement: Statement, context: Context) -> None:
        self._name, self._statement = cf.spec, statement
        cf.text("encoding")  # Postfix 3.9: the client's, and ours is always UTF-8
        self._login = {
            "user": cf.text("user") or None,
            "password": cf.text("password") or None,
            "database": cf.text("dbname", empty=False),
        }
        self._limit = context.connect_limit
        self._servers = Servers(
            cf.spec, _servers(cf), self._connect, limits_of(cf, context), context
        )

    async def _connect(self, server: Server) -> _Connection:
        import asyncpg

        place: dict[str, Any] = {"host": server.host, "port": server.port, **self._login}
        if server.host.startswith(_URI):
            place = {"dsn": server.host}
        try:
            connection = await asyncpg.connect(**place, timeout=self._limit)
        except Exception as error:
            raise Lost(str(_error(error))) from error
        return _Connection(connection)

    async def values(self, key: Parts) -> Iterable[bytes | None]:
        """Every column of every row.  Raises Unavailable."""
        parameters = bound(self._statement, key, self._name)
        rows = await self._servers.ask(
            lambda connection: connection.query(self._statement, parameters)
        )
        return [value for row in rows for value in row]

    async def close(self) -> None:
        """Close the connections."""
        await self._servers.close()
