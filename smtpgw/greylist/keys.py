"""What of a mail a triplet is made of: client network, sender, recipient.  Pure.

Large senders try again from another of their addresses, and write another sender for every mail
and every try (VERP, SRS, BATV): what changes each time is left out, or nobody would ever pass.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from dataclasses import dataclass

_LIMIT = 320
"""Octets of an address that count: more than RFC 5321 section 4.5.3.1 allows."""

_BATV = re.compile(r"(?:prvs=[0-9a-z]{8,12}[=/]|btv1==[0-9a-z]{6,14}==)(.+)")
_SRS0 = re.compile(r"srs0[=+-][^=]+=[^=]+=([^=]+=.+)")
_SRS1 = re.compile(r"srs1[=+-][^=]+=([^=]+)==[^=]+=[^=]+=([^=]+=.+)")
_NUMBER = re.compile(r"[0-9a-f]{16,}|(?<![a-z])[0-9]+(?![a-z])|(?<=[a-z])[0-9]{4,}")


@dataclass(frozen=True, slots=True)
class Triplet:
    """Who is asked about: as it stands in the store."""

    network: str
    sender: str
    recipient: str


def triplet(
    address: str, sender: bytes, recipient: bytes, *, ipv4: int = 24, ipv6: int = 64
) -> Triplet | None:
    """Of a client's address and two addresses of an envelope; None for a client without an
    address, who is of this machine."""
    where = network(address, ipv4=ipv4, ipv6=ipv6)
    return None if where is None else Triplet(where, sender_key(sender), _text(recipient))


def network(address: str, *, ipv4: int = 24, ipv6: int = 64) -> str | None:
    """The network that an address is in, an IPv4 address that IPv6 wraps up as what it is."""
    try:
        given = ipaddress.ip_address(address)
    except ValueError:
        return None
    if isinstance(given, ipaddress.IPv6Address) and given.ipv4_mapped is not None:
        given = given.ipv4_mapped
    bits = ipv4 if given.version == 4 else ipv6
    return str(ipaddress.ip_network(f"{given}/{bits}", strict=False))


@functools.lru_cache(maxsize=4096)
def wider(where: str) -> tuple[str, ...]:
    """The networks that one is in."""
    given = ipaddress.ip_network(where)
    return tuple(str(given.supernet(new_prefix=bits)) for bits in range(given.prefixlen))


def sender_key(sender: bytes) -> str:
    """A sender without what is another at every mail; the null sender is empty."""
    text = _text(sender)
    local, at, domain = text.rpartition("@")
    if not at:
        return text
    for pattern in (_BATV, _SRS0, _SRS1):
        match = pattern.fullmatch(local)
        if match is not None:
            local = "=".join(match.groups())
    # A list's mail to each of its readers has the reader's address, or his number, behind this.
    local = local.partition("+")[0] or local
    return f"{_NUMBER.sub('#', local)}@{domain}"


def _text(address: bytes) -> str:
    return address[:_LIMIT].decode("utf-8", "backslashreplace").lower()
