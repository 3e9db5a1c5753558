"""The PROXY protocol, versions 1 and 2: who the client of a load balancer is.  Pure.

Source: haproxy's doc/proxy-protocol.txt.  A header is taken whole or not at all; whatever is not
TCP over IPv4 or IPv6, and not the balancer's own talk (LOCAL of version 2), is an error that
closes the connection, UNKNOWN too, as with Postfix: who it was is then not to be known.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

LONGEST = 4096
"""Octets of a header, its additions included; a longer one is nobody's who means well."""
_LONGEST_V1 = 107
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_HEAD = 16
_TCP = {0x11: 4, 0x21: 16}
"""Octets of an address by family and transport."""
_V1 = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) ([0-9]+) ([0-9]+)\Z")
_PORT = re.compile(rb"(?:0|[1-9][0-9]{0,4})\Z")


class ProxyError(Exception):
    """What came is no PROXY header, or none that is for us."""


@dataclass(frozen=True, slots=True)
class Proxied:
    """Where a connection is from and where it went to, as the balancer saw it."""

    client: bytes
    client_port: int
    local: bytes
    local_port: int


@dataclass(frozen=True, slots=True)
class Header:
    """A header: what it tells (None: the connection is the balancer's own), and its octets."""

    proxied: Proxied | None
    size: int


def parse(octets: bytes) -> Header | None:
    """The header that these octets begin with; None while more are needed.  Raises ProxyError."""
    if octets[: len(_SIGNATURE)] == _SIGNATURE[: len(octets)]:
        return _version2(octets)
    if octets[:6] == b"PROXY "[: len(octets)]:
        return _version1(octets)
    raise ProxyError("no PROXY header")


def _version1(octets: bytes) -> Header | None:
    end = octets.find(b"\r\n", 0, _LONGEST_V1)
    if end < 0:
        if len(octets) >= _LONGEST_V1:
            raise ProxyError("a line without an end")
        return None
    line = octets[:end]
    match = _V1.match(line)
    if match is None:
        raise ProxyError("neither TCP4 nor TCP6 with two addresses and two ports")
    family = int(match[1])
    addresses = [_address(each.decode("ascii"), family) for each in match.group(2, 3)]
    ports = [_port(each) for each in match.group(4, 5)]
    return Header(Proxied(addresses[0], ports[0], addresses[1], ports[1]), end + 2)


def _address(text: str, family: int) -> bytes:
    try:
        found = ipaddress.IPv4Address(text) if family == 4 else ipaddress.IPv6Address(text)
    except ValueError as error:
        raise ProxyError(f"no IPv{family} address") from error
    return _written(found)


def _written(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    """As everywhere here: an IPv4 client is one, however it is written."""
    return str(getattr(address, "ipv4_mapped", None) or address).encode("ascii")


def _port(text: bytes) -> int:
    if _PORT.match(text) is None or int(text) > 65535:
        raise ProxyError("no port")
    return int(text)


def _version2(octets: bytes) -> Header | None:
    if len(octets) < _HEAD:
        return None
    version, command = octets[12] >> 4, octets[12] & 15
    size = _HEAD + int.from_bytes(octets[14:16], "big")
    if version != 2 or command > 1:
        raise ProxyError("neither PROXY nor LOCAL of version 2")
    if size > LONGEST:
        raise ProxyError(f"{size} octets")
    if len(octets) < size:
        return None
    inside = octets[_HEAD:size]
    if command == 0:
        return Header(None, size)
    width = _TCP.get(octets[13])
    if width is None:
        raise ProxyError("not TCP over IPv4 or IPv6")
    if len(inside) < 2 * width + 4:
        raise ProxyError("addresses that are cut short")
    _additions(inside[2 * width + 4 :])
    return Header(_binary(inside, width), size)


def _binary(inside: bytes, width: int) -> Proxied:
    kind = ipaddress.IPv4Address if width == 4 else ipaddress.IPv6Address
    ports = inside[2 * width : 2 * width + 4]
    return Proxied(
        _written(kind(inside[:width])),
        int.from_bytes(ports[:2], "big"),
        _written(kind(inside[width : 2 * width])),
        int.from_bytes(ports[2:], "big"),
    )


def _additions(octets: bytes) -> None:
    """Type, length and value, to the last octet; what they say is of no use here."""
    while octets:
        end = 3 + int.from_bytes(octets[1:3], "big")
        if len(octets) < 3 or len(octets) < end:
            raise ProxyError("an addition that is cut short")
        octets = octets[end:]
