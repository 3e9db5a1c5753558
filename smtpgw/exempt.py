"""Who never waits for the greylist: clients, senders and recipients in tables, and clients in a
list of good ones (DNSWL, RFC 5782)."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from smtpgw.address.find import Maps
from smtpgw.dns.answers import Family, Found, Resolver
from smtpgw.policy.facts import Facts
from smtpgw.tables.table import Unavailable

_LIMIT = 10.0
"""Seconds in which all lists have to answer."""


@dataclass(frozen=True, slots=True)
class Exempt:
    """`zones` are the domains of lists.  A table or a list that cannot answer exempts nobody."""

    clients: Maps | None = None
    senders: Maps | None = None
    recipients: Maps | None = None
    zones: tuple[str, ...] = ()
    resolver: Resolver | None = None

    async def of(self, facts: Facts) -> str:
        """What exempts a mail, or nothing."""
        name = facts.names.name.lower()
        known = name if name != b"unknown" else b""
        for maps, found in (
            (self.clients, (*_domains(known), facts.address.encode())),
            (self.senders, tuple(_keys(facts.sender or b""))),
            (self.recipients, tuple(_keys(facts.recipient or b""))),
        ):
            where = await _listed(maps, found)
            if where:
                return where
        return await self._good(facts.address)

    async def _good(self, address: str) -> str:
        if self.resolver is None or not self.zones:
            return ""
        try:
            given = ipaddress.ip_address(address)
        except ValueError:
            return ""
        reverse = given.reverse_pointer.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")
        resolver = self.resolver
        found = await asyncio.gather(
            *(resolver.address(f"{reverse}.{zone}", Family.IPV4, _LIMIT) for zone in self.zones)
        )
        for zone, answer in zip(self.zones, found, strict=True):
            # Any answer of 127.0.0.0/8 says that it is listed; others are a list that is no more.
            if isinstance(answer, Found) and any(_loopback(each) for each in answer.records):
                return zone
        return ""


def _loopback(address: object) -> bool:
    return isinstance(address, ipaddress.IPv4Address) and address.is_loopback


async def _listed(maps: Maps | None, keys: Sequence[bytes]) -> str:
    if maps is None:
        return ""
    try:
        for key in keys:
            hit = await maps.find(key)
            if hit is not None and hit.value.strip().lower() != b"dunno":
                return hit.where
    except Unavailable:
        return ""
    return ""


def _keys(address: bytes) -> Iterator[bytes]:
    """An address, its domain and those above, its local part."""
    local, at, domain = address.lower().rpartition(b"@")
    if not address:
        yield b"<>"
        return
    yield address.lower()
    yield from _domains(domain)
    if at:
        yield local + b"@"


def _domains(name: bytes) -> Iterator[bytes]:
    """A domain and those above it."""
    while name:
        yield name
        name = name.partition(b".")[2]
