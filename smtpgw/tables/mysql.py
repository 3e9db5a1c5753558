"""mysql: tables, mysql_table(5): a query to MariaDB or MySQL servers, through asyncmy.

All columns of all rows count.  Values come as the server writes them: numbers and dates
are never turned into ours and back.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from smtpgw.tables import cf as cfs
from smtpgw.tables.asked import Asked, bound, sql_of
from smtpgw.tables.cf import Cf
from smtpgw.tables.context import Context
from smtpgw.tables.hosts import hosts_of, limits_of, unix, with_port
from smtpgw.tables.mysql_login import login_of
from smtpgw.tables.servers import Lost, Refused, Server, Servers
from smtpgw.tables.sql import MYSQL, Statement
from smtpgw.tables.table import Table
from smtpgw.tables.template import Parts

SOCKET = "/run/mysqld/mysqld.sock"
"""Where Debian's servers listen: what `localhost` means to a MySQL client."""
_LOST = frozenset({1053, 1077, 1079, 1080, 1152, 1153, 1158, 1159, 1160, 1161, 1184, 1927, 4031})
"""Errors of the server's (1000 to 1999, from 3000 on) after which the connection is no more."""


def open(name: str, context: Context) -> Table:
    """The table of the .cf file `name`.  Raises TableError."""
    cf = cfs.read(name, context)
    query, statement, where = sql_of(cf, MYSQL)
    return Asked(cf, context, _Database(cf, statement, context), [query], where)


def _servers(cf: Cf) -> list[Server]:
    found = []
    for kind, rest in hosts_of(cf):
        if kind == "unix":
            found.append(unix(rest))
            continue
        host, port = with_port(cf, rest, 3306)
        found.append(
            unix(SOCKET) if host.lower() == "localhost" else Server(f"{host}:{port}", host, port)
        )
    return found or [unix(SOCKET)]


class _Connection:
    """One connection, with asyncmy's errors made ours."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def query(
        self, text: str, parameters: Sequence[str | int]
    ) -> list[Sequence[bytes | None]]:
        """The rows of the one result set; raises NoResult, Lost, Refused."""
        try:
            async with self._connection.cursor() as cursor:
                await cursor.execute(text, parameters)
                return await self._rows(cursor)
        except (NoResult, Refused):
            raise
        except Exception as error:
            raise _error(error) from error

    @staticmethod
    async def _rows(cursor: Any) -> list[Sequence[bytes | None]]:
        """A stored procedure may say more after its result set, but no second one."""
        found: list[Sequence[bytes | None]] | None = None
        while True:
            if cursor.description is not None:
                if found is not None:
                    raise Refused("more than one result set")
                found = list(await cursor.fetchall())
            if not await cursor.nextset():
                break
        if found is None:
            raise NoResult
        return found

    def drop(self) -> None:
        self._connection.close()

    async def close(self) -> None:
        await self._connection.ensure_closed()


class NoResult(Refused):
    """The statement gave no result set."""

    def __init__(self) -> None:
        super().__init__("no result set (see require_result_set)")


def _error(error: Exception) -> Lost | Refused:
    """Whether the server refused, or the connection is no good any more."""
    from asyncmy.errors import MySQLError

    number = error.args[0] if error.args and isinstance(error.args[0], int) else 0
    said = " ".join(str(each) for each in error.args) or type(error).__name__
    served = 1000 <= number < 2000 or number >= 3000
    if isinstance(error, MySQLError) and served and number not in _LOST:
        return Refused(said)
    return Lost(said)


class _Database:
    """The servers, and the statement they are asked."""

    def __init__(self, cf: Cf, statement: Statement, context: Context) -> None:
        self._name, self._statement = cf.spec, statement
        self._login = login_of(cf)
        self._strict = cf.flag("require_result_set", default=True)
        self._limit = context.connect_limit
        self._servers = Servers(
            cf.spec, _servers(cf), self._connect, limits_of(cf, context), context
        )

    async def _connect(self, server: Server) -> _Connection:
        import asyncmy

        place = {"unix_socket": server.host} if server.unix else {"host": server.host}
        port = {} if server.unix else {"port": server.port}
        try:
            return _Connection(
                await asyncmy.connect(
                    **self._login, **place, **port, connect_timeout=max(1, self._limit)
                )
            )
        except Exception as error:
            raise Lost(str(_error(error))) from error

    async def values(self, key: Parts) -> Iterable[bytes | None]:
        """Every column of every row.  Raises Unavailable."""
        parameters = bound(self._statement, key, self._name)
        rows = await self._servers.ask(lambda connection: self._ask(connection, parameters))
        return [value for row in rows for value in row]

    async def _ask(
        self, connection: _Connection, parameters: Sequence[str | int]
    ) -> list[Sequence[bytes | None]]:
        try:
            return await connection.query(self._statement.text, parameters)
        except NoResult:
            if self._strict:
                raise
            return []

    async def close(self) -> None:
        """Close the connections."""
        await self._servers.close()
