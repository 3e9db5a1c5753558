"""OpenDKIM's `dsn:` tables (opendkim(8), DATA SETS): a table of a MySQL or PostgreSQL server.

    dsn:backend://[user[:password]@][port+]host/database/table=T?keycol=K?datacol=A,B[?filter=F]

In every part, `=XX` stands for the octet of that hexadecimal number.  All columns of the first row
count, joined by colons.  Each lookup has a time limit; a server that comes back is found again.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from milterd.ports.dkim_databases import LIMIT, TableDownError

_DSN = re.compile(
    r"(?P<backend>[a-z0-9]+)://(?:(?P<user>[^:@/]*)(?::(?P<password>[^@/]*))?@)?"
    r"(?:(?P<port>\d+)\+)?(?P<host>[^/+@]*)/(?P<database>[^/?]+)/(?P<rest>.+)"
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_$]*(?:\.[A-Za-z_][A-Za-z0-9_$]*)?")
_NEEDED = ("table", "keycol", "datacol")
_PORTS = {"mysql": 3306, "pgsql": 5432}


@dataclass(frozen=True, slots=True)
class Dsn:
    """A data store's name, taken apart."""

    backend: str
    host: str
    port: int
    database: str
    user: str
    password: str
    table: str
    key: str
    data: str
    filter: str

    @classmethod
    def parse(cls, text: str) -> Dsn:
        """What stands behind `dsn:`.  Raises ValueError with what is wrong; never with the
        password."""
        match = _DSN.fullmatch(text)
        if match is None:
            raise ValueError("expected backend://[user[:password]@][port+]host/database/key=value")
        parts = {name: _plain(value or "") for name, value in match.groupdict().items()}
        if parts["backend"] not in _PORTS:
            raise ValueError(
                f"the backend {parts['backend']!r} is not known: expected mysql or pgsql, or "
                "sqlite:/path.cf in place of dsn:"
            )
        values = _values(match["rest"])
        for name in ("table", "keycol", *values["datacol"].split(",")):
            _check_name(values.get(name, name))
        port = int(parts["port"] or _PORTS[parts["backend"]])
        return cls(
            parts["backend"], parts["host"] or "localhost", port, parts["database"],
            parts["user"], parts["password"], values["table"], values["keycol"],
            values["datacol"], values.get("filter", ""),
        )  # fmt: skip

    def query(self, mark: str) -> str:
        """The statement, with `mark` where the key is bound."""
        more = f" AND ({self.filter})" if self.filter else ""
        # Names were checked; the filter is the postmaster's own SQL.
        return f"SELECT {self.data} FROM {self.table} WHERE {self.key} = {mark}{more} LIMIT 1"  # noqa: S608


def _values(text: str) -> dict[str, str]:
    found = {}
    for each in text.split("?"):
        name, equals, value = each.partition("=")
        if not equals or name not in (*_NEEDED, "filter"):
            raise ValueError(f"found {name!r}, expected table=, keycol=, datacol= or filter=")
        found[name] = _plain(value)
    missing = [each for each in _NEEDED if not found.get(each)]
    if missing:
        raise ValueError(f"{missing[0]}= is missing")
    return found


def _plain(text: str) -> str:
    return re.sub(r"=([0-9A-Fa-f]{2})", lambda found: chr(int(found[1], 16)), text)


def _check_name(name: str) -> None:
    if _NAME.fullmatch(name.strip()) is None:
        raise ValueError(f"{name!r} is no name of a table or column")


class _Server(Protocol):
    """An open connection."""

    async def row(self, key: str) -> Sequence[object] | None:
        """The first row."""
        ...

    async def close(self) -> None:
        """End it."""
        ...


class DsnTable:
    """See the module's contract.  Safe to use from several threads."""

    def __init__(self, text: str, limit: float = LIMIT) -> None:
        """Raises ValueError."""
        self._dsn, self._limit = Dsn.parse(text), limit
        dsn = self._dsn
        self.name = f"dsn:{dsn.backend}://{dsn.host}/{dsn.database}/table={dsn.table}"
        self._server: _Server | None = None
        self._turn: asyncio.Lock | None = None

    def get(self, key: str) -> str | None:
        """See :meth:`milterd.ports.dkim_tables.Table.get`."""
        try:
            row = _in_loop(self._row(key.lower()), self._limit + 1)
        except TimeoutError as error:
            raise TableDownError(f"{self.name}: no answer in {self._limit:g} s") from error
        except Exception as error:
            raise TableDownError(f"{self.name}: {type(error).__name__}: {error}") from error
        if row is None or any(each is None for each in row):
            return None
        return ":".join(map(_text, row))

    async def _row(self, key: str) -> Sequence[object] | None:
        self._turn = self._turn or asyncio.Lock()
        async with asyncio.timeout(self._limit), self._turn:
            kept = self._server
            try:
                return await self._asked(key)
            except Exception:
                if kept is None:
                    raise
            return await self._asked(key)  # the server may have ended a kept connection

    async def _asked(self, key: str) -> Sequence[object] | None:
        """One question, on a connection that is kept only where it went well."""
        server, self._server = self._server, None
        server = server or await _BACKENDS[self._dsn.backend](self._dsn)
        try:
            row = await server.row(key)
        except BaseException:
            await server.close()
            raise
        self._server = server
        return row


def _text(value: object) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


class _Mysql:
    def __init__(self, connection: Any, query: str) -> None:
        self._connection, self._query = connection, query

    @classmethod
    async def open(cls, dsn: Dsn) -> _Mysql:
        import asyncmy

        login = {"user": dsn.user, "password": dsn.password, "db": dsn.database}
        where = {"host": dsn.host, "port": dsn.port}
        connection = await asyncmy.connect(**where, **login, charset="utf8mb4", autocommit=True)
        return cls(connection, dsn.query("\0").replace("%", "%%").replace("\0", "%s"))

    async def row(self, key: str) -> Sequence[object] | None:
        async with self._connection.cursor() as cursor:
            await cursor.execute(self._query, (key,))
            found: Sequence[object] | None = await cursor.fetchone()
            return found

    async def close(self) -> None:
        self._connection.close()


class _Postgresql:
    def __init__(self, connection: Any, query: str) -> None:
        self._connection, self._query = connection, query

    @classmethod
    async def open(cls, dsn: Dsn) -> _Postgresql:
        import asyncpg

        login = {"user": dsn.user or None, "password": dsn.password or None}
        where = {"host": dsn.host, "port": dsn.port, "database": dsn.database}
        return cls(await asyncpg.connect(**where, **login), dsn.query("$1"))

    async def row(self, key: str) -> Sequence[object] | None:
        found = await self._connection.fetchrow(self._query, key)
        return None if found is None else tuple(found)

    async def close(self) -> None:
        self._connection.terminate()


_BACKENDS: dict[str, Callable[[Dsn], Coroutine[Any, Any, _Server]]] = {
    "mysql": _Mysql.open,
    "pgsql": _Postgresql.open,
}
_loops = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def _in_loop(work: Coroutine[Any, Any, Any], limit: float) -> Any:
    """What the coroutine returns, run in the loop of a thread that all tables share."""
    global _loop  # noqa: PLW0603  # one loop a process, made when it is first needed
    with _loops:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="dsn tables", daemon=True).start()
    return asyncio.run_coroutine_threadsafe(work, _loop).result(limit)
