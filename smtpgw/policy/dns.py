"""Questions of restrictions to the name service, all within the time that a mail has for them."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import TypeVar

from smtpgw.address.names import host_name
from smtpgw.dns.answers import Family, Found, IpAddress, MxAnswer, NoName, Resolver, TryAgain
from smtpgw.policy import text as words
from smtpgw.policy.run import Run

T = TypeVar("T")


async def question(
    run: Run, kind: str, name: str, ask: Callable[[Resolver, float], Awaitable[T]]
) -> T | TryAgain:
    """One question, and a step of it in the record."""
    resolver, clock = run.ports.resolver, run.ports.clock
    if resolver is None:
        raise run.misconfigured("no name service")
    began = clock()
    answer = await run.dns.ask(lambda left: ask(resolver, left))
    run.asked(f"dns {kind}", name, _shown(answer), took=clock() - began)
    return answer


def _shown(answer: object) -> str:
    if isinstance(answer, Found):
        return words.printable(", ".join(_record(each) for each in answer.records[:20]))
    return f"({getattr(answer, 'reason', answer)})"


def _record(record: object) -> str:
    host = getattr(record, "host", None)
    if host is not None:
        return f"{getattr(record, 'preference', 0)} {host or '.'}"
    return record.decode("utf-8", "replace") if isinstance(record, bytes) else str(record)


async def addresses(run: Run, name: str) -> tuple[tuple[IpAddress, ...], bool]:
    """All addresses of a host, and whether nobody knows now if there are more.  A dot may stand
    behind its name: smtpd has getaddrinfo(3) ask for these, which takes it."""
    name = name.removesuffix(".")
    found: list[IpAddress] = []
    unsure = False
    for family in (Family.IPV4, Family.IPV6):
        answer = await address(run, name, family)
        if isinstance(answer, Found):
            found += answer.records
        unsure = unsure or isinstance(answer, TryAgain)
    return tuple(found), unsure


async def address(run: Run, name: str, family: Family) -> object:
    """Addresses of one kind."""
    if not _possible(name):
        return NoName("no host can be called that")
    kind = family.value
    return await question(run, kind, name, lambda dns, left: dns.address(name, family, left))


async def exchangers(run: Run, name: str) -> MxAnswer:
    """The mail exchangers of a domain."""
    if not _possible(name):
        return NoName("no domain can be called that")
    return await question(run, "MX", name, lambda dns, left: dns.mx(name, left))


def _possible(name: str) -> bool:
    return host_name(name.encode("utf-8", "replace"))


def null_mx(answer: MxAnswer) -> bool:
    """Whether a domain says that it takes no mail (RFC 7505)."""
    return isinstance(answer, Found) and any(not each.host for each in answer.records)


def reversed_address(address: str) -> str:
    """The name of an address in a DNS list (RFC 5782), with the dot behind it."""
    parsed = ipaddress.ip_address(address)
    if parsed.version == 4:
        return ".".join(reversed(address.split("."))) + "."
    return ".".join(reversed(parsed.exploded.replace(":", ""))) + "."
