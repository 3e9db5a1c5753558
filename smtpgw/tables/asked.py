"""What all databases have in common: which keys they are asked for, and what comes of it.

The order is Postfix's: fold the key, leave out what cannot be in the table (other domains,
keys that lack what the templates need, octets that are no UTF-8), ask, put each value
through `result_format`, join them with commas.  Too many values are an error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from smtpgw.tables import domains
from smtpgw.tables.answers import Answers
from smtpgw.tables.cf import Cf
from smtpgw.tables.context import Context
from smtpgw.tables.folding import is_utf8
from smtpgw.tables.sql import Dialect, NotANumber, Statement, compile_query
from smtpgw.tables.table import Found, Unavailable
from smtpgw.tables.template import Formats, Parts, Template, parse

_FUNCTION = "select_function"
"""pgsql: before Postfix 2.2."""


class Source(Protocol):
    """Where the values come from."""

    async def values(self, key: Parts) -> Iterable[bytes | None]:
        """Every value there is for the key, None for NULL.  Raises Unavailable."""

    async def close(self) -> None:
        """Give back connections."""


def template(cf: Cf, name: str, text: str) -> Template:
    """A template of a .cf file.  Raises TableError."""
    try:
        return parse(text)
    except ValueError as error:
        raise cf.error(str(error), f"%s and the like in {name}", cf.line(name)) from error


class Asked:
    """A table in a database, whichever it is.  `queries` are the templates that a key must have
    all parts for; `where` tells people where an answer is from."""

    def __init__(
        self, cf: Cf, context: Context, source: Source, queries: Sequence[Template], where: str
    ) -> None:
        self._name, self._where, self._source = cf.spec, where, source
        self._folding = context.folding
        shown = template(cf, "result_format", cf.text("result_format", "%s", empty=False))
        self._formats = Formats(queries, shown)
        self._limit = cf.number("expansion_limit", 0)
        self._domains = domains.read(cf, context)
        self._answers = Answers(
            context.cache_size, context.cache_time, context.cache_missing_time, context.clock
        )
        cf.warn(context)

    @property
    def name(self) -> str:
        """The table as it was written."""
        return self._name

    async def find(self, key: bytes) -> Found | None:
        """What the database has.  Raises Unavailable."""
        folded = self._folding.fixed(key)
        if folded is None or b"\0" in folded or not is_utf8(folded):
            return None
        parts = self._formats.key(folded)
        if parts is None or not await self._domains.allows(folded):
            return None
        return await self._answers.get(folded, lambda: self._find(parts))

    async def _find(self, key: Parts) -> Found | None:
        shown = []
        for each in await self._source.values(key):
            value = self._formats.value(each and each.partition(b"\0")[0], key)
            if value is None:
                continue
            shown.append(value)
            if 0 < self._limit < len(shown):
                raise Unavailable(self._name, f"more than {self._limit} values (expansion_limit)")
        answer = b",".join(shown)
        if not self._folding.allows(answer):
            raise Unavailable(self._name, "an answer that is not UTF-8")
        return Found(answer, self._where) if answer else None

    async def close(self) -> None:
        """Close connections and member tables."""
        await self._answers.close()
        await self._domains.close()
        await self._source.close()


def query_of(cf: Cf) -> tuple[str, str]:
    """The SQL query of a .cf file, from `query` or from the settings before Postfix 2.2, and the
    setting it begins in.  Raises TableError."""
    query = cf.get("query")
    field, table, where, more, function = (
        cf.text(each)
        for each in ("select_field", "table", "where_field", "additional_conditions", _FUNCTION)
    )
    if query is not None:
        if not query:
            raise cf.error("an empty query", "SQL", cf.line("query"))
        return query, "query"
    if function:
        return " ".join(("SELECT", f"{function}('%s')")), _FUNCTION
    if not (field and table and where):
        raise cf.error("no query", "query = SELECT ...")
    return " ".join(("SELECT", field, "FROM", table, "WHERE", where, "= '%s'", more)), "table"


def sql_of(cf: Cf, dialect: Dialect) -> tuple[Template, Statement, str]:
    """The query's template, the statement it makes, and where an answer is from, for people.
    Raises TableError."""
    query, setting = query_of(cf)
    parsed = template(cf, setting, query)
    try:
        statement = compile_query(parsed, dialect)
    except ValueError as error:
        raise cf.error(str(error), "%s between quotes", cf.line(setting)) from error
    return parsed, statement, where_of(cf, setting, query)


def bound(statement: Statement, key: Parts, name: str) -> list[str | int]:
    """What to bind.  Raises Unavailable."""
    try:
        return statement.bind(key)
    except NotANumber:
        raise Unavailable(name, "the key has no number where the query has one") from None


def where_of(cf: Cf, name: str, query: str) -> str:
    """Where an answer is from, for people."""
    return f"{cf.path}:{cf.line(name)}: {' '.join(query.split())}"
