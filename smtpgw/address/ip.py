"""IP addresses as clients have them, each read once: a session asks for its client's in many
places, and most clients come again."""

from __future__ import annotations

import functools
import ipaddress

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_KEPT = 2000
"""Texts whose meaning is kept."""


@functools.lru_cache(_KEPT)
def ip_of(text: bytes) -> IpAddress | None:
    """The address that a text is; None for one that is none."""
    try:
        return ipaddress.ip_address(text.decode("ascii", "replace"))
    except ValueError:
        return None


@functools.lru_cache(_KEPT)
def plain_ip_of(text: bytes) -> IpAddress | None:
    """The same, where an IPv4 address in the form of IPv6 (RFC 4291 section 2.5.5.2) is one of
    IPv4."""
    found = ip_of(text)
    return getattr(found, "ipv4_mapped", None) or found
