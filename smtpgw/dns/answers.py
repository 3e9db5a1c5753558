"""Questions to the name service and their answers: frozen values.

Four answers exist, and a caller has to deal with each.  :class:`TryAgain` is what a
server's failure, silence or nonsense comes to; it says nothing about the name, so
nobody may take it for "not found".

Names are as they stand in DNS: A-labels in lower case without the final dot.
"""

from __future__ import annotations

import enum
import functools
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Generic, Protocol, TypeVar

IpAddress = IPv4Address | IPv6Address
R_co = TypeVar("R_co", covariant=True)

NAME_LIMIT = 253
"""Characters of a name (RFC 1035 section 2.3.4, less the root's length octet and dot)."""

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)\Z")


class Family(enum.Enum):
    """The two kinds of address records."""

    IPV4 = "A"
    IPV6 = "AAAA"


@dataclass(frozen=True, slots=True, order=True)
class Mx:
    """A mail exchanger.  An empty host is the null MX (RFC 7505)."""

    preference: int
    host: str


@dataclass(frozen=True, slots=True)
class Found(Generic[R_co]):
    """There are such records; those of them with names no host can have are left out, which
    may be all.  `secure` says that the resolver has validated them (AD, RFC 4035 section
    3.2.3); believe that only of a resolver whose path to us is trusted.  `ttl`: the seconds
    that this is still good for by the word of its servers; it makes no other answer of it."""

    records: tuple[R_co, ...]
    secure: bool = False
    ttl: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class NoName:
    """The name does not exist (NXDOMAIN), or cannot exist.  `ttl` as in :class:`Found`; 0 where
    the servers do not say."""

    reason: str
    secure: bool = False
    ttl: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class NoData:
    """The name exists, but has no such records.  `ttl` as in :class:`NoName`."""

    reason: str
    secure: bool = False
    ttl: float = field(default=0.0, compare=False)


@dataclass(frozen=True, slots=True)
class TryAgain:
    """Nobody knows now: SERVFAIL, a refusal, no answer in time, an answer that is none."""

    reason: str


Missing = NoName | NoData | TryAgain
MxAnswer = Found[Mx] | Missing
AddressAnswer = Found[IpAddress] | Missing
NamesAnswer = Found[str] | Missing
TextAnswer = Found[bytes] | Missing


class Resolver(Protocol):
    """Who is asked.  It raises nothing for what a server can do wrong.

    `limit` is the seconds the caller has left; the resolver may have a lower one.
    """

    async def mx(self, name: str, limit: float) -> MxAnswer:
        """The mail exchangers of a domain."""
        ...

    async def address(self, name: str, family: Family, limit: float) -> AddressAnswer:
        """The addresses of a host, aliases followed."""
        ...

    async def ptr(self, address: IpAddress, limit: float) -> NamesAnswer:
        """The names of an address, in the order of the answer."""
        ...

    async def txt(self, name: str, limit: float) -> TextAnswer:
        """The texts of a name, the strings of each record joined."""
        ...

    async def ns(self, name: str, limit: float) -> NamesAnswer:
        """The name servers of a domain."""
        ...

    async def close(self) -> None:
        """Give up what is still being asked."""
        ...


@functools.lru_cache(1000)
def host_name(text: str) -> str:
    """A name as it stands in DNS, an internationalised one as A-labels (RFC 5891).

    Underscores pass, as in Postfix.  Raises ValueError for what no host can be called,
    numbers with dots included: nothing of that kind is ever asked for.
    """
    name = text.removesuffix(".")
    if len(name) > NAME_LIMIT:
        raise ValueError(f"a name of {len(name)} characters")
    try:
        name = (name if name.isascii() else name.encode("idna").decode()).lower()
    except UnicodeError:
        raise ValueError(f"{text!a}: no domain name") from None
    labels = name.split(".")
    well = all(_LABEL.match(each) for each in labels) and not labels[-1].isdigit()
    if not well or len(name) > NAME_LIMIT:
        raise ValueError(f"{text!a}: no domain name")
    return name
