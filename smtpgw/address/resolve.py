"""Which transport an address goes by, and to whom: what trivial-rewrite(8) resolves.

The recipient's domain decides its address class (ADDRESS_CLASS_README); the class has a
transport and a next hop; relayhost and the tables of sender_dependent_relayhost_maps,
sender_dependent_default_transport_maps and transport(5) change them; relocated(5) ends it.
Every step is told, for `smtpgw route`.
"""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass, field, replace

from smtpgw.address import form
from smtpgw.address.extension import Delimiter
from smtpgw.address.find import Finder, Hit, Maps
from smtpgw.address.keys import Strategy
from smtpgw.address.lists import NOTHING, DomainList
from smtpgw.address.names import mail_host
from smtpgw.address.path import literal_address
from smtpgw.address.remembered import Changes, Remembered, watched
from smtpgw.address.standard import Standard

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
_DUNNO = b"dunno"
_TEXT = (b"error", b"retry")
"""Transports whose next hop is what the sender reads."""
UNDELIVERABLE = b"Address is undeliverable"


class AddressClass(enum.Enum):
    """ADDRESS_CLASS_README: whose the domain is."""

    __hash__ = object.__hash__  # there is one of each, and Enum's own way takes two calls

    LOCAL = "local"
    VIRTUAL_ALIAS = "virtual alias"
    VIRTUAL_MAILBOX = "virtual mailbox"
    RELAY = "relay"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class ResolveOptions:
    """Postfix's parameters of the same names (postconf(5)); a table that is not there is None.

    `own_addresses`: inet_interfaces and proxy_interfaces, whose literals are local.
    """

    myhostname: bytes = b"localhost"
    mydestination: DomainList = NOTHING
    virtual_alias_domains: DomainList = NOTHING
    virtual_mailbox_domains: DomainList = NOTHING
    relay_domains: DomainList = NOTHING
    own_addresses: frozenset[IpAddress] = frozenset()
    local_transport: bytes = b"local"
    virtual_transport: bytes = b"virtual"
    relay_transport: bytes = b"relay"
    default_transport: bytes = b"smtp"
    relayhost: bytes = b""
    sender_dependent_relayhost_maps: Maps | None = None
    sender_dependent_default_transport_maps: Maps | None = None
    transport_maps: Maps | None = None
    transport_parents: bool = False
    relocated_maps: Maps | None = None
    show_user_unknown_table_name: bool = True
    allow_min_user: bool = False


@dataclass(frozen=True, slots=True)
class Step:
    """What decided something: the parameter, what it said, and where it says so."""

    rule: str
    value: str
    where: str = ""


@dataclass(frozen=True, slots=True)
class Resolved:
    """`recipient` is the internal address that is handed to the transport.  `wrong` says that
    it is no address anybody could be reached by; `routed` that its local part holds one of the
    signs by which mail was once sent on (`@`, `!`, `%`): relay control looks at that."""

    recipient: bytes
    address_class: AddressClass = AddressClass.DEFAULT
    transport: bytes = b""
    nexthop: bytes = b""
    routed: bool = False
    wrong: bool = False
    steps: tuple[Step, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Resolver:
    """The rules, ready for use."""

    options: ResolveOptions
    standard: Standard
    delimiter: Delimiter
    _resolved: Remembered[tuple[bytes, bytes], Resolved] = field(
        init=False, repr=False, compare=False
    )
    _wrong: Remembered[bytes, bool] = field(init=False, repr=False, compare=False)
    _by_sender: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        given = self.options
        lists = (
            given.mydestination, given.virtual_alias_domains, given.virtual_mailbox_domains,
            given.relay_domains,
        )  # fmt: skip
        maps = (
            given.sender_dependent_relayhost_maps, given.sender_dependent_default_transport_maps,
            given.transport_maps, given.relocated_maps,
        )  # fmt: skip
        by_sender = any(each is not None for each in maps[:2])
        # Frozen: what is kept here changes nothing that anybody sees.
        object.__setattr__(self, "_by_sender", by_sender)
        object.__setattr__(self, "_resolved", Remembered(watched((*lists, *maps))))
        object.__setattr__(self, "_wrong", Remembered(watched((given.mydestination,))))

    def changes(self) -> tuple[Changes, ...] | None:
        """What to look at to know that addresses lead where they did; None if only asking tells."""
        return self._resolved.changes

    def wrong_now(self, address: bytes) -> bool | None:
        """What :meth:`wrong` says, if that is known already."""
        known = self._wrong.now()
        return None if known is None else known.get(address)

    async def ours(self, domain: bytes) -> bool:
        """Whether `user` in a table stands for `user@domain`: myorigin, mydestination, or the
        literal of an address of ours.  Raises Unavailable."""
        return domain.lower() == self.standard.origin.lower() or bool(await self._local(domain))

    async def here(self, domain: bytes) -> bool:
        """Whether a domain is of the local class: mydestination, or the literal of an address
        of ours.  Raises Unavailable."""
        return bool(await self._local(domain))

    @property
    def finder(self) -> Finder:
        """How addresses are looked up."""
        return Finder(self.delimiter, self.ours)

    async def resolve(self, address: bytes, sender: bytes = b"") -> Resolved:
        """An internal address, a recipient of mail from `sender`.  Raises Unavailable: then
        nothing is known about it."""
        known = self._resolved.now()
        if known is None:
            return await self._looked_up(address, sender)
        key = address, sender if self._by_sender else b""
        found = known.get(key)
        if found is None:
            found = known[key] = await self._looked_up(address, sender)
        return found

    def remembered(self, address: bytes, sender: bytes = b"") -> Resolved | None:
        """The same, where it is known without a table."""
        known = self._resolved.now()
        return None if known is None else known.get((address, sender if self._by_sender else b""))

    async def _looked_up(self, address: bytes, sender: bytes) -> Resolved:
        local, domain, mark = await self._stripped(address)
        recipient = b"%b@%b" % (local, domain)
        routed = b"@" in local or b"!" in local or b"%" in local
        found = Resolved(recipient, routed=routed)
        if self._unreachable(local, domain):
            return replace(found, wrong=True)
        found = await self._classified(found, domain, sender, mark)
        found = await self._transported(found, domain)
        return await self._relocated(found)

    async def wrong(self, address: bytes) -> bool:
        """What Resolved.wrong says, found out without the tables of where mail goes.
        Raises Unavailable."""
        known = self._wrong.now()
        wrong = None if known is None else known.get(address)
        if wrong is None:
            local, domain, _ = await self._stripped(address)
            wrong = self._unreachable(local, domain)
            if known is not None:
                known[address] = wrong
        return wrong

    def _unreachable(self, local: bytes, domain: bytes) -> bool:
        return not mail_host(domain) or (local.startswith(b"-") and not self.options.allow_min_user)

    async def _stripped(self, address: bytes) -> tuple[bytes, bytes, str]:
        """Local part and domain, after domains of ours and the signs of old routing; what made
        the domain ours, or nothing.  An address without domain is one of this host's."""
        saved: bytes | None = None
        mark = ""
        for _ in range(len(address) + 100):
            local, domain = form.split(_without_dot(address))
            if domain:
                ours = await self._local(domain)
                if not ours:
                    return local, domain, ""
                saved, mark = domain, ours
            elif domain is not None:
                saved = domain
            address = self.standard.routed(local)
            if b"@" not in address:
                break
            if address == b"@":  # nothing is left of `%@ours`
                return b"", b"", ""
            address = self.standard.local(address)
        if saved is None:
            return local, self.options.myhostname, await self._local(self.options.myhostname)
        return local, saved, mark

    async def _local(self, domain: bytes) -> str:
        if domain.startswith(b"["):
            literal = literal_address(domain)
            own = literal is not None and literal in self.options.own_addresses
            return "one of our addresses" if own else ""
        return await self.options.mydestination.match(domain)

    async def _classified(
        self, found: Resolved, domain: bytes, sender: bytes, mark: str
    ) -> Resolved:
        options = self.options
        if mark:
            step = Step("mydestination", domain.decode("utf-8", "replace"), mark)
            return _by(found, AddressClass.LOCAL, options.local_transport, domain, step)
        where = await options.virtual_alias_domains.match(domain)
        if where:
            table = " in virtual alias table" if options.show_user_unknown_table_name else ""
            step = Step("virtual_alias_domains", where)
            text = f"5.1.1 User unknown{table}".encode()
            return _by(found, AddressClass.VIRTUAL_ALIAS, b"error", text, step)
        where = await options.virtual_mailbox_domains.match(domain)
        if where:
            step = Step("virtual_mailbox_domains", where)
            return _by(found, AddressClass.VIRTUAL_MAILBOX, options.virtual_transport, domain, step)
        where = await options.relay_domains.match(domain)
        if where:
            kind, transport, step = (
                AddressClass.RELAY, options.relay_transport, Step("relay_domains", where),
            )  # fmt: skip
        else:
            kind = AddressClass.DEFAULT
            transport, step = await self._default_transport(sender)
        nexthop, relay = await self._relayhost(domain, sender)
        found = _by(found, kind, transport, nexthop, step)
        # What the transport itself names comes before a relayhost.
        own = bool(transport.partition(b":")[2])
        return found if own or relay is None else replace(found, steps=(*found.steps, relay))

    async def _default_transport(self, sender: bytes) -> tuple[bytes, Step]:
        maps = self.options.sender_dependent_default_transport_maps
        hit = await self._of_sender(maps, sender)
        if hit is not None:
            rule = "sender_dependent_default_transport_maps"
            return hit.value, Step(rule, _text(hit.value), hit.where)
        transport = self.options.default_transport
        return transport, Step("default_transport", _text(transport))

    async def _relayhost(self, domain: bytes, sender: bytes) -> tuple[bytes, Step | None]:
        hit = await self._of_sender(self.options.sender_dependent_relayhost_maps, sender)
        if hit is not None:
            return hit.value, Step("sender_dependent_relayhost_maps", _text(hit.value), hit.where)
        relayhost = self.options.relayhost
        if relayhost:
            return relayhost, Step("relayhost", _text(relayhost))
        return domain, None

    async def _of_sender(self, maps: Maps | None, sender: bytes) -> Hit | None:
        """DUNNO ends the search as if there were no table; the null sender is `<>`."""
        if maps is None:
            return None
        hit = await self.finder.find(maps, sender or b"<>")
        return None if hit is None or hit.value.lower() == _DUNNO else hit

    async def _transported(self, found: Resolved, domain: bytes) -> Resolved:
        """transport(5): what the table says changes transport, next hop or both."""
        maps = self.options.transport_maps
        if maps is None or found.address_class is AddressClass.VIRTUAL_ALIAS:
            return found
        parent = Strategy.PARENT if self.options.transport_parents else Strategy.DOT_PARENT
        strategy = Strategy.FULL | Strategy.NOEXT | Strategy.DOMAIN | parent
        hit = await self.finder.find(maps, found.recipient, strategy)
        if hit is None:
            answer = await maps.find(b"*", partial=True)
            if answer is None:
                return found
            hit = Hit(answer.value, answer.where, b"*", b"")
        transport, _, nexthop = hit.value.partition(b":")
        step = Step("transport_maps", _text(hit.value), hit.where)
        if transport:
            # A transport without next hop goes where the recipient's domain says.
            own = UNDELIVERABLE if transport in _TEXT else domain
            found = replace(found, transport=transport, nexthop=nexthop or own)
        elif nexthop:
            found = replace(found, nexthop=nexthop)
        return replace(found, steps=(*found.steps, step))

    async def _relocated(self, found: Resolved) -> Resolved:
        maps = self.options.relocated_maps
        if maps is None:
            return found
        hit = await self.finder.find(maps, found.recipient)
        if hit is None:
            return found
        step = Step("relocated_maps", _text(hit.value), hit.where)
        text = b"5.1.6 User has moved to " + hit.value
        return replace(found, transport=b"error", nexthop=text, steps=(*found.steps, step))


def _by(
    found: Resolved, kind: AddressClass, transport: bytes, nexthop: bytes, step: Step
) -> Resolved:
    """A transport that names a next hop itself, `transport:nexthop`, has its way."""
    name, _, own = transport.partition(b":")
    return replace(
        found,
        address_class=kind,
        transport=name,
        nexthop=own or nexthop,
        steps=(*found.steps, step),
    )


def _without_dot(address: bytes) -> bytes:
    """One dot at the end of the domain counts for nothing."""
    _, at, domain = address.rpartition(b"@")
    wanted = at and domain.endswith(b".") and domain[-2:-1] not in (b".", b"")
    return address[:-1] if wanted else address


def _text(octets: bytes) -> str:
    return octets.decode("utf-8", "replace")
