"""canonical(5): an address rewritten to the one that the world shall see.

Asked again with what came out, as long as something comes out that is new; a circle ends
after ten rounds, wherever it is then, as in Postfix (which warns of it).
"""

from __future__ import annotations

from dataclasses import dataclass

from smtpgw.address.find import Maps
from smtpgw.address.mapping import Mapper
from smtpgw.address.virtual import Expansion, Told

MAX_RECURSION = 10


@dataclass(frozen=True, slots=True)
class Canonical:
    """A table of canonical_maps, sender_canonical_maps or recipient_canonical_maps."""

    maps: Maps
    mapper: Mapper
    propagate: bool = True

    async def rewrite(self, address: bytes, told: Told | None = None) -> bytes:
        """The address that an internal one becomes.  Raises Unavailable."""
        for _ in range(MAX_RECURSION):
            mapped = await self.mapper.map(self.maps, address, propagate=self.propagate)
            if mapped is None:
                return address
            new = mapped.addresses[0]
            if told is not None:
                told(Expansion(address, (new,), mapped.where))
            if new.lower() == address.lower():
                return new
            address = new
        return address
