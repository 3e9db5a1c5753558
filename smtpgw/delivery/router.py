"""How destinations are written, and what goes to the same one.  Pure.

    smtp:  smtp:NEXTHOP  relay:NEXTHOP  lmtp:unix:PATH  lmtp:inet:HOST:PORT  lmtp:HOST
    maildir:DIRECTORY  error:TEXT  retry:TEXT  discard:TEXT  hold:TEXT

`smtp:` without a nexthop goes where the recipient's own domain says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from smtpgw.delivery import nexthop as nexthops
from smtpgw.delivery.outcome import Destination
from smtpgw.delivery.pool import parse_nexthop

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


def site(destinations: Iterable[Destination]) -> str:
    """What a mail waits for in the queue: its destination, '' if it has several."""
    found = {str(each) for each in destinations}
    return found.pop() if len(found) == 1 else ""


def group(
    items: Iterable[T], route: Callable[[T], Destination], limit: Callable[[Destination], int]
) -> list[tuple[Destination, tuple[T, ...]]]:
    """Items by destination, in groups of at most its `limit`, order kept."""
    groups: dict[Destination, list[T]] = {}
    for each in items:
        groups.setdefault(route(each), []).append(each)
    return [
        (where, tuple(those[at : at + size]))
        for where, those in groups.items()
        for size in (limit(where),)
        for at in range(0, len(those), size)
    ]
