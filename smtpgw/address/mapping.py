"""An address replaced by what a table has for it (mail_addr_map(3)).

`@domain` as a result keeps the local part; an extension that the key had lost comes back on
each result where the table is one of propagate_unmatched_extensions; every result is put into
standard form.
"""

from __future__ import annotations

from dataclasses import dataclass

from smtpgw.address import form
from smtpgw.address.find import Finder, Hit, Maps, Tried
from smtpgw.address.keys import Strategy
from smtpgw.address.mailboxes import addresses
from smtpgw.address.standard import Standard


@dataclass(frozen=True, slots=True)
class Mapped:
    """Internal addresses, at least one, and where the table says so."""

    addresses: tuple[bytes, ...]
    where: str
    key: bytes


@dataclass(frozen=True, slots=True)
class Mapper:
    """How addresses are mapped here."""

    finder: Finder
    standard: Standard

    async def map(
        self,
        maps: Maps,
        address: bytes,
        *,
        propagate: bool,
        strategy: Strategy = Strategy.DEFAULT,
        tried: Tried | None = None,
    ) -> Mapped | None:
        """What an internal address is replaced by; None where no table has it, or has nothing
        for it that is an address.  Raises Unavailable."""
        hit = await self.finder.find(maps, address, strategy, tried)
        if hit is None:
            return None
        results = tuple(self._results(hit, address, propagate))
        return Mapped(results, hit.where, hit.key) if results else None

    def _results(self, hit: Hit, address: bytes, propagate: bool) -> list[bytes]:
        value = hit.value
        if value.startswith(b"@"):
            local, _ = form.split(address)
            kept = local.removesuffix(hit.extension) if hit.extension else local
            value = form.quote(kept) + value
        found = [form.internal(each) for each in addresses(value)]
        extension = hit.extension if propagate else b""
        return [each for each in (self.standard.local(_with(x, extension)) for x in found) if each]


def _with(address: bytes, extension: bytes) -> bytes:
    local, domain = form.split(address)
    local += extension
    return local if domain is None else b"%b@%b" % (local, domain)
