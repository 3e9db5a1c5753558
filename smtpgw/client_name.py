"""The name of a client, as Postfix's smtpd finds it (smtpd_peer(3)).

The address is asked for its name, and the name for its addresses of the same family; only a
name that has the address counts.  Of several names the first is the one.  What goes wrong
leaves the name `unknown`, with the reason; no dialogue fails for it, and none waits longer than
its allowance of time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv4Address

from milterd.core.mail import Client
from milterd.core.mail import Family as ClientFamily
from smtpgw.address.ip import ip_of
from smtpgw.dns.allowance import Allowance
from smtpgw.dns.answers import Family, Found, IpAddress, Resolver, TryAgain, host_name
from smtpgw.dns.hosts_file import HostsFile, Known
from smtpgw.edge.names import LOCAL, NameStatus, PeerName
from smtpgw.edge.road import Connection

GONE = PeerName(reason="the client is gone")


class ClientNames:
    """Who finds them.  `clock` gives monotonic seconds, `limit` is the time for both questions
    together."""

    def __init__(
        self, resolver: Resolver, hosts: HostsFile, limit: float, clock: Callable[[], float]
    ) -> None:
        self._resolver, self._hosts = resolver, hosts
        self._limit, self._clock = limit, clock
        self._read, self._peers = Known(), dict[bytes, PeerName]()

    def begin(self, client: Client) -> Naming:
        """Start to ask, unless the hosts file has it.  Who has to be asked about outside an event
        loop raises RuntimeError."""
        known = self._known(client)
        return Naming(asyncio.ensure_future(self.find(client)) if known is None else known)

    async def find(self, client: Client) -> PeerName:
        """The client's name, in time."""
        known, address = self._known(client), ip_of(client.address)
        if known is not None or address is None:
            return known or GONE
        allowance = Allowance(self._limit, self._clock)
        reverse = await self._reverse(address, allowance)
        if reverse.reverse_status is not NameStatus.OK:
            return reverse
        return await self._confirmed(reverse, address, allowance)

    def _known(self, client: Client) -> PeerName | None:
        """What need not be asked for."""
        if client.family is ClientFamily.UNIX:
            return LOCAL
        hosts = self._hosts.now()
        if hosts is not self._read:
            self._read, self._peers = hosts, {}
        found = self._peers.get(client.address)
        if found is not None:
            return found
        address = ip_of(client.address)
        if address is None:
            return GONE
        name = hosts.names.get(address)
        if name is None:
            return None
        found = _named_by(hosts, name, address)
        if found is not None and len(self._peers) < len(hosts.names):
            self._peers[client.address] = found
        return found

    async def _reverse(self, address: IpAddress, allowance: Allowance) -> PeerName:
        """The name of an address, not confirmed yet."""
        name = self._hosts.now().names.get(address)
        if name is None:
            answer = await allowance.ask(lambda left: self._resolver.ptr(address, left))
            if isinstance(answer, TryAgain):
                temporary = NameStatus.TEMP
                reason = f"the name of {address}: {answer.reason}"
                return PeerName(status=temporary, reverse_status=temporary, reason=reason)
            if not isinstance(answer, Found):
                return PeerName(reason=f"{address} has no name: {answer.reason}")
            if not answer.records:
                return PeerName(reason=f"{address} has a name that no host can have")
            name = answer.records[0]
        return _reverse(name)

    async def _confirmed(
        self, found: PeerName, address: IpAddress, allowance: Allowance
    ) -> PeerName:
        known: Sequence[IpAddress] = _of_hosts(self._hosts.now(), found, address)
        if not known:
            name = found.reverse.decode("ascii")
            family = Family.IPV4 if isinstance(address, IPv4Address) else Family.IPV6
            answer = await allowance.ask(lambda left: self._resolver.address(name, family, left))
            if not isinstance(answer, Found):
                temporary = isinstance(answer, TryAgain)
                status = NameStatus.TEMP if temporary else NameStatus.FORGED
                reason = f"{name} does not resolve to {address}: {answer.reason}"
                return replace(found, status=status, reason=reason)
            known = answer.records
        return _judged(found, address, known)


def _named_by(hosts: Known, name: str, address: IpAddress) -> PeerName | None:
    """The client at an address to which the hosts file gives a name; None where somebody else has
    to be asked for the name's addresses."""
    found = _reverse(name)
    if found.reverse_status is not NameStatus.OK:
        return found
    addresses = _of_hosts(hosts, found, address)
    return _judged(found, address, addresses) if addresses else None


def _of_hosts(hosts: Known, found: PeerName, address: IpAddress) -> tuple[IpAddress, ...]:
    """What the hosts file has for a name, of the address's family."""
    known = hosts.addresses.get(found.reverse.decode("ascii"), ())
    return tuple([each for each in known if each.version == address.version])


def _reverse(name: str) -> PeerName:
    """The name that an address has, not confirmed yet."""
    try:
        found = host_name(name).encode()
    except ValueError as error:
        return PeerName(reason=str(error))
    return PeerName(reverse=found, status=NameStatus.OK, reverse_status=NameStatus.OK)


def _judged(found: PeerName, address: IpAddress, known: Sequence[IpAddress]) -> PeerName:
    """Whether the name has the address, among those it is known to have."""
    if address in known:
        return PeerName(found.reverse, found.reverse, NameStatus.OK, NameStatus.OK)
    reason = f"{found.reverse.decode('ascii')} does not resolve to {address}"
    return replace(found, status=NameStatus.FORGED, reason=reason)


class Naming:
    """A name that is known, or is being looked for while the client waits for its greeting."""

    def __init__(self, found: PeerName | asyncio.Task[PeerName]) -> None:
        self._found = found

    async def done(self, connection: Connection) -> Connection:
        """The connection with its client's name.  What fails on our side is temporary."""
        found = self._found
        if isinstance(found, asyncio.Task):
            try:
                found = await found
            except Exception as error:  # noqa: BLE001 - a mail is not lost for want of a name
                temporary = NameStatus.TEMP
                found = PeerName(status=temporary, reverse_status=temporary, reason=repr(error))
        return named(connection, found)

    async def stop(self) -> None:
        """Ask no further."""
        if isinstance(self._found, asyncio.Task):
            self._found.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._found


def named(connection: Connection, found: PeerName) -> Connection:
    """The same connection, whose client has this name."""
    was, known = connection, connection.client
    client = Client(found.name, known.family, known.address, known.port)
    return Connection(
        was.listener, client, was.local_address, was.local_port, was.session, was.pending,
        was.stressed, found,
    )  # fmt: skip
