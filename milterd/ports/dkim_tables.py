"""Tables of keys and of signers, as OpenDKIM's settings name them, opendkim(8) "DATA SETS".

A small reader of the milter half's own: the gateway's tables live in its event loop and know
queries by parts of addresses, while a filter asks from a thread, for whole keys.  Text files are
read once, when the filter starts; databases are asked each time, so a change counts at once.

* `file:/path` or `/path`: key, white space, value on a line; `#` begins a comment
* `refile:/path`: the same with `*` in keys, tried in order
* `csl:key=value,key=value`
* `lmdb:/path`: `/path.lmdb` as postmap(1) writes it
* `sqlite:/path.cf`: sqlite_table(5) with `dbpath` and `query`
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from milterd.ports.dkim_databases import LmdbTable, SqliteTable, TableDownError
from milterd.ports.dkim_dsn import DsnTable

__all__ = ["MapTable", "PatternTable", "Table", "TableDownError", "TableError", "open_table"]

T = TypeVar("T")
FILE_LIMIT = 64 << 20
"""Octets of the largest text file that is read."""


class TableError(ValueError):
    """A table that cannot be read; the text names it and says why."""


class Table(Protocol):
    """Values by keys."""

    @property
    def name(self) -> str:
        """The table as it was written."""
        ...

    def get(self, key: str) -> str | None:
        """The value; keys are looked up in lower case.  Raises TableDownError."""
        ...


class MapTable:
    """A table in memory."""

    def __init__(self, name: str, values: dict[str, str]) -> None:
        self.name, self._values = name, values

    def get(self, key: str) -> str | None:
        """See :meth:`Table.get`."""
        return self._values.get(key.lower())

    def values(self) -> Iterator[tuple[str, str]]:
        """Every key with its value, in the file's order."""
        yield from self._values.items()


class PatternTable:
    """Patterns in which `*` stands for any octets, in order."""

    def __init__(self, name: str, rows: list[tuple[str, str]]) -> None:
        self.name = name
        self._rows = [(each, each.lower().split("*"), value) for each, value in rows]

    def get(self, key: str) -> str | None:
        """The value of the first pattern that fits."""
        return next((value for _, value in self.matches(key)), None)

    def matches(self, key: str) -> Iterator[tuple[str, str]]:
        """Every pattern that fits, with its value."""
        text = key.lower()
        for pattern, parts, value in self._rows:
            if _fits(text, parts):
                yield pattern, value

    def values(self) -> Iterator[tuple[str, str]]:
        """Every pattern with its value, in the file's order."""
        yield from ((pattern, value) for pattern, _, value in self._rows)


def _fits(text: str, parts: list[str]) -> bool:
    """Whether the text has the parts in order, the first and the last at its ends; linear."""
    if len(parts) == 1:
        return text == parts[0]
    first, *middle, last = parts
    end = len(text) - len(last)
    if not text.startswith(first) or not text.endswith(last) or end < len(first):
        return False
    at = len(first)
    for part in middle:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def open_table(text: str) -> MapTable | PatternTable | LmdbTable | SqliteTable | DsnTable:
    """The table that a setting names.  Raises TableError."""
    kind, colon, rest = text.partition(":")
    if text.startswith("/"):
        kind, colon, rest = "file", ":", text
    match kind if colon else "":
        case "file":
            return MapTable(text, _first_of_each(_lines(text, rest)))
        case "refile":
            return PatternTable(text, _lines(text, rest))
        case "csl":
            return MapTable(text, _first_of_each(_pairs(text, rest)))
        case "lmdb":
            return _opened(text, lambda: LmdbTable(text, Path(rest + ".lmdb")))
        case "dsn":
            return _dsn(rest)
        case "sqlite":
            return _opened(text, lambda: SqliteTable(text, Path(rest)))
    raise TableError(f"table {text!r}: expected file:, refile:, csl:, lmdb:, sqlite: or dsn:")


def _dsn(text: str) -> DsnTable:
    try:
        return DsnTable(text)
    except ValueError as error:  # the text has a password in it: it is not shown
        raise TableError(f"table dsn:{text.partition(':')[0]}://...: {error}") from error


def _opened(text: str, make: Callable[[], T]) -> T:
    try:
        return make()
    except (OSError, ValueError) as error:
        raise TableError(f"table {text}: {error}") from error


def _first_of_each(rows: list[tuple[str, str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in rows:
        found.setdefault(key.lower(), value)
    return found


def _lines(text: str, path: str) -> list[tuple[str, str]]:
    """Keys and values of a file's lines."""
    try:
        with Path(path).open("rb") as file:
            octets = file.read(FILE_LIMIT + 1)
        lines = octets.decode("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"table {text}: {error}") from error
    if len(octets) > FILE_LIMIT:
        raise TableError(f"table {text}: longer than {FILE_LIMIT} octets")
    rows = []
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split(None, 1)
        if len(words) == 1:
            raise TableError(f"table {text}, line {number}: a key without a value")
        if words:
            rows.append((words[0], words[1].rstrip()))
    return rows


_PAIR = re.compile(r"\s*([^=]+)=(.*?)\s*", re.DOTALL)


def _pairs(text: str, rest: str) -> list[tuple[str, str]]:
    rows = []
    for each in rest.split(","):
        match = _PAIR.fullmatch(each)
        if match is None:
            raise TableError(f"table {text}: {each.strip()!r} is not key=value")
        rows.append((match[1], match[2]))
    return rows
