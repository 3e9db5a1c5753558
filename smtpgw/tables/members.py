"""What unionmap: and pipemap: have in common: tables made of tables.

If every member answers without waiting, so does the whole.
"""

from __future__ import annotations

import asyncio
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from typing import cast

from smtpgw.tables import spec as specs
from smtpgw.tables.context import Context
from smtpgw.tables.table import (
    Changes,
    Found,
    LocalTable,
    Table,
    TableError,
    changes,
    fixed,
    stale,
)

Search = Generator[tuple[Table, bytes], Found | None, Found | None]
"""Yields (table, key), is sent what the table has, returns the answer."""


class Members(ABC):
    """Tables behind one name."""

    def __init__(self, name: str, tables: Sequence[Table]) -> None:
        self._name, self.tables = name, tuple(tables)
        self.fixed = all(map(fixed, tables))

    @property
    def name(self) -> str:
        """The table as it was written."""
        return self._name

    @abstractmethod
    def search(self, key: bytes) -> Search:
        """Which member is asked for what."""

    async def find(self, key: bytes) -> Found | None:
        """The answer.  Raises Unavailable if a member that is asked cannot answer."""
        search, found = self.search(key), None
        while True:
            try:
                table, wanted = search.send(found)
            except StopIteration as end:
                return cast(Found | None, end.value)
            found = await table.find(wanted)

    def find_local(self, key: bytes) -> Found | None:
        """The same, where every member is local."""
        search, found = self.search(key), None
        while True:
            try:
                table, wanted = search.send(found)
            except StopIteration as end:
                return cast(Found | None, end.value)
            found = cast(LocalTable, table).find_now(wanted)

    async def close(self) -> None:
        """Close all of them."""
        await asyncio.gather(*(each.close() for each in self.tables))

    def changes(self) -> tuple[Changes, ...] | None:
        """What there is to look at of all members; None if one cannot be watched."""
        found = [changes(each) for each in self.tables]
        if None in found:
            return None
        return tuple(itertools.chain.from_iterable(each or () for each in found))

    def stale(self) -> str:
        """The first member's that is."""
        return next(filter(None, map(stale, self.tables)), "")


def open_members(name: str, context: Context, kind: Callable[[str, list[Table]], Members]) -> Table:
    """The table of `type:{ type:name, type:name }`.  Raises TableError."""
    spec = context.spec(name)
    try:
        members = specs.members(name)
    except ValueError as error:
        expected = f"{context.type}:{{ type:name, type:name... }}"
        raise TableError(spec, found=str(error), expected=expected) from error
    made = kind(spec, [context.open(each) for each in members])
    if all(isinstance(each, LocalTable) for each in made.tables):
        made.find_now = made.find_local  # type: ignore[attr-defined] # what makes it a LocalTable
    return made
