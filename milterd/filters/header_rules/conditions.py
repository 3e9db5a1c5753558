"""When a rule applies: conditions on the session, the envelope, the size and the header.

A condition is a table; all its keys have to hold.  `all`, `any` and `not` hold further
tables.  Texts compare without regard to case, `*` and `?` in a glob stand for any characters.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from milterd.core.filter import Need
from milterd.core.mail import Family, HeaderField, Mail
from milterd.filters.header_rules.model import When

Network = IPv4Network | IPv6Network
Search = Callable[[Any, bytes], bool]
"""Whether a pattern is found in a value.  Raises TimeoutError."""


@dataclass(frozen=True, slots=True)
class Case:
    """What conditions look at: the mail, its header as the rules before left it, and how to
    search under the time limit."""

    mail: Mail
    fields: Sequence[HeaderField]
    search: Search


Condition = Callable[[Case], bool]
"""Whether a rule applies.  Raises TimeoutError."""


def unfolded(value: bytes) -> bytes:
    """A field's value on one line, without white space at its ends (RFC 5322 section 2.2.3)."""
    return value.replace(b"\r\n", b"").strip(b" \t")


def glob_pattern(globs: Iterable[str]) -> re.Pattern[bytes]:
    """One pattern for several globs, to be matched whole.  A run of stars is one star, so that
    the time grows with the text's length to the power of the stars there are, and no more."""
    parts = (re.escape(re.sub(r"\*+", "*", each)) for each in globs)
    joined = "|".join(each.replace(r"\*", ".*").replace(r"\?", ".") for each in parts)
    return re.compile(joined.encode("utf-8"), re.IGNORECASE | re.DOTALL)


def value_pattern(exact: str | None, glob: str | None, pattern: str | None) -> str | None:
    """The three ways to describe a value, as one pattern; None where there is none."""
    if exact is not None:
        return rf"\A{re.escape(exact)}\Z"
    if glob is not None:
        escaped = re.escape(re.sub(r"\*+", "*", glob))
        return r"\A" + escaped.replace(r"\*", ".*").replace(r"\?", ".") + r"\Z"
    return pattern


def condition(when: When, compile_text: Callable[[str], Any]) -> Condition:
    """A condition ready to run.  `compile_text` makes a pattern; what it raises goes through."""
    tests = list(_leaves(when, compile_text))
    if when.all is not None:
        tests += [condition(each, compile_text) for each in when.all]
    if when.any is not None:
        tests.append(_any([condition(each, compile_text) for each in when.any]))
    if when.not_ is not None:
        inner = condition(when.not_, compile_text)
        tests.append(lambda case: not inner(case))
    return tests[0] if len(tests) == 1 else _all(tests)


def needs(when: When | None) -> Need:
    """What a condition has to be shown."""
    if when is None:
        return Need(0)
    found = Need(0)
    if when.recipient is not None or when.every_recipient is not None:
        found |= Need.RECIPIENTS
    if when.helo is not None:
        found |= Need.HELO
    if when.larger is not None or when.smaller is not None:
        found |= Need.BODY
    inner = (*(when.all or ()), *(when.any or ()), *((when.not_,) if when.not_ else ()))
    for each in inner:
        found |= needs(each)
    return found


def _all(tests: list[Condition]) -> Condition:
    return lambda case: all(each(case) for each in tests)


def _any(tests: list[Condition]) -> Condition:
    return lambda case: any(each(case) for each in tests)


def _leaves(when: When, compile_text: Callable[[str], Any]) -> Iterable[Condition]:
    if when.direction is not None:
        direction = when.direction
        yield lambda case: case.mail.session.direction is direction
    if when.authenticated is not None:
        wanted = when.authenticated
        yield lambda case: _authenticated(case.mail) is wanted
    if when.listener is not None:
        yield _macro("daemon_name", when.listener)
    if when.client is not None:
        yield _client(tuple(ipaddress.ip_network(each) for each in when.client))
    if when.helo is not None:
        helo = glob_pattern(when.helo)
        yield lambda case: helo.fullmatch(case.mail.session.helo) is not None
    yield from _envelope(when)
    if when.larger is not None:
        larger = when.larger
        yield lambda case: case.mail.size > larger
    if when.smaller is not None:
        smaller = when.smaller
        yield lambda case: case.mail.size < smaller
    if when.header is not None:
        yield _header(when, compile_text)


def _authenticated(mail: Mail) -> bool:
    macros = mail.session.macros
    return bool(macros.get("auth_authen") or macros.get("auth_type"))


def _macro(name: str, globs: Iterable[str]) -> Condition:
    pattern = glob_pattern(globs)
    return lambda case: pattern.fullmatch(case.mail.session.macros.get(name, b"")) is not None


def _envelope(when: When) -> Iterable[Condition]:
    if when.sender is not None:
        sender = glob_pattern("" if each == "<>" else each for each in when.sender)
        yield lambda case: sender.fullmatch(case.mail.envelope.sender) is not None
    if when.recipient is not None:
        any_of = glob_pattern(when.recipient)
        yield lambda case: any(
            any_of.fullmatch(each.address) for each in case.mail.envelope.recipients
        )
    if when.every_recipient is not None:
        all_of = glob_pattern(when.every_recipient)
        yield lambda case: all(
            all_of.fullmatch(each.address) for each in case.mail.envelope.recipients
        )


def _client(networks: tuple[Network, ...]) -> Condition:
    @lru_cache(maxsize=1024)
    def inside(text: bytes) -> bool:
        try:
            address = ipaddress.ip_address(text.decode("ascii", "replace"))
        except ValueError:
            return False
        return any(address in each for each in networks)

    def holds(case: Case) -> bool:
        client = case.mail.session.client
        return client.family in (Family.INET, Family.INET6) and inside(client.address)

    return holds


def _header(when: When, compile_text: Callable[[str], Any]) -> Condition:
    names = glob_pattern(when.header or ())
    text = value_pattern(when.exact, when.glob, when.value)
    pattern = None if text is None else compile_text(text)
    least = 0 if when.present is False else (1 if when.at_least is None else when.at_least)
    if when.at_least is None and when.at_most is not None:
        least = 0
    most = 0 if when.present is False else when.at_most

    def holds(case: Case) -> bool:
        count = 0
        for each in case.fields:
            if names.fullmatch(each.name) is None:
                continue
            count += pattern is None or case.search(pattern, unfolded(each.value))
            if count >= least and most is None:
                return True
            if most is not None and count > most:
                return False
        return count >= least

    return holds
