"""How access tables are asked: by domain, by network address, by mail address (access(5))."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from smtpgw.address.find import Maps
from smtpgw.address.keys import Key, Strategy, domain_keys
from smtpgw.policy import access
from smtpgw.policy import text as words
from smtpgw.policy.access import Subject
from smtpgw.policy.record import Outcome
from smtpgw.policy.run import Rule, Run
from smtpgw.tables.table import Unavailable

_MAIL = Strategy.FULL | Strategy.NOEXT | Strategy.DOMAIN | Strategy.LOCALPART_AT


async def ask(run: Run, rule: Rule, keys: Iterable[Key], subject: Subject) -> Outcome | None:
    """What the first key that is found says; None if none is.  Raises Failed."""
    maps = table(rule)
    for key in keys:
        try:
            found = await maps.find(key.text, key.partial)
        except Unavailable as error:
            run.asked(rule.argument, words.shown(key.text), str(error))
            return await access.result(run, subject, access.CONFIGURATION_ERROR)
        if found is None:
            run.asked(rule.argument, words.shown(key.text), "")
            continue
        run.asked(rule.argument, words.shown(key.text), words.shown(found.value), found.where)
        return await access.result(run, subject, found.value)
    return None


async def ask_mail(run: Run, rule: Rule, address: bytes, subject: Subject) -> Outcome | None:
    """The same for a mail address as it is resolved.  Raises Failed."""
    maps, tried = table(rule), list[bytes]()
    parents = Strategy.PARENT if run.options.access_parents else Strategy.DOT_PARENT
    finder = run.site.resolver.finder
    try:
        hit = await finder.find(maps, address.lower(), _MAIL | parents, tried.append)
    except Unavailable as error:
        run.asked(rule.argument, words.shown(tried[-1]), str(error))
        return await access.result(run, subject, access.CONFIGURATION_ERROR)
    for each in tried if hit is None else tried[:-1]:
        run.asked(rule.argument, words.shown(each), "")
    if hit is None:
        return None
    run.asked(rule.argument, words.shown(hit.key), words.shown(hit.value), hit.where)
    return await access.result(run, subject, hit.value)


def table(rule: Rule) -> Maps:
    """The table of a rule that has one."""
    if rule.maps is None:
        raise RuntimeError(f"{rule.text} without its table")
    return rule.maps


def of_domain(run: Run, name: bytes) -> Iterator[Key]:
    """A host's name and, unless it is a number, the domains above it."""
    style = Strategy.PARENT if run.options.access_parents else Strategy.DOT_PARENT
    if not name:
        return
    if is_address(name):
        yield Key(name)
        return
    for at, key in enumerate(domain_keys(name, style)):
        yield key if at else Key(name)


def of_address(address: bytes) -> Iterator[Key]:
    """A network address and the networks it is in, cut at dots or colons."""
    sign = b":" if b":" in address else b"."
    yield Key(address)
    rest = address.rpartition(sign)[0]
    while rest:
        yield Key(rest, partial=True)
        rest = rest.rpartition(sign)[0]


def is_address(name: bytes) -> bool:
    """Whether it is an IP address."""
    if not name[:1].isdigit() and b":" not in name:
        return False
    try:
        ipaddress.ip_address(name.decode("ascii", "replace"))
    except ValueError:
        return False
    return True
