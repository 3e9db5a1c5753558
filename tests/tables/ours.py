"""Our tables, asked as postmap is asked, and telling what postmap tells."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from smtpgw.tables.catalogue import open_table
from smtpgw.tables.context import Context
from smtpgw.tables.table import Found, Listable, Table, TableError, Unavailable


class Clock:
    """Seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def go(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Log:
    """What was logged: (event, fields)."""

    said: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def warning(self, event: str, **fields: Any) -> None:
        self.said.append((event, fields))

    info = warning

    def lines(self) -> frozenset[int]:
        """The numbers of the source lines it speaks of, but for two things that postmap says
        without a line."""
        return frozenset(
            int(fields["line"].rpartition(":")[2])
            for _, fields in self.said
            if "line" in fields
            and "second entry" not in fields["found"]
            and "white space before" not in fields["expected"]
        )


def context(base: Path, **changes: Any) -> Context:
    """A context for tests: a clock that stands still, known randomness, a log to read."""
    given: dict[str, Any] = {"clock": Clock(), "random": random.Random(1), "log": Log()}
    return Context(base=base, **(given | changes))


def said(given: Context) -> Log:
    """The log of such a context."""
    return cast(Log, given.log)


def opened(spec: bytes | str, given: Context) -> Table:
    """The table."""
    text = spec if isinstance(spec, str) else spec.decode("utf-8", "surrogateescape")
    return open_table(text, given)


def now(table: Table, key: bytes) -> bytes | None:
    """The value of a key; raises Unavailable."""
    found: Found | None = asyncio.run(table.find(key))
    return None if found is None else found.value


@dataclass(frozen=True, slots=True)
class Printed:
    """What `postmap -q -` would have printed with our table behind it."""

    output: tuple[bytes, ...]
    failed: bool


def ask(table: Table, keys: Sequence[bytes]) -> Printed:
    """Up to the first key for which the table is unavailable."""

    async def go() -> Printed:
        lines = []
        for key in keys:
            try:
                found = await table.find(key)
            except Unavailable:
                return Printed(tuple(lines), failed=True)
            if found is not None:
                lines.append(key + b"\t" + found.value)
        return Printed(tuple(lines), failed=False)

    return asyncio.run(go())


def listed(table: Table) -> tuple[bytes, ...]:
    """What `postmap -s` would print, sorted."""
    assert isinstance(table, Listable)
    return tuple(sorted(key + b"\t" + found.value for key, found in table.entries()))


def refused(spec: bytes | str, given: Context) -> bool:
    """Whether the table cannot be opened."""
    try:
        opened(spec, given)
    except TableError:
        return True
    return False
