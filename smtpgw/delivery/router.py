"""Which destination a recipient goes to: a default and exceptions by domain.  Pure.

    smtp:  smtp:NEXTHOP  relay:NEXTHOP  lmtp:unix:PATH  lmtp:inet:HOST:PORT
    maildir:DIRECTORY  error:TEXT  retry:TEXT  discard:TEXT  hold:TEXT

`smtp:` without a nexthop goes where the recipient's own domain says.  A key
`example.net` is that domain, `.example.net` every one below it (transport(5)).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from smtpgw.delivery import nexthop as nexthops
from smtpgw.delivery.outcome import Destination
from smtpgw.delivery.pool import parse_nexthop
from smtpgw.dns.answers import host_name

T = TypeVar("T")
INTERNET = ("smtp", "relay")
"""Transports that look for hosts."""
TRANSPORTS = (*INTERNET, "lmtp", "maildir", "error", "retry", "discard", "hold")


def parse_destination(text: str) -> Destination:
    """Raises ValueError saying what was expected."""
    transport, colon, nexthop = text.partition(":")
    if not colon or transport not in TRANSPORTS:
        raise ValueError(f"{text!r}: expected one of {', '.join(t + ':' for t in TRANSPORTS)}")
    if transport == "lmtp":
        parse_nexthop(nexthop)
    elif transport in INTERNET and nexthop:
        nexthops.parse(nexthop)
    elif transport == "maildir" and not nexthop:
        raise ValueError(f"{text!r}: expected maildir:DIRECTORY")
    return Destination(transport, nexthop)


def domain(address: bytes) -> str:
    """The domain of an address as in DNS, or, if it is none, in lower case; empty if there
    is none at all."""
    _, at, found = address.rpartition(b"@")
    name = found.decode("utf-8", "surrogateescape").lower() if at else ""
    if not name.isascii():
        with contextlib.suppress(ValueError):
            return host_name(name)
    return name


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """`myorigin`: the domain of an address that has none.  `refuse`: kinds of addresses
    (nexthop.KINDS) that no recipient may name as a literal."""

    myorigin: str = "localhost"
    refuse: frozenset[str] = frozenset()


class Router:
    """The table."""

    def __init__(
        self,
        default: Destination,
        exceptions: Mapping[str, Destination],
        options: RouterOptions = RouterOptions(),
    ) -> None:
        self._default, self._options = default, options
        self._exceptions = {key.lower(): value for key, value in exceptions.items()}

    def route(self, address: bytes) -> Destination:
        """The recipient's destination; the longest domain that matches counts."""
        name = domain(address) or self._options.myorigin
        found = self._find(name)
        if found.transport in INTERNET and not found.nexthop:
            return self._own(found.transport, name)
        return found

    def _find(self, name: str) -> Destination:
        if name in self._exceptions:
            return self._exceptions[name]
        while "." in name:
            name = name.partition(".")[2]
            if f".{name}" in self._exceptions:
                return self._exceptions[f".{name}"]
        return self._default

    def _own(self, transport: str, name: str) -> Destination:
        """Where the recipient's own domain, or address literal, says."""
        try:
            nexthop = nexthops.of_domain(name)
        except ValueError as error:
            return Destination("error", f"5.1.2 {error}")
        kind = nexthops.kind_of(nexthop.address) if nexthop.address else ""
        if kind in self._options.refuse:
            return Destination("error", f"5.7.1 no mail goes to a {kind} address")
        return Destination(transport, nexthop.text)


def site(destinations: Iterable[Destination]) -> str:
    """What a mail waits for in the queue: its destination, '' if it has several."""
    found = {str(each) for each in destinations}
    return found.pop() if len(found) == 1 else ""


def group(
    items: Iterable[T], route: Callable[[T], Destination], limit: int
) -> list[tuple[Destination, tuple[T, ...]]]:
    """Items by destination, in groups of at most `limit`, order kept."""
    groups: dict[Destination, list[T]] = {}
    for each in items:
        groups.setdefault(route(each), []).append(each)
    return [
        (where, tuple(those[at : at + limit]))
        for where, those in groups.items()
        for at in range(0, len(those), limit)
    ]
