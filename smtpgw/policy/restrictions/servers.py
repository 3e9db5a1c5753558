"""check_..._mx_access, _ns_access and _a_access: what a table says of the servers of a name, by
their names and addresses.  They may permit nothing: anybody can write anything into DNS.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Awaitable, Callable, Iterator

from smtpgw.address.keys import Key
from smtpgw.address.path import is_literal, literal_address
from smtpgw.dns.answers import Found, NoData, NoName
from smtpgw.policy import asking, dns
from smtpgw.policy import text as words
from smtpgw.policy.access import Subject
from smtpgw.policy.facts import Facts
from smtpgw.policy.record import Outcome
from smtpgw.policy.registry import Argument, restriction
from smtpgw.policy.restrictions.tables import never_permit
from smtpgw.policy.run import Check, Rule, Run


class Kind(enum.Enum):
    """Whose addresses are looked at: mail exchangers, name servers, the name itself."""

    MX = "mx"
    NS = "ns"
    A = "a"


_Named = Callable[[Facts], tuple[bytes | None, bytes]]
"""The name whose servers are looked for, and what it is called in replies."""


def _client(facts: Facts) -> tuple[bytes | None, bytes]:
    return _known(facts.names.name), facts.shown.encode()


def _reverse(facts: Facts) -> tuple[bytes | None, bytes]:
    return _known(facts.names.reverse), facts.names.reverse


def _helo(facts: Facts) -> tuple[bytes | None, bytes]:
    return facts.helo, facts.helo or b""


def _sender(facts: Facts) -> tuple[bytes | None, bytes]:
    return facts.sender, facts.sender or b""


def _recipient(facts: Facts) -> tuple[bytes | None, bytes]:
    return facts.recipient, facts.recipient or b""


def _known(name: bytes) -> bytes | None:
    return None if name.lower() == b"unknown" else name


_OF: dict[str, tuple[_Named, str]] = {
    "client": (_client, words.CLIENT),
    "reverse_client_hostname": (_reverse, words.REVERSE_CLIENT),
    "helo": (_helo, words.HELO),
    "sender": (_sender, words.SENDER),
    "recipient": (_recipient, words.RECIPIENT),
}


def _restriction(named: _Named, what: str, kind: Kind) -> Check:
    async def check(run: Run, rule: Rule) -> Outcome:
        name, shown = named(run.facts)
        if not name:
            return Outcome.DUNNO
        outcome = await _servers(run, rule, name, kind, Subject(shown, what))
        return never_permit(run, rule, outcome, shown)

    return check


for (_of, (_named, _what)), _kind in itertools.product(_OF.items(), Kind):
    restriction(f"check_{_of}_{_kind.value}_access", argument=Argument.TABLE)(
        _restriction(_named, _what, _kind)
    )


async def _servers(
    run: Run, rule: Rule, name: bytes, kind: Kind, subject: Subject
) -> Outcome | None:
    domain = name.rpartition(b"@")[2]
    if domain.startswith(b"["):
        literal = literal_address(domain) if is_literal(domain) else None
        if literal is None or kind is Kind.NS:
            return None
        return await asking.ask(run, rule, asking.of_address(str(literal).encode()), subject)
    for host in await _HOSTS[kind](run, words.shown(domain)):
        outcome = await _host(run, rule, host, kind, subject)
        if outcome is not None:
            return outcome
    return None


async def _host(run: Run, rule: Rule, host: str, kind: Kind, subject: Subject) -> Outcome | None:
    name = host.encode()
    if asking.is_address(name):
        return await asking.ask(run, rule, asking.of_address(name), subject)
    if kind is not Kind.A:
        outcome = await asking.ask(run, rule, asking.of_domain(run, name), subject)
        if outcome is not None:
            return outcome
    found, _unsure = await dns.addresses(run, host)
    return await asking.ask(run, rule, _each(map(str, found)), subject)


def _each(addresses: Iterator[str]) -> Iterator[Key]:
    for each in addresses:
        yield from asking.of_address(each.encode())


async def _exchangers(run: Run, domain: str) -> tuple[str, ...]:
    """A name without MX is its own; one that takes no mail has none."""
    answer = await dns.exchangers(run, domain)
    if isinstance(answer, NoName | NoData):
        return (domain,)
    if not isinstance(answer, Found) or dns.null_mx(answer):
        return ()
    return tuple(each.host for each in answer.records)


async def _name_servers(run: Run, domain: str) -> tuple[str, ...]:
    """A name without NS has those of the domain above it; smtpd asks for none that ends with a
    dot."""
    while domain and not domain.endswith("."):
        name = domain
        answer = await dns.question(run, "NS", name, lambda dns, left: dns.ns(name, left))  # noqa: B023 - it is asked at once
        if isinstance(answer, Found):
            return answer.records
        if not isinstance(answer, NoName | NoData):
            break
        domain = domain.partition(".")[2]
    return ()


async def _itself(_run: Run, domain: str) -> tuple[str, ...]:
    return (domain,)


_HOSTS: dict[Kind, Callable[[Run, str], Awaitable[tuple[str, ...]]]] = {
    Kind.MX: _exchangers,
    Kind.NS: _name_servers,
    Kind.A: _itself,
}
