"""All that the settings say about addresses, ready for use: one for each worker and its settings.

Who asks: the edge whether a recipient may be had and is known, the intake what becomes of the
addresses of a mail, the courier where it goes, `smtpgw route` all of it.
"""

from __future__ import annotations

import asyncio
import functools
import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from milterd.base.toml_file import ConfigError, Problem
from smtpgw import probe_routes
from smtpgw.address.aliases import Aliases, Unreadable
from smtpgw.address.canonical import Canonical
from smtpgw.address.clients import ClientList
from smtpgw.address.extension import Delimiter
from smtpgw.address.find import Maps as SomeMaps
from smtpgw.address.known import Known, KnownOptions
from smtpgw.address.lists import DomainList
from smtpgw.address.mapping import Mapper
from smtpgw.address.masquerade import Masquerade
from smtpgw.address.resolve import AddressClass, ResolveOptions, Resolver
from smtpgw.address.standard import Standard, StandardOptions
from smtpgw.address.virtual import Virtual, VirtualOptions
from smtpgw.config import Smtpgw
from smtpgw.config.addresses import Classes, Service
from smtpgw.delivery import router
from smtpgw.door_tables import DoorTables, open_door
from smtpgw.policy.engine import Policy
from smtpgw.reception import Receptions
from smtpgw.rewriting import Part, RewriteOptions, Rewriter
from smtpgw.routes import RouteOptions, Routes, Transport
from smtpgw.table_room import Given, TableRoom
from smtpgw.tables import spec
from smtpgw.tables.table import Table

INCLUDE_LIMIT = 1_000_000
"""Octets of a file that `:include:` names."""
_OWN = ("local", "virtual")
"""Transports that mailbox_transport stands for."""


Exempted = tuple[SomeMaps | None, SomeMaps | None, SomeMaps | None]
"""Tables of clients, senders and recipients that never wait for the greylist."""


@dataclass(frozen=True, slots=True)
class Generic:
    """smtp_generic_maps: what an address becomes when mail leaves by SMTP."""

    maps: SomeMaps
    mapper: Mapper
    propagate: bool

    async def rewrite(self, address: bytes) -> bytes:
        """An internal address.  Raises Unavailable."""
        mapped = await self.mapper.map(self.maps, address, propagate=self.propagate)
        return address if mapped is None else mapped.addresses[0]


@dataclass(frozen=True, slots=True)
class HeaderClients:
    """local_header_rewrite_clients: whose header fields count as written on this machine."""

    interfaces: bool
    networks: bool
    authenticated: bool
    maps: SomeMaps | None


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Addresses:
    """The rules, and the restriction lists of each listener, usual ones and those under stress.
    Close them when nobody uses them any more."""

    delimiter: Delimiter
    standard: Standard
    resolver: Resolver
    rewriter: Rewriter
    routes: Routes
    recipients: Known
    senders: Known
    aliases: Aliases | None
    generic: Generic | None
    mynetworks: ClientList
    fast_flush: DomainList
    header_clients: HeaderClients
    doors: Mapping[str, DoorTables]
    prober: Resolver
    probes: Routes
    greylist: Exempted
    policies: Mapping[tuple[str, bool], Policy]
    asked: Mapping[str, Policy]
    tables: tuple[Table, ...] = ()

    async def close(self) -> None:
        """Give back what the tables hold."""
        await close_tables(self.tables)


async def close_tables(tables: Iterable[Table]) -> None:
    """Give back what these hold."""
    await asyncio.gather(*(each.close() for each in tables))


def open_addresses(settings: Smtpgw, log: FilteringBoundLogger) -> Addresses:
    """Open every table.  Takes as long as reading their files takes.

    Raises ConfigError naming all that cannot be used.
    """
    room = TableRoom(settings, log)
    found = _Builder(settings, room).build()
    if room.problems:
        raise ConfigError(room.problems)
    return found


class _Builder:
    def __init__(self, settings: Smtpgw, room: TableRoom) -> None:
        self._settings, self._room = settings, room
        self._delimiter = Delimiter(
            settings.recipient_delimiter.encode(), settings.owner_request_special
        )
        self._standard = Standard(
            StandardOptions(
                self._origin().encode(),
                settings.domain.encode(),
                settings.append_at_myorigin,
                settings.append_dot_mydomain,
                settings.swap_bangpath,
                settings.allow_percent_hack,
            )
        )
        self._resolver = self._resolve()
        self._prober = probe_routes.resolver(room, self._resolver)
        self._mapper = Mapper(self._resolver.finder, self._standard)

    def build(self) -> Addresses:
        room, settings = self._room, self._settings
        generic, aliases = room.maps("smtp_generic_maps"), room.maps("alias_maps", aliases=True)
        parents = settings.parent_domain_matches_subdomains
        recipients, senders = self._known(), self._known(senders=True)
        own = self._resolver.options.own_addresses
        policies = Receptions(settings, room, self._resolver, recipients, senders, own)
        return Addresses(
            self._delimiter,
            self._standard,
            self._resolver,
            Rewriter(self._rewriting(), self._standard, self._resolver.finder),
            Routes(self._resolver, self._routing()),
            recipients,
            senders,
            None if aliases is None else self._local(aliases),
            None if generic is None else Generic(generic, self._mapper, self._spreads("generic")),
            room.clients("mynetworks"),
            room.domains("fast_flush_domains", parents="fast_flush_domains" in parents, below=True),
            self._header_clients(),
            {each.name: open_door(settings, each, room) for each in settings.listener},
            self._prober,
            Routes(self._prober, self._routing()),
            self._exempted(),
            policies.all(),
            policies.asked(),
            room.tables,
        )

    def _origin(self) -> str:
        """myorigin, or the first word of the file that it names."""
        text = self._room.text("myorigin")
        if not text.startswith("/"):
            return text
        try:
            return Path(text).read_text().split()[0]
        except (OSError, IndexError, UnicodeDecodeError) as error:
            self._problem("myorigin", f"{text}: {error}", "a file with our domain")
            return ""

    def _resolve(self) -> Resolver:
        room, settings = self._room, self._settings
        parents = settings.parent_domain_matches_subdomains
        own = {*settings.local_addresses, *settings.proxy_interfaces}
        table = Given("smtpgw.transport", settings.transport)
        options = ResolveOptions(
            myhostname=settings.hostname.encode(),
            mydestination=room.domains("mydestination"),
            virtual_alias_domains=room.domains("virtual_alias_domains"),
            virtual_mailbox_domains=room.domains("virtual_mailbox_domains"),
            relay_domains=room.domains(
                "relay_domains", parents="relay_domains" in parents, below=True
            ),
            own_addresses=frozenset(map(ip_address, own)),
            local_transport=self._transport("local"),
            virtual_transport=self._transport("virtual"),
            relay_transport=self._transport("relay"),
            default_transport=self._transport("default", "smtp"),
            relayhost=room.text("relayhost").encode(),
            sender_dependent_relayhost_maps=room.maps("sender_dependent_relayhost_maps"),
            sender_dependent_default_transport_maps=room.maps(
                "sender_dependent_default_transport_maps"
            ),
            transport_maps=room.maps("transport_maps", *([table] if settings.transport else [])),
            transport_parents="transport_maps" in parents,
            relocated_maps=room.maps("relocated_maps"),
            show_user_unknown_table_name=settings.show_user_unknown_table_name,
            allow_min_user=settings.allow_min_user,
        )
        return Resolver(options, self._standard, self._delimiter)

    def _transport(self, kind: str, fallback: str = "") -> bytes:
        """The transport of a class.  `local` and `virtual` are delivery.default if that is given;
        as names they stay, since aliases(5) are for what goes by `local`."""
        fallback = fallback or kind
        if kind not in _OWN:
            fallback = self._settings.delivery.default or fallback
        return (self._room.text(f"{kind}_transport") or fallback).encode()

    def _routing(self) -> RouteOptions:
        settings = self._settings
        alone = settings.delivery.default_destination_recipient_limit == 1
        transports = {each: Transport(each, alone=alone) for each in router.TRANSPORTS}
        mailbox = router.parse_destination(settings.delivery.default or settings.mailbox_transport)
        transports |= dict.fromkeys(
            _OWN, Transport(mailbox.transport, mailbox.nexthop, alone=alone)
        )
        rows = {
            name: self._service(name, row, transports) for name, row in settings.services.items()
        }
        refuse = frozenset[str](settings.delivery.smtp_mx_refuse_addresses)
        return RouteOptions(transports | rows, refuse)

    def _service(self, name: str, row: Service, known: dict[str, Transport]) -> Transport:
        kind, colon, nexthop = (row.deliver or name).partition(":")
        if kind not in known:
            there = ", ".join(known)
            self._problem(f"services.{name}.deliver", row.deliver or "nothing", f"one of {there}")
            return Transport("retry", "", name)
        try:
            if colon and nexthop:
                router.parse_destination(f"{kind}:{nexthop}")
        except ValueError as error:
            self._problem(f"services.{name}.deliver", row.deliver, str(error))
        usual = self._settings.delivery.default_destination_recipient_limit
        alone = (row.destination_recipient_limit or usual) == 1
        return Transport(known[kind].kind, nexthop or known[kind].nexthop, name, alone)

    def _rewriting(self) -> RewriteOptions:
        room, settings = self._room, self._settings
        words = [each.encode() for each in spec.split(room.text("masquerade_domains"))]
        exceptions = {each.lower().encode() for each in settings.masquerade_exceptions}
        return RewriteOptions(
            canonical=self._canonical("canonical_maps"),
            canonical_classes=_classes(settings.canonical_classes),
            sender_canonical=self._canonical("sender_canonical_maps"),
            sender_canonical_classes=_classes(settings.sender_canonical_classes),
            recipient_canonical=self._canonical("recipient_canonical_maps"),
            recipient_canonical_classes=_classes(settings.recipient_canonical_classes),
            masquerade=Masquerade(words, exceptions) if words else None,
            masquerade_classes=_classes(settings.masquerade_classes),
            virtual=self._virtual(),
            always_bcc=room.text("always_bcc").encode(),
            sender_bcc_maps=room.maps("sender_bcc_maps"),
            recipient_bcc_maps=room.maps("recipient_bcc_maps"),
            remote_header_rewrite_domain=room.text("remote_header_rewrite_domain").encode(),
            rewrite_signed_headers=settings.rewrite_signed_headers,
        )

    def _canonical(self, name: str) -> Canonical | None:
        maps = self._room.maps(name)
        spreads = self._spreads("canonical")
        return None if maps is None else Canonical(maps, self._mapper, spreads)

    def _virtual(self) -> Virtual | None:
        maps, settings = self._room.maps("virtual_alias_maps"), self._settings
        options = VirtualOptions(
            settings.virtual_alias_recursion_limit,
            settings.virtual_alias_expansion_limit,
            settings.virtual_alias_address_length_limit,
            self._spreads("virtual"),
        )
        return None if maps is None else Virtual(maps, self._mapper, options)

    def _spreads(self, table: str) -> bool:
        return table in self._settings.propagate_unmatched_extensions

    def _known(self, *, senders: bool = False) -> Known:
        """reject_unlisted_recipient, reject_unlisted_sender."""
        room = self._room
        own = ("recipient_canonical_maps", *(["sender_canonical_maps"] if senders else []))
        before = (room.maps(each) for each in (*own, "canonical_maps", "virtual_alias_maps"))
        lists = {
            AddressClass.LOCAL: room.maps("local_recipient_maps"),
            AddressClass.VIRTUAL_MAILBOX: room.maps("virtual_mailbox_maps"),
            AddressClass.RELAY: room.maps("relay_recipient_maps"),
        }
        options = KnownOptions(
            [each for each in before if each is not None],
            {kind: maps for kind, maps in lists.items() if maps is not None},
            self._settings.show_user_unknown_table_name,
            senders=senders,
        )
        return Known(options, self._resolver.finder)

    def _local(self, maps: SomeMaps) -> Aliases:
        return Aliases(maps, self._standard, self._delimiter, self._resolver.here, _included)

    def _exempted(self) -> Exempted:
        own, room = self._settings.greylist, self._room
        return (
            room.open("greylist.exempt_clients", own.exempt_clients),
            room.open("greylist.exempt_senders", own.exempt_senders),
            room.open("greylist.exempt_recipients", own.exempt_recipients),
        )

    def _header_clients(self) -> HeaderClients:
        words = list(spec.split(self._room.text("local_header_rewrite_clients")))
        known = {"permit_inet_interfaces", "permit_mynetworks", "permit_sasl_authenticated"}
        tables = [each for each in words if ":" in each]
        strange = [each for each in words if each not in {*known, *tables, "check_address_map"}]
        for each in strange:
            self._problem(
                "local_header_rewrite_clients", each, f"one of {', '.join(sorted(known))}"
            )
        return HeaderClients(
            "permit_inet_interfaces" in words,
            "permit_mynetworks" in words,
            "permit_sasl_authenticated" in words,
            self._room.open("local_header_rewrite_clients", tables),
        )

    def _problem(self, name: str, found: str, expected: str) -> None:
        self._room.problems.append(Problem("settings", 0, f"smtpgw.{name}", found, expected))


def _classes(names: Classes) -> Part:
    return functools.reduce(operator.or_, (Part[each.upper()] for each in names), Part(0))


async def _included(name: bytes) -> bytes:
    """The text of a file.  Raises Unreadable."""
    path = Path(name.decode("utf-8", "surrogateescape"))

    def read() -> bytes:
        with path.open("rb") as file:
            return file.read(INCLUDE_LIMIT + 1)

    try:
        text = await asyncio.to_thread(read)
    except OSError as error:
        raise Unreadable(f"{path}: {error.strerror or error}") from error
    if len(text) > INCLUDE_LIMIT:
        raise Unreadable(f"{path}: larger than {INCLUDE_LIMIT} octets")
    return text
