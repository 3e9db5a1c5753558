"""Lists of clients by address, as mynetworks has them (addr_match_list(3)).

    127.0.0.0/8  [::1]/128  !192.0.2.7  192.0.2.0/24  cidr:/etc/postfix/mynetworks.cidr

The first pattern that fits decides; `!` before it makes it a no.  A table is asked for the
address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field

from smtpgw.address.find import Maps
from smtpgw.address.ip import IpAddress, plain_ip_of
from smtpgw.address.remembered import Changes, Remembered, watched

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class ClientElement:
    """A pattern: a network, or a table; `negated` says that what fits is not in the list."""

    network: IpNetwork | None = None
    maps: Maps | None = None
    negated: bool = False


@dataclass(frozen=True, slots=True)
class ClientList:
    """The list."""

    elements: Sequence[ClientElement] = ()
    _known: Remembered[bytes, str] | None = field(
        default=None, init=False, repr=False, compare=False
    )

    def changes(self) -> tuple[Changes, ...] | None:
        """What to look at to know that the list is what it was; None if only asking tells."""
        return watched(each.maps for each in self.elements)

    async def match(self, address: bytes) -> str:
        """What put an address into the list, for people; empty if it is not in it, or no IP
        address at all.  Raises Unavailable."""
        if not self.elements:
            return ""
        known = self._known
        if known is None:
            known = Remembered(self.changes())
            object.__setattr__(self, "_known", known)
        kept = known.now()
        found = None if kept is None else kept.get(address)
        if found is None:
            found = await self._asked(address)
            if kept is not None:
                kept[address] = found
        return found

    async def _asked(self, address: bytes) -> str:
        found = plain_ip_of(address)
        if found is None:
            return ""
        for each in self.elements:
            fits = await _fits(each, found)
            if fits:
                return "" if each.negated else fits
        return ""


async def _fits(element: ClientElement, address: IpAddress) -> str:
    if element.network is not None:
        return str(element.network) if address in element.network else ""
    if element.maps is None:
        return ""
    hit = await element.maps.find(str(address).encode())
    return "" if hit is None else hit.where or str(address)
