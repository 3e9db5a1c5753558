"""An address in a table: asked key by key, with all that was asked for those who want to know."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from smtpgw.address.extension import Delimiter
from smtpgw.address.keys import Key, Strategy, keys


class Answer(Protocol):
    """What a table found, and where: a line of a file, a query."""

    @property
    def value(self) -> bytes:
        """As it stands there."""

    @property
    def where(self) -> str:
        """For people."""


class Maps(Protocol):
    """Tables in their order (:class:`smtpgw.tables.maps.Maps`)."""

    async def find(self, key: bytes, partial: bool = False) -> Answer | None:
        """The first answer; `partial` keys are asked of tables of fixed strings only.
        Raises :class:`smtpgw.tables.table.Unavailable`."""


@dataclass(frozen=True, slots=True)
class Hit:
    """What was found under which key; `extension` is what the key lost of the address."""

    value: bytes
    where: str
    key: bytes
    extension: bytes


Tried = Callable[[bytes], None]
"""Called with each key that is asked for."""
Ours = Callable[[bytes], Awaitable[bool]]
"""Whether a domain is one of ours.  Raises Unavailable."""


@dataclass(frozen=True, slots=True)
class Finder:
    """How addresses are looked up here."""

    delimiter: Delimiter
    ours: Ours

    async def find(
        self,
        maps: Maps,
        address: bytes,
        strategy: Strategy = Strategy.DEFAULT,
        tried: Tried | None = None,
    ) -> Hit | None:
        """An internal address.  Raises Unavailable where a table that would come first cannot
        answer."""
        whole = strategy & (Strategy.FULL | Strategy.NOEXT)
        found = await self._first(maps, keys(address, whole, self.delimiter), tried)
        _, at, domain = address.rpartition(b"@")
        if found is not None or not at:
            return found
        # Whether the domain is ours is asked only now: that may be a table too.
        ours = Strategy.LOCALPART_IF_LOCAL in strategy and await self.ours(domain)
        rest = strategy & ~whole
        return await self._first(maps, keys(address, rest, self.delimiter, ours=ours), tried)

    async def _first(self, maps: Maps, those: Iterable[Key], tried: Tried | None) -> Hit | None:
        for key in those:
            found = await ask(maps, key, tried)
            if found is not None:
                return found
        return None


async def ask(maps: Maps, key: Key, tried: Tried | None = None) -> Hit | None:
    """One key, and the same without its quotes."""
    for text in (key.text, key.other):
        if not text:
            continue
        if tried is not None:
            tried(text)
        found = await maps.find(text, key.partial)
        if found is not None:
            return Hit(found.value, found.where, text, key.extension)
    return None
