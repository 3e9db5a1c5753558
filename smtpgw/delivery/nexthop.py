"""The text of a nexthop, as transport(5) and relayhost spell it.  Pure.

    example.com        the mail exchangers of a domain
    [mail.example.com] that host, its addresses, no mail exchangers
    [192.0.2.1]  [IPv6:2001:db8::1]

each with `:port` behind it, a number or a service's name, or without; several of them,
separated by commas or spaces, are tried in that order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType

from smtpgw.address.path import literal_address
from smtpgw.dns.answers import IpAddress, host_name

SERVICES: Mapping[str, int] = MappingProxyType(
    {"smtp": 25, "lmtp": 24, "submission": 587, "submissions": 465, "smtps": 465}
)
"""The ports of services(5) that mail is sent to."""

_SYNTAX = re.compile(
    r"(?:\[(?P<inner>[^\[\]]*)\]|(?P<name>[^\[\]:]+))(?::(?P<port>[a-z]+|\d{1,5}))?"
)
_EXPECTED = "expected example.com, [host] or [address], with :port or without"


@dataclass(frozen=True, slots=True)
class Nexthop:
    """`text` is what was written.  `host` is a name as in DNS, or an address in text form;
    `direct` that its mail exchangers are not asked for; `port` 0 stands for the default."""

    text: str
    host: str
    port: int = 0
    direct: bool = False
    address: IpAddress | None = None


def parse(text: str) -> tuple[Nexthop, ...]:
    """At least one.  Raises ValueError saying what was expected."""
    found = tuple(_one(each) for each in re.split(r"[,\s]+", text.strip(", \t")) if each)
    if not found:
        raise ValueError(f"{text!r}: {_EXPECTED}")
    return found


def _one(text: str) -> Nexthop:
    match = _SYNTAX.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r}: {_EXPECTED}")
    port = _port(text, match["port"])
    inner = match["inner"]
    address = _address(inner) if inner is not None else None
    if address is not None:
        return Nexthop(text, str(address), port, True, address)
    try:
        host = host_name(inner if inner is not None else match["name"])
    except ValueError as error:
        raise ValueError(f"{text!r}: {_EXPECTED} ({error})") from None
    return Nexthop(text, host, port, inner is not None)


def _port(text: str, port: str | None) -> int:
    if port is None:
        return 0
    number = SERVICES.get(port, 0) or (int(port) if port.isascii() and port.isdigit() else 0)
    if not 0 < number < 65536:
        known = ", ".join(SERVICES)
        raise ValueError(f"{text!r}: expected a port from 1 to 65535, or {known}")
    return number


def _address(inner: str) -> IpAddress | None:
    """An address literal of RFC 5321 section 4.1.3, or a plain IPv6 address."""
    found = literal_address(f"[{inner}]".encode("utf-8", "replace"))
    if found is None and ":" in inner and "%" not in inner:
        try:
            return IPv6Address(inner)
        except ValueError:
            return None
    return found


def of_domain(domain: str) -> Nexthop:
    """The nexthop of mail for a recipient's domain or address literal: what it names itself.

    Raises ValueError for what is neither.
    """
    if not domain.startswith("["):
        name = host_name(domain)
        return Nexthop(name, name)
    address = literal_address(domain.encode("utf-8", "replace"))
    if address is None:
        raise ValueError(f"{domain!a}: no address literal")
    prefix = "IPv6:" if isinstance(address, IPv6Address) else ""
    return Nexthop(f"[{prefix}{address}]", str(address), 0, True, address)


KINDS = ("unspecified", "loopback", "link-local", "multicast", "broadcast", "private")
"""Kinds of addresses that mail from the Internet has no business to be sent to."""


def kind_of(address: IpAddress) -> str:
    """Which of KINDS an address is, or ''.  One that IPv6 wraps up is what is inside."""
    plain = _inside(address)
    if plain.is_unspecified or (isinstance(plain, IPv4Address) and plain.packed[0] == 0):
        return "unspecified"
    if plain.is_loopback:
        return "loopback"
    if plain.is_link_local or (isinstance(plain, IPv6Address) and plain.is_site_local):
        return "link-local"
    if plain.is_multicast:
        return "multicast"
    if isinstance(plain, IPv4Address) and plain.packed[0] >= 240:
        return "broadcast"
    return "private" if plain.is_private else ""


def _inside(address: IpAddress) -> IpAddress:
    """The IPv4 address that stands behind an IPv6 one: mapped (RFC 4291 section 2.5.5.2),
    compatible (2.5.5.1), translated (RFC 6052) or 6to4 (RFC 3056)."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped or address.sixtofour:
        return address.ipv4_mapped or address.sixtofour or address
    translated = address.packed[:12] == bytes.fromhex("0064ff9b0000000000000000")
    compatible = not any(address.packed[:12]) and int(address) > 0xFFFF
    return IPv4Address(address.packed[12:]) if translated or compatible else address
