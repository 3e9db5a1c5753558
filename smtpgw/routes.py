"""From what an address resolves to, to the destination that the courier delivers to.

A transport is one of :data:`smtpgw.delivery.router.TRANSPORTS`, `local` or `virtual` (whose work
mailbox_transport says), or a row of [smtpgw.services].  What nobody can deliver to because a
setting or a table is wrong waits, with the reason; nothing is bounced for a mistake of ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from milterd.core.mail import Envelope
from smtpgw.address import form
from smtpgw.address.resolve import Resolved, Resolver
from smtpgw.delivery import nexthop as nexthops
from smtpgw.delivery import router
from smtpgw.delivery.outcome import Destination
from smtpgw.delivery.pool import parse_nexthop
from smtpgw.tables.table import Unavailable

KNOWN = 10_000
"""Destinations that are remembered."""
TOGETHER = 50
"""Recipients of a mail that are routed at once, so that others need not wait for all."""


@dataclass(frozen=True, slots=True)
class Transport:
    """What a transport's name stands for: one of router.TRANSPORTS, and its nexthop if it has
    only one.  `service` is the name where it has limits of its own.

    `alone`: a delivery has one recipient, whose mail alone a limit or a pause counts then
    (postconf(5), default_destination_recipient_limit)."""

    kind: str
    nexthop: str = ""
    service: str = ""
    alone: bool = False


@dataclass(frozen=True, slots=True)
class RouteOptions:
    """`transports` by name.  `refuse`: kinds of addresses (nexthop.KINDS) that no recipient may
    name as a literal."""

    transports: Mapping[str, Transport]
    refuse: frozenset[str] = frozenset()


class Routes:
    """The rules, ready for use."""

    def __init__(self, resolver: Resolver, options: RouteOptions) -> None:
        self._resolver, self._options = resolver, options
        self._found: dict[tuple[bytes, bytes, bytes], tuple[Destination, bool]] = {}
        self._lately: dict[str, Destination | None] = {}

    async def route(self, address: bytes, sender: bytes = b"") -> Destination:
        """Where mail from an (external) address to another goes now.  Raises nothing: what a
        table that cannot answer leaves open waits."""
        try:
            resolved = await self._resolver.resolve(form.internal(address), form.internal(sender))
        except Unavailable as error:
            return Destination("retry", f"4.3.0 {error.name} cannot answer now")
        return self.destination(resolved)

    async def filtered(self, name: str, address: bytes, sender: bytes = b"") -> Destination:
        """Where a mail goes that a content filter is to see first, `transport:nexthop`; without
        a nexthop it is the recipient's.  What cannot be used waits."""
        transport, colon, nexthop = name.strip().partition(":")
        if not colon or not transport:
            return Destination("retry", f"4.3.5 no content filter is called {name!a}")
        try:
            resolved = await self._resolver.resolve(form.internal(address), form.internal(sender))
        except Unavailable as error:
            return Destination("retry", f"4.3.0 {error.name} cannot answer now")
        own = nexthop.encode() or resolved.nexthop
        return self.destination(
            replace(resolved, transport=transport.encode(), nexthop=own, wrong=False)
        )

    async def site(self, recipients: Iterable[bytes], sender: bytes = b"") -> str:
        """What a mail for these waits for in the queue: :func:`smtpgw.delivery.router.site`."""
        found: set[Destination] = set()
        for number, each in enumerate(recipients, 1):
            found.add(await self.route(each, sender))
            if len(found) > 1:
                return ""
            if number % TOGETHER == 0:
                await asyncio.sleep(0)  # tables in memory answer without a pause
        site = router.site(found)
        if site:
            self._remember(site, found.pop())
        return site

    def site_now(self, envelope: Envelope) -> str | None:
        """The same for a mail to one recipient, where it is known without a table."""
        if len(envelope.recipients) != 1:
            return None
        address = form.internal(envelope.recipients[0].address)
        resolved = self._resolver.remembered(address, form.internal(envelope.sender))
        if resolved is None:
            return None
        found = self.destination(resolved)
        site = str(found)
        self._remember(site, found)
        return site

    def known(self, site: str) -> Destination | None:
        """The destination that :meth:`site` called so lately; None where that was several."""
        return self._lately.get(site)

    def _remember(self, site: str, found: Destination) -> None:
        if self._lately.get(site) is found:
            return
        if len(self._lately) >= KNOWN:
            self._lately.clear()
        if self._lately.setdefault(site, found) != found:
            self._lately[site] = None

    def destination(self, resolved: Resolved) -> Destination:
        """The same for a resolved address."""
        if resolved.wrong:
            return Destination("error", "5.1.3 bad address syntax")
        domain = resolved.recipient.rpartition(b"@")[2]
        key = resolved.transport, resolved.nexthop, domain
        known = self._found.get(key)
        if known is None:
            if len(self._found) >= KNOWN:
                self._found.clear()
            transport = self._options.transports.get(_text(resolved.transport))
            alone = transport is not None and transport.alone
            known = self._found[key] = self._destination(*map(_text, key)), alone
        found, alone = known
        if alone:
            user = form.external(resolved.recipient).lower()
            return replace(found, user=_text(user))
        return found

    def _destination(self, name: str, nexthop: str, domain: str) -> Destination:
        transport = self._options.transports.get(name)
        if transport is None:
            return Destination("retry", f"4.3.5 no transport is called {name!a}")
        nexthop = transport.nexthop or nexthop
        made = Destination(transport.kind, nexthop, transport.service)
        try:
            if transport.kind in router.INTERNET:
                return self._internet(made, nexthop, domain)
            if transport.kind == "lmtp":
                parse_nexthop(nexthop)
        except ValueError as error:
            return Destination("retry", f"4.3.5 transport {name}: {error}")
        if transport.kind == "maildir" and "/" not in nexthop:
            return Destination("retry", f"4.3.5 transport {name}: {nexthop!a} is no directory")
        return made

    def _internet(self, made: Destination, nexthop: str, domain: str) -> Destination:
        if nexthop != domain:
            nexthops.parse(nexthop)
            return made
        try:
            own = nexthops.of_domain(domain.lower())
        except ValueError as error:
            return Destination("error", f"5.1.2 {error}")
        kind = nexthops.kind_of(own.address) if own.address else ""
        if kind in self._options.refuse:
            return Destination("error", f"5.7.1 no mail goes to a {kind} address")
        return Destination(made.transport, own.text, made.service)


def _text(octets: bytes) -> str:
    """Any octets, as text that can be written down."""
    return octets.decode("utf-8", "backslashreplace")
