"""Virtual aliases: a recipient becomes one or several others, again and again until none has an
alias (virtual(5), cleanup(8)).

A recipient that is its own alias stays as it is.  What grows without end is refused for now:
the table is wrong, and the mail is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from smtpgw.address.find import Maps
from smtpgw.address.mapping import Mapper


class Unreasonable(Exception):  # noqa: N818 - the name says what the table is
    """A table that leads nowhere: too deep, too many, too long.  The mail is put off."""


@dataclass(frozen=True, slots=True)
class VirtualOptions:
    """postconf(5): virtual_alias_recursion_limit, virtual_alias_expansion_limit (addresses that
    one becomes), virtual_alias_address_length_limit (octets)."""

    recursion_limit: int = 1000
    expansion_limit: int = 1000
    length_limit: int = 1000
    propagate: bool = True


@dataclass(frozen=True, slots=True)
class Expansion:
    """One step: an address became others, since the table says so there.  `rule` is the
    parameter that names the table."""

    address: bytes
    became: tuple[bytes, ...]
    where: str
    rule: str = ""


Told = Callable[[Expansion], None]


@dataclass(frozen=True, slots=True)
class Virtual:
    """virtual_alias_maps, ready for use."""

    maps: Maps
    mapper: Mapper
    options: VirtualOptions = VirtualOptions()

    async def expand(self, address: bytes, told: Told | None = None) -> tuple[bytes, ...]:
        """The final recipients of an internal address; itself where it has no alias.

        Raises Unavailable, Unreasonable.
        """
        found, own = [address], set[bytes]()
        at = 0
        while at < len(found):
            await self._expand_one(found, at, own, told)
            at += 1
        return tuple(found)

    async def _expand_one(
        self, found: list[bytes], at: int, own: set[bytes], told: Told | None
    ) -> None:
        """Replace `found[at]` by the end of its aliases; what comes beside goes to the end."""
        depth = 0
        while found[at].lower() not in own:
            if depth >= self.options.recursion_limit:
                raise Unreasonable(f"virtual aliases of {found[at]!r} lead too deep")
            depth += 1
            mapped = await self.mapper.map(self.maps, found[at], propagate=self.options.propagate)
            if mapped is None:
                return
            if told is not None:
                told(Expansion(found[at], mapped.addresses, mapped.where))
            if any(each.lower() == found[at].lower() for each in mapped.addresses):
                own.add(found[at].lower())
            found[at : at + 1] = mapped.addresses[:1]
            found += mapped.addresses[1:]
            self._check(found, mapped.addresses)

    def _check(self, found: list[bytes], added: tuple[bytes, ...]) -> None:
        if len(found) > self.options.expansion_limit:
            raise Unreasonable(f"virtual aliases of {found[0]!r} are too many")
        for each in added:
            if len(each) > self.options.length_limit:
                raise Unreasonable(f"virtual alias of {len(each)} octets")
