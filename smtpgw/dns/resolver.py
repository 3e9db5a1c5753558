"""The name servers, asked with dnspython: every wait bounded, every answer bounded.

Only names that can exist are asked for, and never a search list is used.  Queries carry
EDNS and AD; an answer that was cut short is asked for again by TCP; one with the wrong
id or question is nobody's answer, and waiting goes on.  A server that refuses, fails or
stays silent is followed by the next, and if none is left the answer is TryAgain.
One that does not run is known at once: sockets are connected, so that the kernel tells
of a port where nobody listens, and takes answers from the server alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any, TypeVar, cast

import dns._asyncio_backend  # the backend that is made anew below has no public name
import dns.asyncresolver
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.nameserver
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.resolver
import dns.reversename
from dns.rdtypes.ANY.MX import MX
from dns.rdtypes.ANY.NS import NS
from dns.rdtypes.ANY.PTR import PTR
from dns.rdtypes.ANY.TXT import TXT

from smtpgw.dns.answers import (
    AddressAnswer,
    Family,
    Found,
    IpAddress,
    Missing,
    Mx,
    MxAnswer,
    NamesAnswer,
    NoData,
    NoName,
    TextAnswer,
    TryAgain,
    host_name,
)
from smtpgw.dns.cache import Cache

PAYLOAD = 1232
"""Octets of a UDP answer that pass everywhere unfragmented (DNS flag day 2020)."""

_NO_EDNS = (dns.rcode.FORMERR, dns.rcode.NOTIMP)
"""What a server says that has never heard of EDNS (RFC 6891 section 7)."""

_RESOLV_CONF = Path("/etc/resolv.conf")


class _Connected(dns._asyncio_backend.Backend):
    """dnspython's sockets for asyncio, connected."""

    def datagram_connection_required(self) -> bool:
        return True


_BACKEND = _Connected()

Server = tuple[str, int]
R = TypeVar("R")
_Read = Callable[[Sequence[dns.rdata.Rdata]], tuple[R, ...]]


@dataclass(frozen=True, slots=True)
class DnsOptions:
    """`nameservers`: address and port of each, asked in this order; none means those of
    /etc/resolv.conf.  `try_timeout`, `query_timeout`: seconds for one server's answer and
    for all that a question takes.  `min_ttl`, `max_ttl`: bounds, in seconds, of how long an
    answer is kept.  `cache`, `records`, `queries`: at most so many answers kept, records
    of an answer used, and questions asked at once."""

    nameservers: tuple[Server, ...] = ()
    try_timeout: float = 3.0
    query_timeout: float = 10.0
    min_ttl: float = 5.0
    max_ttl: float = 3600.0
    cache: int = 10_000
    records: int = 100
    queries: int = 100


def system_nameservers() -> tuple[Server, ...]:
    """Those of /etc/resolv.conf, or the one on this machine if it names none (resolv.conf(5))."""
    return _read_resolv_conf()


def _read_resolv_conf() -> tuple[Server, ...]:
    found = []
    try:
        lines = _RESOLV_CONF.read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    for words in map(str.split, lines):
        if len(words) > 1 and words[0] == "nameserver" and "%" not in words[1]:
            found.append((words[1], 53))
    return tuple(found) or (("127.0.0.1", 53),)


@dataclass(frozen=True, slots=True)
class _Kept:
    """An answer, and when it came."""

    answer: Found[Any] | Missing
    at: float

    def now(self, when: float) -> Found[Any] | Missing:
        """The answer with the time that it is still good for."""
        if isinstance(self.answer, TryAgain) or when <= self.at:
            return self.answer
        return replace(self.answer, ttl=max(0.0, self.answer.ttl - (when - self.at)))


class DnsResolver:
    """A :class:`~smtpgw.dns.answers.Resolver`.  `clock` gives monotonic seconds; `observe`
    gets the type of each question and the kind of its answer."""

    def __init__(
        self,
        options: DnsOptions,
        clock: Callable[[], float],
        observe: Callable[[str, str], None] = lambda _type, _outcome: None,
    ) -> None:
        self._options, self._clock, self._observe = options, clock, observe
        self._cache: Cache[_Kept] = Cache(options.cache, clock)
        self._room = asyncio.Semaphore(options.queries)
        self._servers: list[dns.nameserver.Nameserver] = []

    def _asker(self, edns: int) -> dns.asyncresolver.Resolver:
        """Who asks once.  The servers are known from the first question on: who never asks
        needs no resolv.conf."""
        if not self._servers:
            servers = self._options.nameservers or system_nameservers()
            self._servers = [dns.nameserver.Do53Nameserver(*each) for each in servers]
        asker = dns.asyncresolver.Resolver(configure=False)
        asker.nameservers = self._servers
        asker.timeout, asker.lifetime = self._options.try_timeout, self._options.query_timeout
        asker.flags = dns.flags.RD | dns.flags.AD
        asker.use_edns(edns, 0, PAYLOAD)
        return asker

    async def mx(self, name: str, limit: float) -> MxAnswer:
        """The mail exchangers of a domain; those with names no host can have are left out."""
        return await self._lookup(name, dns.rdatatype.MX, limit, _exchangers)

    async def address(self, name: str, family: Family, limit: float) -> AddressAnswer:
        """The addresses of a host."""
        kind = dns.rdatatype.A if family is Family.IPV4 else dns.rdatatype.AAAA
        return await self._lookup(name, kind, limit, _addresses)

    async def ptr(self, address: IpAddress, limit: float) -> NamesAnswer:
        """The names of an address, those no host can have left out."""
        name = dns.reversename.from_address(str(address)).to_text(omit_final_dot=True)
        return await self._lookup(name, dns.rdatatype.PTR, limit, _names)

    async def txt(self, name: str, limit: float) -> TextAnswer:
        """The texts of a name."""
        return await self._lookup(name, dns.rdatatype.TXT, limit, _texts)

    async def ns(self, name: str, limit: float) -> NamesAnswer:
        """The name servers of a domain; those with names no host can have are left out."""
        return await self._lookup(name, dns.rdatatype.NS, limit, _names)

    async def _lookup(
        self, name: str, kind: dns.rdatatype.RdataType, limit: float, read: _Read[R]
    ) -> Found[R] | Missing:
        try:
            name = host_name(name)
        except ValueError as error:
            return NoName(str(error))
        limit = min(limit, self._options.query_timeout)
        try:
            async with asyncio.timeout(limit):
                kept = await self._cache.get((name, kind), lambda: self._ask(name, kind, read))
        except TimeoutError:
            return TryAgain(f"no answer within {limit:.3g} s")
        return cast(Found[R] | Missing, kept.now(self._clock()))

    async def _ask(
        self, name: str, kind: dns.rdatatype.RdataType, read: _Read[R]
    ) -> tuple[_Kept, float]:
        answer, good = await self._answer(name, kind, read)
        self._observe(kind.name, type(answer).__name__.lower())
        return _Kept(answer, self._clock()), good

    async def _answer(
        self, name: str, kind: dns.rdatatype.RdataType, read: _Read[R]
    ) -> tuple[Found[R] | Missing, float]:
        """The answer, and the seconds it is good for."""
        absolute = dns.name.from_text(name + ".")
        try:
            async with asyncio.timeout(self._options.query_timeout), self._room:
                found = await self._resolve(absolute, kind)
        except dns.resolver.NXDOMAIN as error:
            response = error.kwargs["responses"][absolute]
            good = response.resolve_chaining().minimum_ttl
            ttl = _denied(response, good)
            return NoName("no such name", _secure(response), ttl), self._good(good)
        except (dns.exception.DNSException, OSError) as error:
            return TryAgain(_reason(error)), 0.0
        except TimeoutError:
            return TryAgain(f"no answer within {self._options.query_timeout:.3g} s"), 0.0
        if found.response.flags & dns.flags.TC:
            return TryAgain(f"{found.nameserver}: an answer that does not fit"), 0.0
        good, secure = found.chaining_result.minimum_ttl, _secure(found.response)
        if found.rrset is None:
            ttl = _denied(found.response, good)
            return NoData(f"no {kind.name} record", secure, ttl), self._good(good)
        records = read(list(found.rrset))[: self._options.records]
        return Found(records, secure, float(good)), self._good(good)

    async def _resolve(
        self, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> dns.resolver.Answer:
        try:
            return await self._once(0, name, kind)
        except dns.resolver.NoNameservers as error:
            if not any(each[4] and each[4].rcode() in _NO_EDNS for each in error.kwargs["errors"]):
                raise
        return await self._once(-1, name, kind)

    async def _once(
        self, edns: int, name: dns.name.Name, kind: dns.rdatatype.RdataType
    ) -> dns.resolver.Answer:
        return await self._asker(edns).resolve(
            name, kind, raise_on_no_answer=False, search=False, backend=_BACKEND
        )

    def _good(self, ttl: float) -> float:
        return min(max(ttl, self._options.min_ttl), self._options.max_ttl)

    async def close(self) -> None:
        """Give up what is still being asked."""
        await self._cache.close()


def _denied(response: dns.message.Message, ttl: int) -> float:
    """How long "there is none" is good for; 0 where no SOA says it (RFC 2308 section 5)."""
    said = any(each.rdtype == dns.rdatatype.SOA for each in response.authority)
    return float(ttl) if said else 0.0


def _secure(response: dns.message.Message) -> bool:
    return bool(response.flags & dns.flags.AD)


def _exchangers(records: Sequence[dns.rdata.Rdata]) -> tuple[Mx, ...]:
    """Those whose names are names, the best first: DNS lets them hold any octet."""
    found = []
    for each in cast(Sequence[MX], records):
        host = each.exchange.to_text(omit_final_dot=True)
        with contextlib.suppress(ValueError):
            found.append(Mx(each.preference, "" if host == "." else host_name(host)))
    return tuple(sorted(found))


def _names(records: Sequence[dns.rdata.Rdata]) -> tuple[str, ...]:
    found = []
    for each in cast("Sequence[NS | PTR]", records):
        with contextlib.suppress(ValueError):
            found.append(host_name(each.target.to_text(omit_final_dot=True)))
    return tuple(dict.fromkeys(found))


def _texts(records: Sequence[dns.rdata.Rdata]) -> tuple[bytes, ...]:
    return tuple(b"".join(each.strings) for each in cast(Sequence[TXT], records))


def _addresses(records: Sequence[dns.rdata.Rdata]) -> tuple[IpAddress, ...]:
    return tuple(ip_address(each.to_text()) for each in records)


def _reason(error: Exception) -> str:
    """What the last server asked did wrong, in a few words."""
    errors = getattr(error, "kwargs", {}).get("errors") or ()
    if not errors:
        return str(error) or type(error).__name__
    server, _, _, fault, _ = errors[-1]
    return f"{server.removeprefix('Do53:')}: {str(fault) or type(fault).__name__}"
