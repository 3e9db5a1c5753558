"""What becomes of a recipient, found out without sending anything: the work of `smtpgw route`.

The settings' tables are asked as the running gateway asks them, by the same rules: what a client
is told at RCPT, what intake makes of the address, and where the courier takes what it made.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from milterd.core.mail import Envelope, Mail, Recipient
from smtpgw import peers, wiring
from smtpgw.address import form
from smtpgw.address.known import LISTS
from smtpgw.address.resolve import Resolved, Step
from smtpgw.address.virtual import Expansion, Unreasonable
from smtpgw.addresses import Addresses
from smtpgw.admission import Refusal, lookup_failure
from smtpgw.config import Smtpgw
from smtpgw.delivery import nexthop as nexthops
from smtpgw.delivery.hop import Hop
from smtpgw.delivery.limits import ServiceLimits
from smtpgw.delivery.outcome import Destination
from smtpgw.delivery.pool import hop_of
from smtpgw.delivery.router import INTERNET
from smtpgw.delivery.tls import TlsPolicies, TlsPolicy
from smtpgw.policy import relay
from smtpgw.readdress import AddressRules, Copy
from smtpgw.strangers import Strangers
from smtpgw.tables.table import Unavailable

TAKEN = "250 2.1.5 Ok"
_FATES = {"error": "bounced", "retry": "waits", "discard": "discarded", "hold": "held"}
_ANY_HOST = "hostname"
"""What a policy's `hostname` stays here: hosts are known when DNS has been asked."""


@dataclass(frozen=True, slots=True)
class Tls:
    """What is asked of who answers at a nexthop: :class:`smtpgw.delivery.tls.TlsPolicy`."""

    nexthop: str
    level: str
    match: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the transport: deliveries to one destination at once, recipients of one delivery, and
    seconds between two deliveries to a destination and by the transport."""

    concurrency: int
    recipients: int
    destination_rate_delay: float
    transport_rate_delay: float


@dataclass(frozen=True, slots=True)
class Rewrite:
    """One step of the way to the final recipients: an address became others."""

    rule: str
    address: str
    became: tuple[str, ...]
    where: str


@dataclass(frozen=True, slots=True)
class Way:
    """Where a final recipient's mail goes.  `transport` and `nexthop` are what the tables say,
    `delivery` what that comes to: a transport of the gateway and its nexthop, or why not.
    `generic_sender`, `generic_recipient`: the envelope on the way out."""

    recipient: str
    sender: str
    address_class: str
    transport: str
    nexthop: str
    delivery: str
    fate: str
    steps: tuple[Step, ...] = ()
    tls: tuple[Tls, ...] = ()
    limits: Limits | None = None
    generic_sender: str = ""
    generic_recipient: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """All of it.  `stranger` and `own` are what a client is told at RCPT who is not in mynetworks,
    and who is; who is refused in both cases comes no further.  `known`: which list has the address,
    and where.  `error`: the table that cannot
    answer, or that leads nowhere.  `outcome`: delivered, bounced, refused or waits."""

    address: str
    sender: str
    address_class: str = ""
    relayed: bool = False
    known: str = ""
    stranger: str = TAKEN
    own: str = TAKEN
    steps: tuple[Step, ...] = ()
    rewritten: tuple[Rewrite, ...] = ()
    recipients: tuple[Way, ...] = ()
    outcome: str = "delivered"
    error: str = ""


class Router:
    """Asks, for one set of settings.  Raises ValueError for TLS settings that cannot be read."""

    def __init__(self, settings: Smtpgw, addresses: Addresses) -> None:
        self._addresses, self._rules = addresses, AddressRules(addresses)
        self._strangers = Strangers(addresses.policies["", False])
        self._tls = TlsPolicies(peers.pool(settings).tls)
        self._limits = wiring.courier(settings).limits

    async def route(self, address: bytes, sender: bytes = b"") -> Route:
        """A recipient and a sender as they are written; the null sender is empty."""
        found = Route(_text(address), _text(sender))
        try:
            found = await self._asked(found, form.internal(address), form.internal(sender))
        except Unavailable as error:
            said = _reply(Refusal("tables", lookup_failure(form.internal(address))))
            return replace(found, stranger=said, own=said, outcome="waits", error=str(error))
        if found.own[0] == "5":
            return replace(found, outcome="refused")
        try:
            done = await self._rules.mail(_mail(address, sender))
            found = replace(found, rewritten=tuple(map(_rewrite, done.steps)))
            ways = [each for copy in done.copies for each in await self._ways(copy)]
        except (Unavailable, Unreasonable) as error:
            return replace(found, outcome="waits", error=str(error))
        found = replace(found, recipients=tuple(ways))
        return replace(found, outcome=_outcome(found))

    async def _asked(self, found: Route, address: bytes, sender: bytes) -> Route:
        """What a client is told, and why."""
        resolved = await self._addresses.resolver.resolve(address, sender)
        return replace(
            found,
            address_class=resolved.address_class.value,
            relayed=relay.authorized(resolved),
            steps=resolved.steps,
            stranger=_reply(await self._strangers.told(address, sender, own=False)),
            own=_reply(await self._strangers.told(address, sender, own=True)),
            known=await self._known(resolved),
        )

    async def _known(self, resolved: Resolved) -> str:
        """Which list has it; empty where its class has one and it is not there."""
        known = self._addresses.recipients
        for maps in known.options.before:
            hit = await known.finder.find(maps, resolved.recipient)
            if hit is not None:
                return hit.where
        kind = resolved.address_class
        if kind not in LISTS:
            return ""
        listed = known.options.lists.get(kind)
        if listed is None:
            return f"{LISTS[kind]}: no table, everybody is"
        hit = await known.finder.find(listed, resolved.recipient)
        return "" if hit is None else f"{LISTS[kind]}: {hit.where}"

    async def _ways(self, copy: Copy) -> list[Way]:
        envelope = copy.mail.envelope
        those = [each.address for each in envelope.recipients]
        return [await self._way(each, envelope.sender, copy.doomed) for each in those]

    async def _way(self, address: bytes, sender: bytes, doomed: str) -> Way:
        resolved = await self._addresses.resolver.resolve(
            form.internal(address), form.internal(sender)
        )
        where = self._addresses.routes.destination(resolved)
        if doomed:
            where = Destination("error", doomed)
        found = Way(
            _text(address),
            _text(sender),
            resolved.address_class.value,
            _text(resolved.transport),
            _text(resolved.nexthop),
            str(where) + (f" ({where.transport})" if where.service else ""),
            _FATES.get(where.transport, "delivered"),
            resolved.steps,
        )
        return found if where.transport in _FATES else await self._travels(found, where)

    async def _travels(self, way: Way, where: Destination) -> Way:
        """The same with what its transport does on the way."""
        found = replace(
            way,
            tls=tuple(self._asks(where)),
            limits=_limits(self._limits.of(where.name)),
        )
        generic = self._addresses.generic
        if generic is None or where.transport not in INTERNET:
            return found
        sender, recipient = (form.internal(each.encode()) for each in (way.sender, way.recipient))
        return replace(
            found,
            generic_sender=_text(form.external(await generic.rewrite(sender) if sender else b"")),
            generic_recipient=_text(form.external(await generic.rewrite(recipient))),
        )

    def _asks(self, where: Destination) -> Iterator[Tls]:
        if where.transport in INTERNET:
            for each in nexthops.parse(where.nexthop):
                hop = Hop(each.text, _ANY_HOST, each.host, each.port or 25)
                yield _tls(each.text, self._tls.policy(hop))
        elif where.transport == "lmtp":
            hop = hop_of(where)
            if not hop.local:
                yield _tls(hop.nexthop, self._tls.policy(hop))


def _outcome(found: Route) -> str:
    """The worst that happens to anybody."""
    fates = {each.fate for each in found.recipients}
    if "bounced" in fates:
        return "bounced"
    return "waits" if "waits" in fates or found.own[0] == "4" else "delivered"


def _mail(address: bytes, sender: bytes) -> Mail:
    return Mail(envelope=Envelope(sender, (), (Recipient(address),)))


def _reply(refusal: Refusal | None) -> str:
    return TAKEN if refusal is None else str(refusal.reply)


def _rewrite(step: Expansion) -> Rewrite:
    became = tuple(_text(form.external(each)) for each in step.became)
    return Rewrite(step.rule, _text(form.external(step.address)), became, step.where)


def _limits(limits: ServiceLimits) -> Limits:
    return Limits(
        limits.windows.limit,
        limits.recipient_limit,
        limits.destination_rate_delay,
        limits.transport_rate_delay,
    )


def _tls(nexthop: str, policy: TlsPolicy) -> Tls:
    return Tls(nexthop, policy.level, policy.match)


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "backslashreplace")
