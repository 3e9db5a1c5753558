"""The order in which a destination's addresses are tried.  Pure but for the chance handed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Literal, TypeVar

from smtpgw.dns.answers import IpAddress

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Host:
    """One address to try."""

    name: str
    address: IpAddress
    port: int
    preference: int = 0

    @property
    def family(self) -> str:
        """By the words of smtp_address_preference."""
        return "ipv4" if isinstance(self.address, IPv4Address) else "ipv6"


@dataclass(frozen=True, slots=True)
class OrderOptions:
    """Postfix's parameters by their names (postconf(5)); a limit of 0 is none."""

    smtp_address_preference: Literal["any", "ipv4", "ipv6"] = "any"
    smtp_balance_inet_protocols: bool = True
    smtp_randomize_addresses: bool = True
    smtp_mx_address_limit: int = 5


def shuffled(items: Iterable[T], chance: Callable[[], float]) -> list[T]:
    """In random order; `chance` gives random floats below 1."""
    return sorted(items, key=lambda _: chance())


def ordered(
    hosts: Iterable[Host], options: OrderOptions, chance: Callable[[], float]
) -> tuple[Host, ...]:
    """By MX preference; equal ones at random, but for the family that is preferred.

    At most smtp_mx_address_limit: the first ones, or, with smtp_balance_inet_protocols,
    as many of either family as its half of the limit allows (smtp_addr.c).
    """
    those = list(dict.fromkeys(hosts))
    if options.smtp_randomize_addresses:
        those = shuffled(those, chance)
    first = options.smtp_address_preference
    those.sort(key=lambda each: (each.preference, first != "any" and each.family != first))
    limit = options.smtp_mx_address_limit
    if not 0 < limit < len(those):
        return tuple(those)
    if options.smtp_balance_inet_protocols and limit > 1:
        those = _balanced(those, limit)
    return tuple(those[:limit])


def _balanced(hosts: Sequence[Host], limit: int) -> list[Host]:
    """The first `limit` of them, and yet neither family crowded out; the order stays."""
    leading = hosts[0].family
    ours = [each for each in hosts if each.family == leading]
    theirs = [each for each in hosts if each.family != leading]
    share = min(len(theirs), limit // 2)
    kept = {*ours[: limit - share], *theirs[: limit - min(len(ours), limit - share)]}
    return [each for each in hosts if each in kept]
