"""From a nexthop to the hosts that take its mail, in the order in which to try them.

RFC 5321 section 5.1 with Postfix's parameters and rules (smtp(8), smtp_addr.c): mail
exchangers by preference, equal ones shuffled, the domain's own addresses where it has
none; nobody whose preference is no better than our own.  Only what the name service is
sure of is final: any other trouble is a deferral.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Literal

from smtpgw.delivery.nexthop import Nexthop, kind_of
from smtpgw.delivery.order import Host, OrderOptions, ordered, shuffled
from smtpgw.dns.answers import (
    AddressAnswer,
    Family,
    Found,
    IpAddress,
    Missing,
    Mx,
    NoName,
    Resolver,
    TryAgain,
)

NAMES = 50
"""Mail exchangers of a domain whose addresses are asked for at most."""

Lookup = Literal["dns", "native"]
Native = Callable[[str, Family, float], Awaitable[AddressAnswer]]


@dataclass(frozen=True, slots=True)
class HostOptions:
    """Postfix's parameters by their names (postconf(5)), and who we are.

    `names`, `addresses`: host names and addresses that are ours beside those of the
    machine's interfaces (myhostname, proxy_interfaces); `ports`: where we, or another MTA
    of this machine, listen.  `smtp_mx_refuse_addresses`: kinds of addresses that a domain's
    DNS may not send us to (nexthop.KINDS).  `mail_timeout`: seconds that all questions for
    one nexthop may take together, and a single one half of that.
    """

    names: frozenset[str] = frozenset()
    addresses: frozenset[IpAddress] = frozenset()
    ports: frozenset[int] = frozenset({25})
    smtp_tcp_port: int = 25
    inet_protocols: Literal["all", "ipv4", "ipv6"] = "all"
    smtp_dns_support_level: Literal["enabled", "disabled"] = "enabled"
    smtp_host_lookup: tuple[Lookup, ...] = ("dns",)
    ignore_mx_lookup_error: bool = False
    smtp_defer_if_no_mx_address_found: bool = False
    smtp_mx_refuse_addresses: frozenset[str] = frozenset(
        {"unspecified", "loopback", "link-local", "multicast", "broadcast"}
    )
    mail_timeout: float = 20.0
    order: OrderOptions = field(default_factory=OrderOptions)


@dataclass(frozen=True, slots=True)
class Hosts:
    """What to try, first things first.  `mx_is_us`: we are one of the mail exchangers, so
    that its mail goes to no fallback.  `notes`: what was left out, and why."""

    hosts: tuple[Host, ...]
    mx_is_us: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class NoHosts:
    """Nothing to try.  `enhanced` begins with 4 where that may change.  `mx_is_us`: its mail
    would come back to us; `refused`: the domain says that it takes none (RFC 7505)."""

    enhanced: str
    text: str
    mx_is_us: bool = False
    refused: bool = False
    notes: tuple[str, ...] = ()

    @property
    def later(self) -> bool:
        """Whether another attempt may find more."""
        return self.enhanced.startswith("4")


@dataclass(slots=True)
class _Search:
    """One question of a courier: how long it may take, and what was found out so far."""

    nexthop: Nexthop
    port: int
    until: float
    notes: list[str] = field(default_factory=list)
    faults: list[tuple[str, str]] = field(default_factory=list)

    def no_hosts(self) -> NoHosts:
        """Why there are none.  What may change counts more than what is final, and an
        address we may not go to more than one that is not there."""
        self.faults.sort()
        notes = tuple(self.notes)
        if notes and not (self.faults and self.faults[0][0].startswith("4")):
            text = f"no host for {self.nexthop.host} has an address that mail may go to"
            return NoHosts("5.4.4", f"{text}: {'; '.join(notes[:3])}", notes=notes)
        return NoHosts(*self.faults[0], notes=notes)


class HostFinder:
    """Finds them.  `native` asks the machine, `is_local` says whether an address is one of
    its interfaces; `chance` gives random floats below 1, `clock` monotonic seconds."""

    def __init__(
        self,
        options: HostOptions,
        resolver: Resolver,
        *,
        native: Native,
        is_local: Callable[[IpAddress], bool],
        chance: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._options, self._resolver, self._native = options, resolver, native
        self._is_local, self._chance, self._clock = is_local, chance, clock
        self._dns = options.smtp_dns_support_level == "enabled"
        self._families = tuple(
            each
            for each, other in ((Family.IPV4, "ipv6"), (Family.IPV6, "ipv4"))
            if options.inet_protocols != other
        )

    async def find(self, nexthop: Nexthop) -> Hosts | NoHosts:
        """The hosts of one nexthop.  Raises nothing for what a name server can do wrong."""
        port = nexthop.port or self._options.smtp_tcp_port
        search = _Search(nexthop, port, self._clock() + self._options.mail_timeout)
        if nexthop.direct or not self._dns:
            return await self._itself(search, trusted=True)
        answer = await self._resolver.mx(nexthop.host, self._left(search))
        match answer:
            case Found():
                return await self._exchangers(search, answer.records)
            case TryAgain() if not self._options.ignore_mx_lookup_error:
                return NoHosts("4.4.3", _name_service_error(nexthop.host, "MX", answer))
            case _:
                return await self._itself(search, trusted=False)

    def _left(self, search: _Search) -> float:
        """Seconds for the next answers: half of what is left, so that a name server that is
        silent about one host leaves time to ask for the others."""
        return max(search.until - self._clock(), 0.0) / 2

    async def _itself(self, search: _Search, *, trusted: bool) -> Hosts | NoHosts:
        """The nexthop's own addresses; `trusted` where no stranger's DNS chose to go there."""
        nexthop = search.nexthop
        if nexthop.address is not None:
            found = [Host(nexthop.host, nexthop.address, search.port)]
        else:
            found = await self._of_name(search, nexthop.host, 0)
        if not trusted:
            found = self._allowed(search, found)
        if self._is_us(search, (), found):
            return self._loops(search)
        return self._result(search, found, mx_is_us=False)

    async def _exchangers(self, search: _Search, records: Sequence[Mx]) -> Hosts | NoHosts:
        host = search.nexthop.host
        named = sorted(each for each in records if each.host)
        if not named and records:
            text = f"Domain {host} does not accept mail (nullMX)"
            return NoHosts("5.1.10", text, refused=True)
        if not named:
            return NoHosts("5.4.4", f"no MX record of {host} has a valid host name")
        found, us = await self._better_than_us(search, named)
        if found or us is None:
            mx_is_us = us is not None or any(each.host in self._options.names for each in named)
            result = self._result(search, found, mx_is_us=mx_is_us)
            if isinstance(result, NoHosts) and self._options.smtp_defer_if_no_mx_address_found:
                return replace(result, enhanced=f"4{result.enhanced[1:]}")
            return result
        if us == named[0].preference:
            return self._loops(search)
        # Those before us have no address now, and may get one.
        text = f"unable to find primary relay for {host}"
        return NoHosts("4.4.4", text, mx_is_us=True, notes=tuple(search.notes))

    async def _better_than_us(
        self, search: _Search, named: Sequence[Mx]
    ) -> tuple[list[Host], int | None]:
        """Addresses of the best exchangers, a preference at a time, until there are enough
        or we come ourselves; our own preference then."""
        limit = self._options.order.smtp_mx_address_limit
        found: list[Host] = []
        asked = 0
        for preference, those in groupby(named, lambda each: each.preference):
            level = shuffled(those, self._chance)[: NAMES - asked]
            asked += len(level)
            lookups = [self._of_name(search, each.host, preference) for each in level]
            hosts = [host for each in await asyncio.gather(*lookups) for host in each]
            allowed = self._allowed(search, hosts)
            if self._is_us(search, level, allowed):
                return found, preference
            found += allowed
            if asked >= NAMES or len(found) >= limit > 0:
                break
        return found, None

    def _result(self, search: _Search, found: Sequence[Host], *, mx_is_us: bool) -> Hosts | NoHosts:
        if found:
            hosts = ordered(found, self._options.order, self._chance)
            return Hosts(hosts, mx_is_us, tuple(search.notes))
        return search.no_hosts()

    def _loops(self, search: _Search) -> NoHosts:
        text = f"mail for {search.nexthop.host} loops back to myself"
        return NoHosts("5.4.6", text, mx_is_us=True, notes=tuple(search.notes))

    def _is_us(self, search: _Search, level: Iterable[Mx], hosts: Iterable[Host]) -> bool:
        """Whether one of them is this machine, on a port where mail would come back."""
        options = self._options
        if search.port not in options.ports:
            return False
        return any(each.host in options.names for each in level) or any(
            each.address in options.addresses or self._is_local(each.address) for each in hosts
        )

    def _allowed(self, search: _Search, hosts: Iterable[Host]) -> list[Host]:
        """Without those that a stranger's DNS may not send us to."""
        allowed = []
        for each in hosts:
            kind = kind_of(each.address)
            if kind in self._options.smtp_mx_refuse_addresses:
                search.notes.append(f"{each.name}[{each.address}] is a {kind} address")
            else:
                allowed.append(each)
        return allowed

    async def _of_name(self, search: _Search, name: str, preference: int) -> list[Host]:
        """A host's addresses; an exchanger that has none is left out."""
        by: tuple[Lookup, ...] = self._options.smtp_host_lookup if self._dns else ("native",)
        for each in by:
            ask = self._resolver.address if each == "dns" else self._native
            left = self._left(search)
            answers = await asyncio.gather(*(ask(name, family, left) for family in self._families))
            found = [a for answer in answers if isinstance(answer, Found) for a in answer.records]
            if found:
                return [Host(name, address, search.port, preference) for address in found]
            missing = [answer for answer in answers if not isinstance(answer, Found)]
            search.faults.append(self._fault(name, missing))
        return []

    def _fault(self, name: str, missing: Sequence[Missing]) -> tuple[str, str]:
        """Status and text: a temporary trouble before a name that is not there at all."""
        worst = min(
            missing, key=lambda each: (type(each) is not TryAgain, type(each) is not NoName)
        )
        kinds = " or ".join(each.value for each in self._families)
        enhanced = "4.4.3" if isinstance(worst, TryAgain) else "5.4.4"
        return enhanced, _name_service_error(name, kinds, worst)


def _name_service_error(name: str, kinds: str, answer: Missing) -> str:
    known = "" if isinstance(answer, TryAgain) else "Host or domain name not found. "
    return f"{known}Name service error for name={name} type={kinds}: {answer.reason}"
