"""Which destination a recipient goes to: a default and exceptions by domain.  Pure.

    lmtp:unix:PATH  lmtp:inet:HOST:PORT  smtp:[HOST]:PORT  maildir:DIRECTORY
    error:TEXT  retry:TEXT  discard:TEXT

A key `example.net` is that domain, `.example.net` every one below it (transport(5)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from smtpgw.delivery.outcome import Destination
from smtpgw.delivery.pool import parse_nexthop

T = TypeVar("T")
TRANSPORTS = ("lmtp", "smtp", "maildir", "error", "retry", "discard")


def parse_destination(text: str) -> Destination:
    """Raises ValueError saying what was expected."""
    transport, colon, nexthop = text.partition(":")
    if not colon or transport not in TRANSPORTS:
        raise ValueError(f"{text!r}: expected one of {', '.join(t + ':' for t in TRANSPORTS)}")
    if transport in ("lmtp", "smtp"):
        parse_nexthop(nexthop)
    elif transport == "maildir" and not nexthop:
        raise ValueError(f"{text!r}: expected maildir:DIRECTORY")
    return Destination(transport, nexthop)


def domain(address: bytes) -> str:
    """The domain of an address in lower case; empty if it has none."""
    _, at, found = address.rpartition(b"@")
    return found.decode("utf-8", "surrogateescape").lower() if at else ""


class Router:
    """The table."""

    def __init__(self, default: Destination, exceptions: Mapping[str, Destination]) -> None:
        self._default = default
        self._exceptions = {key.lower(): value for key, value in exceptions.items()}

    def route(self, address: bytes) -> Destination:
        """The recipient's destination; the longest domain that matches counts."""
        name = domain(address)
        if name in self._exceptions:
            return self._exceptions[name]
        while "." in name:
            name = name.partition(".")[2]
            if f".{name}" in self._exceptions:
                return self._exceptions[f".{name}"]
        return self._default


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
