"""Relay control: mail for our domains from anybody, for others only from our own.

The one rule that keeps a server from being an open relay (RFC 5321 section 7.9,
Postfix's reject_unauth_destination).  It looks at the domain alone: `%`, `!` and
quoted `@` in a local part are that local part's business and route nothing.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from milterd.core.decision import Reply
from milterd.core.mail import Client, Direction, Family
from smtpgw.address.path import Path, literal_address

RELAY_DENIED = Reply(550, "5.7.1", "Relay access denied")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class RelayOptions:
    """`mynetworks`: who may relay, as addresses or networks in CIDR form.

    `mydestination` and `relay_domains`: domains we take mail for, in any case,
    with or without a trailing dot; a name that begins with a dot stands for all
    below it.  `local_addresses`: our own addresses, whose literals we take mail
    for.  `trust_unix`: whether who comes by a UNIX socket counts as mynetworks.
    """

    mynetworks: tuple[str, ...] = ("127.0.0.0/8", "::1/128")
    mydestination: tuple[str, ...] = ()
    relay_domains: tuple[str, ...] = ()
    local_addresses: tuple[str, ...] = ()
    trust_unix: bool = True


class RelayPolicy:
    """The options, ready for use.  Raises ValueError for what is no network or address."""

    def __init__(self, options: RelayOptions) -> None:
        self._networks = tuple(_network(each) for each in options.mynetworks)
        names = {_canonical(each.encode()) for each in _domains(options)}
        self._domains = frozenset(each for each in names if not each.startswith(b"."))
        self._parents = tuple(each for each in names if each.startswith(b"."))
        self._literals = frozenset(ipaddress.ip_address(each) for each in options.local_addresses)
        self._trust_unix = options.trust_unix

    def trusted(self, client: Client) -> bool:
        """Whether the client is one of mynetworks."""
        if client.family is Family.UNIX:
            return self._trust_unix
        try:
            address = ipaddress.ip_address(client.address.decode("ascii", "replace"))
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)
        return any((mapped or address) in each for each in self._networks)

    def ours(self, path: Path) -> bool:
        """Whether we take mail for this address from anybody.

        `postmaster` without a domain is ours (RFC 5321 section 4.5.1).
        """
        if not path.domain:
            return not path.is_null
        if path.is_literal:
            return literal_address(path.domain) in self._literals
        domain = _canonical(path.domain)
        return domain in self._domains or any(domain.endswith(each) for each in self._parents)

    def check(
        self, client: Client, recipient: Path, *, authenticated: bool = False
    ) -> Reply | None:
        """Why this client may not send to this recipient, if it may not."""
        if self.ours(recipient) or authenticated or self.trusted(client):
            return None
        return RELAY_DENIED

    def direction(self, client: Client, *, authenticated: bool = False) -> Direction:
        """Whether a mail from this client is ours (it is then signed) or comes in."""
        own = authenticated or self.trusted(client)
        return Direction.ORIGINATING if own else Direction.INBOUND


def _domains(options: RelayOptions) -> Iterable[str]:
    return (*options.mydestination, *options.relay_domains)


def _canonical(domain: bytes) -> bytes:
    """One spelling for a domain: lower case, no trailing dot, U-labels as A-labels."""
    domain = domain.lower().removesuffix(b".")
    if domain.isascii():
        return domain
    try:
        return domain.decode("utf-8").encode("idna")
    except UnicodeError:
        return domain  # no spelling of a domain of ours


def _network(text: str) -> Network:
    """A network; `[::1]/128` is how Postfix writes one."""
    return ipaddress.ip_network(text.replace("[", "").replace("]", ""))
