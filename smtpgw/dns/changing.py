"""A resolver whose options may change while it is asked: sessions keep it, reloads change it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from smtpgw.dns.answers import (
    AddressAnswer,
    Family,
    IpAddress,
    MxAnswer,
    NamesAnswer,
    TextAnswer,
)
from smtpgw.dns.resolver import DnsOptions, DnsResolver


class ChangingResolver:
    """A :class:`~smtpgw.dns.answers.Resolver`.  `clock` and `observe` as with DnsResolver."""

    def __init__(
        self,
        options: DnsOptions,
        clock: Callable[[], float],
        observe: Callable[[str, str], None] = lambda _type, _outcome: None,
    ) -> None:
        self._clock, self._observe = clock, observe
        self._options = options
        self._now = DnsResolver(options, clock, observe)
        self._before: list[DnsResolver] = []

    def configure(self, options: DnsOptions) -> None:
        """Ask by these from now on; what is being asked already goes on."""
        if options != self._options:
            self._before.append(self._now)
            self._options = options
            self._now = DnsResolver(options, self._clock, self._observe)

    async def mx(self, name: str, limit: float) -> MxAnswer:
        """The mail exchangers of a domain."""
        return await self._now.mx(name, limit)

    async def address(self, name: str, family: Family, limit: float) -> AddressAnswer:
        """The addresses of a host."""
        return await self._now.address(name, family, limit)

    async def ptr(self, address: IpAddress, limit: float) -> NamesAnswer:
        """The names of an address."""
        return await self._now.ptr(address, limit)

    async def txt(self, name: str, limit: float) -> TextAnswer:
        """The texts of a name."""
        return await self._now.txt(name, limit)

    async def ns(self, name: str, limit: float) -> NamesAnswer:
        """The name servers of a domain."""
        return await self._now.ns(name, limit)

    async def close(self) -> None:
        """Give up what is still being asked."""
        await asyncio.gather(*(each.close() for each in (*self._before, self._now)))
