"""`smtpgw check` on tables and lists of domains: every table is opened and asked one key that
nobody has, and what two address classes claim is told, as Postfix warns of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import combinations, islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

from milterd.base import toml_file
from milterd.base.settings import placed
from milterd.base.toml_file import ConfigError
from smtpgw.address.lists import DomainList
from smtpgw.addresses import Addresses, open_addresses
from smtpgw.config import Smtpgw
from smtpgw.finding import Finding
from smtpgw.tables.maps import Maps
from smtpgw.tables.table import Listable, Table, Unavailable, stale

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

NOBODY = b"gatepost-check.invalid"
"""A domain that nobody can have (RFC 2606 section 2)."""
LOOKED_AT = 10_000
"""Keys of one table that are looked at for domains of two classes."""


class _Heard:
    """A log whose lines are findings: lines of tables that are skipped, and the like."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def warning(self, event: str, **facts: object) -> None:
        words = ", ".join(f"{key} {value}" for key, value in facts.items() if key != "table")
        subject = f"table {facts.get('table', '')}".strip()
        self.findings.append(Finding(subject, "warning", f"{event}: {words}"))

    error = warning

    def info(self, event: str, **facts: object) -> None:
        """What only a daemon's log needs."""

    debug = info


def examine(settings: Smtpgw, path: Path) -> tuple[list[Finding], bool]:
    """The findings, and whether the tables can be used at all; `path` is the settings file."""
    heard = _Heard()
    try:
        addresses = open_addresses(settings, cast("FilteringBoundLogger", heard))
    except ConfigError as error:
        problems = placed(error.problems, toml_file.read(path), file=str(path))
        wrong = [Finding("tables", "error", str(each)) for each in problems]
        return [*heard.findings, *wrong], False
    found = asyncio.run(_examine(addresses))
    return [*heard.findings, *found], True


async def _examine(addresses: Addresses) -> list[Finding]:
    try:
        found = await asyncio.gather(*(_table(each) for each in addresses.tables))
        return [*found, *await _classes(addresses)]
    finally:
        await addresses.close()


async def _table(table: Table) -> Finding:
    subject = f"table {table.name}"
    try:
        await table.find(b"nobody@" + NOBODY)
    except Unavailable as error:
        detail = f"{error.reason}; mail that needs it would be told 451"
        return Finding(subject, "error", detail)
    old = stale(table)
    return Finding(subject, "warning", old) if old else Finding(subject, "ok", "answers")


async def _classes(addresses: Addresses) -> list[Finding]:
    """Domains of two classes, and classes that take whatever domain there is."""
    options = addresses.resolver.options
    lists = {
        "mydestination": options.mydestination,
        "virtual_alias_domains": options.virtual_alias_domains,
        "virtual_mailbox_domains": options.virtual_mailbox_domains,
        "relay_domains": options.relay_domains,
    }
    found: list[Finding] = []
    for name, each in lists.items():
        where = await _fits(each, NOBODY)
        if where:
            detail = f"takes every domain, even {NOBODY.decode()}: {where}"
            found.append(Finding(name, "warning", detail))
    for (first, one), (second, other) in combinations(lists.items(), 2):
        both = await _both(one, other)
        found += (Finding(first, "warning", _told(each, first, second)) for each in both)
    return found


async def _both(one: DomainList, other: DomainList) -> list[bytes]:
    """The domains that stand in one of the lists and are in the other too.  Names below a domain
    of relay_domains may well be somebody else's: only the same name counts."""
    names, others = set(_names(one)), set(_names(other))
    both = names & others
    for each in names - both:
        if not other.parents and await _fits(other, each):
            both.add(each)
    for each in others - both:
        if not one.parents and await _fits(one, each):
            both.add(each)
    return sorted(both)


def _told(domain: bytes, first: str, second: str) -> str:
    name = domain.decode("utf-8", "replace")
    return f"do not list domain {name} in both {first} and {second}: {first} decides"


async def _fits(those: DomainList, domain: bytes) -> str:
    try:
        return await those.match(domain)
    except Unavailable:
        return ""  # that table has a finding of its own


def _names(those: DomainList) -> Iterator[bytes]:
    for each in those.elements:
        if each.negated:
            continue
        if each.maps is None:
            yield each.name.lower()
        elif isinstance(each.maps, Maps):
            for table in each.maps.tables:
                yield from _keys(table)


def _keys(table: Table) -> Iterator[bytes]:
    """The domains in a table, as far as it can tell them."""
    if not isinstance(table, Listable):
        return
    try:
        for key, _ in islice(table.entries(), LOOKED_AT):
            if b"@" not in key:
                yield key.lower()
    except Unavailable:
        return  # as above
