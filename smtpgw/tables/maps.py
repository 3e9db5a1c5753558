"""Several tables as one: the first that has the key answers (maps_find() of Postfix).

A table that cannot answer ends the search: what a later table says would be another
answer than the postmaster's.  An empty answer is a mistake in the table, never "found".
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

from smtpgw.tables.table import Changes, Found, LocalTable, Table, Unavailable, changes, fixed


class Maps:
    """Tables in the order they are asked."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self.tables = tuple(tables)
        self._all = tuple(
            (each, each.find_now if isinstance(each, LocalTable) else None) for each in tables
        )
        self._parts = tuple(each for each in self._all if fixed(each[0]))

    def __bool__(self) -> bool:
        return bool(self.tables)

    @property
    def name(self) -> str:
        """The tables as they were written."""
        return ", ".join(each.name for each in self.tables)

    async def find(self, key: bytes, partial: bool = False) -> Found | None:
        """The first answer; of tables of fixed keys only if the key is a part of what is looked
        for.  Raises Unavailable; an empty key is in no table."""
        if not key:
            return None
        for table, now in self._parts if partial else self._all:
            found = now(key) if now is not None else await table.find(key)
            if found is not None:
                if not found.value:
                    raise Unavailable(table.name, f"empty answer for {key!r}")
                return found
        return None

    def changes(self) -> tuple[Changes, ...] | None:
        """What to look at to know that all answer as they did; None if one cannot be watched."""
        found = [changes(each) for each in self.tables]
        if None in found:
            return None
        return tuple(itertools.chain.from_iterable(each or () for each in found))

    async def close(self) -> None:
        """Close all of them."""
        await asyncio.gather(*(each.close() for each in self.tables))
