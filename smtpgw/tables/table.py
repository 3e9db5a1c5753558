"""What a table is, and the two ways in which it can fail.

A table is asked with `await table.find(key)`.  None says that the key is not in it; a
table that cannot answer raises Unavailable instead, which its caller makes a temporary
failure (4xx), never "not found".  A definition that cannot be used raises TableError
when it is opened.  Keys and values are octets; a key may hold any.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable


@dataclass(frozen=True, slots=True)
class Found:
    """An answer.  `where`: what gave it, "/etc/postfix/virtual:17" or the query that was
    sent, for reasons and for people."""

    value: bytes
    where: str = ""


class Unavailable(Exception):  # noqa: N818 - what callers say: the table is unavailable
    """The table `name` cannot answer now.  `reason` is for the log, never for a peer."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name}: {reason}")
        self.name, self.reason = name, reason


class TableError(Exception):
    """A definition that cannot be used: which table, in which line of which file (0: the file
    as a whole), what was found there and what was expected."""

    def __init__(
        self, spec: str, file: str = "", line: int = 0, found: str = "", expected: str = ""
    ) -> None:
        place = f"{file}:{line}" if line else file
        words = [found, f"expected {expected}" if expected else ""]
        super().__init__(": ".join(filter(None, (spec, place, "; ".join(filter(None, words))))))
        self.spec, self.file, self.line = spec, file, line
        self.found, self.expected = found, expected


class Table(Protocol):
    """Anything that can be asked."""

    @property
    def name(self) -> str:
        """The table as it was written: "hash:/etc/postfix/virtual"."""

    async def find(self, key: bytes) -> Found | None:
        """What the table has for the key.  Raises Unavailable."""

    async def close(self) -> None:
        """Give back what the table holds: connections, descriptors."""


@runtime_checkable
class LocalTable(Protocol):
    """A table whose answers are in memory: it can be asked without waiting."""

    @property
    def name(self) -> str:
        """The table as it was written."""

    def find_now(self, key: bytes) -> Found | None:
        """The same answer as find().  Raises Unavailable."""

    async def find(self, key: bytes) -> Found | None:
        """What the table has for the key.  Raises Unavailable."""

    async def close(self) -> None:
        """Give back what the table holds."""


@runtime_checkable
class Listable(Protocol):
    """A table that can tell all it holds (`postmap -s`)."""

    def entries(self) -> Iterator[tuple[bytes, Found]]:
        """Every key with its answer, in no order one may count on.  Raises Unavailable."""


class Local(ABC):
    """A LocalTable, as far as all of them are alike."""

    __slots__ = ("_name",)

    def __init__(self, name: str) -> None:
        self._name = name

    @property
    def name(self) -> str:
        """The table as it was written."""
        return self._name

    @abstractmethod
    def find_now(self, key: bytes) -> Found | None:
        """The answer, without waiting.  Raises Unavailable."""

    async def find(self, key: bytes) -> Found | None:
        """The answer.  Raises Unavailable."""
        return self.find_now(key)

    async def close(self) -> None:  # noqa: B027 - a table in memory has nothing to give back
        """Nothing is held."""


def stale(table: object) -> str:
    """Why a table still answers from an old content; empty if it does not."""
    said = getattr(table, "stale", None)
    return str(said()) if said is not None else ""


Changes = Callable[[], int]
"""A number that grows whenever a table may answer otherwise than before."""


def changes(table: object) -> tuple[Changes, ...] | None:
    """What to look at to know that a table still answers as it did: nothing for one that never
    changes; None where only asking tells.  One that can be watched has a method `changes`."""
    found = getattr(table, "changes", None)
    return None if found is None else cast("tuple[Changes, ...] | None", found())


def fixed(table: object) -> bool:
    """Whether keys stand in the table as they are (DICT_FLAG_FIXED of Postfix).  A table of
    patterns, or one that computes, has `fixed` false: it is asked for whole addresses and
    names only, for it would find a part of one, `@example.com`, where nobody means it."""
    return bool(getattr(table, "fixed", True))
