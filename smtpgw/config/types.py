"""What single settings look like: checked where they are read, with what was expected."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator

from milterd.base import sockets
from milterd.base.fields import Kind
from milterd.base.row import INSIDE
from smtpgw.delivery import nexthop, router

_DOMAIN = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(?:\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*", re.ASCII)
_NAMESERVER = re.compile(
    r"(?:\[(?P<inner>[^]]+)\]|(?P<plain>[^:]+))(?::(?P<port>\d{1,5}))?", re.ASCII
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}", re.ASCII)


def _address(value: str) -> str:
    sockets.parse(value)
    return value


def _milter(value: str) -> str:
    if value.startswith(INSIDE):
        return INSIDE + _name(value.removeprefix(INSIDE))
    try:
        return _address(value)
    except ValueError as error:
        raise ValueError(f'{error}; or "filter:NAME" for the filter of [filter.NAME]') from None


def check_network(value: str) -> str:
    """A network in CIDR form.  Raises ValueError saying what was expected."""
    try:
        return str(ipaddress.ip_network(value.replace("[", "").replace("]", "")))
    except ValueError as error:
        raise ValueError(f'expected a network such as "192.0.2.0/24": {error}') from None


def _ip_address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError('expected an address such as "192.0.2.1"') from None


def check_domain(value: str) -> str:
    """A domain as in DNS, with a leading dot or without.  Raises ValueError saying what was
    expected."""
    try:
        plain = value.encode("idna").decode() if not value.isascii() else value
    except UnicodeError:
        plain = ""
    if _DOMAIN.fullmatch(plain.removeprefix(".")) is None or len(plain) > 253:
        raise ValueError('expected a domain such as "example.net"')
    return plain.lower()


def _name(value: str) -> str:
    if _NAME.fullmatch(value) is None:
        raise ValueError('expected a name of letters, digits, "_", "." and "-", 32 at most')
    return value


def _destination(value: str) -> str:
    router.parse_destination(value)
    return value


def _or_nothing(check: Callable[[str], str]) -> Callable[[str], str]:
    """The same check, but for an empty text."""
    return lambda value: check(value) if value else value


def _nexthop(value: str) -> str:
    nexthop.parse(value)
    return value


def parse_nameserver(value: str) -> tuple[str, int]:
    """A name server's address and port.  Raises ValueError saying what was expected."""
    match = _NAMESERVER.fullmatch(value)
    try:
        host = str(ipaddress.ip_address((match["inner"] or match["plain"]) if match else value))
    except ValueError:
        host = ""
    port = int(match["port"] or 53) if match else 53
    if not host or not 0 < port < 65536:
        raise ValueError('expected an address such as "192.0.2.53", "192.0.2.53:53" or "[::1]:53"')
    return host, port


def _nameserver(value: str) -> str:
    parse_nameserver(value)
    return value


Address = Annotated[str, AfterValidator(_address), Kind("address")]
MilterAddress = Annotated[str, AfterValidator(_milter), Kind("address")]
Network = Annotated[str, AfterValidator(check_network), Kind("network")]
IpAddress = Annotated[str, AfterValidator(_ip_address), Kind("IP address")]
Domain = Annotated[str, AfterValidator(check_domain), Kind("domain")]
OptionalIpAddress = Annotated[
    str, AfterValidator(_or_nothing(_ip_address)), Kind('IP address or ""')
]
Name = Annotated[str, AfterValidator(_name), Kind("name")]
Destination = Annotated[str, AfterValidator(_destination), Kind("destination")]
OptionalDomain = Annotated[str, AfterValidator(_or_nothing(check_domain)), Kind('domain or ""')]
OptionalDestination = Annotated[
    str, AfterValidator(_or_nothing(_destination)), Kind('destination or ""')
]
Nexthop = Annotated[str, AfterValidator(_nexthop), Kind("nexthop")]
NameServer = Annotated[str, AfterValidator(_nameserver), Kind("name server")]
