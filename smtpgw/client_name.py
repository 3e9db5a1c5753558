"""The name of a client, as Postfix's smtpd finds it (smtpd_peer(3)).

The address is asked for its name, and the name for its addresses of the same family; only a
name that has the address counts.  Of several names the first is the one.  What goes wrong
leaves the name `unknown`, with the reason; no dialogue fails for it, and none waits longer than
its allowance of time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

from milterd.core.mail import Client
from milterd.core.mail import Family as ClientFamily
from smtpgw.dns.allowance import Allowance
from smtpgw.dns.answers import Family, Found, IpAddress, Resolver, TryAgain, host_name
from smtpgw.dns.hosts_file import HostsFile
from smtpgw.edge.names import LOCAL, NameStatus, PeerName
from smtpgw.edge.road import Connection


class ClientNames:
    """Who finds them.  `clock` gives monotonic seconds, `limit` is the time for both questions
    together."""

    def __init__(
        self, resolver: Resolver, hosts: HostsFile, limit: float, clock: Callable[[], float]
    ) -> None:
        self._resolver, self._hosts = resolver, hosts
        self._limit, self._clock = limit, clock

    def begin(self, client: Client) -> Naming:
        """Start to ask.  Outside an event loop this raises RuntimeError."""
        return Naming(asyncio.ensure_future(self.find(client)))

    async def find(self, client: Client) -> PeerName:
        """The client's name, in time."""
        if client.family is ClientFamily.UNIX:
            return LOCAL
        try:
            address = ip_address(client.address.decode("ascii", "replace"))
        except ValueError:
            return PeerName(reason="the client is gone")
        allowance = Allowance(self._limit, self._clock)
        reverse = await self._reverse(address, allowance)
        if reverse.reverse_status is not NameStatus.OK:
            return reverse
        return await self._confirmed(reverse, address, allowance)

    async def _reverse(self, address: IpAddress, allowance: Allowance) -> PeerName:
        """The name of an address, not confirmed yet."""
        name = self._hosts.name(address)
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
        try:
            found = host_name(name).encode()
        except ValueError as error:
            return PeerName(reason=str(error))
        return PeerName(reverse=found, status=NameStatus.OK, reverse_status=NameStatus.OK)

    async def _confirmed(
        self, found: PeerName, address: IpAddress, allowance: Allowance
    ) -> PeerName:
        name = found.reverse.decode("ascii")
        family = Family.IPV4 if isinstance(address, IPv4Address) else Family.IPV6
        known: tuple[IpAddress, ...] = self._hosts.addresses(name)
        known = tuple(each for each in known if each.version == address.version)
        if not known:
            answer = await allowance.ask(lambda left: self._resolver.address(name, family, left))
            if not isinstance(answer, Found):
                temporary = isinstance(answer, TryAgain)
                status = NameStatus.TEMP if temporary else NameStatus.FORGED
                reason = f"{name} does not resolve to {address}: {answer.reason}"
                return replace(found, status=status, reason=reason)
            known = answer.records
        if address in known:
            return replace(found, name=found.reverse)
        reason = f"{name} does not resolve to {address}"
        return replace(found, status=NameStatus.FORGED, reason=reason)


class Naming:
    """A name that is being looked for while the client waits for its greeting."""

    def __init__(self, task: asyncio.Task[PeerName]) -> None:
        self._task = task

    async def done(self, connection: Connection) -> Connection:
        """The connection with its client's name.  What fails on our side is temporary."""
        try:
            found = await self._task
        except Exception as error:  # noqa: BLE001 - a mail is not lost for want of a name
            temporary = NameStatus.TEMP
            found = PeerName(status=temporary, reverse_status=temporary, reason=repr(error))
        return named(connection, found)

    async def stop(self) -> None:
        """Ask no further."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await self._task


def named(connection: Connection, found: PeerName) -> Connection:
    """The same connection, whose client has this name."""
    return replace(connection, peer=found, client=replace(connection.client, name=found.name))
