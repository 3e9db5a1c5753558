"""A little Internet on loopback: a name server, hosts at 127.0.0.2 and up, all at one port."""

from __future__ import annotations

import contextlib
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from smtpgw.delivery.hosts import HostFinder, HostOptions
from smtpgw.delivery.order import OrderOptions
from smtpgw.delivery.outcome import Destination
from smtpgw.delivery.router import parse_destination
from smtpgw.delivery.smtp import SmtpDelivery, SmtpOptions
from smtpgw.dns.native import native_address
from smtpgw.dns.resolver import DnsOptions, DnsResolver
from tests.delivery.peer import Answer, Peer, Road, listening_at, pool, road
from tests.peers.dns import DnsServer, dns_server
from tests.peers.process import free_port

ZONE: Mapping[str, Mapping[str, list[str]]] = {
    "example.net": {"MX": ["10 mx1.example.net.", "20 mx2.example.net.", "30 mx3.example.net."]},
    "mx1.example.net": {"A": ["127.0.0.2"]},
    "mx2.example.net": {"A": ["127.0.0.3"]},
    "mx3.example.net": {"A": ["127.0.0.4"]},
    "example.org": {"MX": ["10 mx.example.org."]},
    "mx.example.org": {"A": ["127.0.0.5"]},
    "null.example": {"MX": ["0 ."]},
    "relay.example": {"A": ["127.0.0.9"]},
}
MX1, MX2, MX3, OTHER, RELAY = (f"127.0.0.{each}" for each in (2, 3, 4, 5, 9))


def host(answers: Mapping[str, Answer | list[Answer]] | None = None) -> Peer:
    """A peer that speaks SMTP: one answer after the dot."""
    return Peer({"DOT": b"250 2.0.0 stored\r\n", **(answers or {})})


@dataclass
class Internet:
    """A road that leads there.  `asked` at the name server, `peers` by address."""

    way: Road
    dns: DnsServer
    peers: Mapping[str, Peer]
    smtp: SmtpDelivery
    port: int

    def messages(self) -> dict[str, int]:
        """How many each of the hosts took."""
        return {where: len(peer.messages) for where, peer in self.peers.items() if peer.messages}


@contextlib.asynccontextmanager
async def internet(
    directory: Path,
    peers: Mapping[str, Peer],
    *,
    default: str = "smtp:",
    exceptions: Mapping[str, Destination] | None = None,
    smtp: SmtpOptions | None = None,
    hosts: Mapping[str, Any] | None = None,
    zone: Mapping[str, Mapping[str, list[str]]] = ZONE,
    port: int = 0,
    limits: Mapping[str, float] | None = None,
    **more: Any,
) -> AsyncIterator[Internet]:
    """Hosts at these addresses and a road to them.  `hosts` and `limits` are further options
    of the finder and of the connections; the time to wait for DNS is short."""
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(dns_server(zone))
        port = port or free_port()
        for address, peer in peers.items():
            await stack.enter_async_context(listening_at(address, port, peer))
        clock, chance = more.pop("clock", None), random.Random(11)
        resolver = DnsResolver(
            DnsOptions((("127.0.0.1", server.port),), try_timeout=0.3, query_timeout=0.8),
            lambda: 0.0,
        )
        stack.push_async_callback(resolver.close)
        options = {
            "smtp_tcp_port": port,
            "inet_protocols": "ipv4",
            "smtp_mx_refuse_addresses": frozenset(),
            "names": frozenset({"gw.example"}),
            "order": OrderOptions(),
            **(hosts or {}),
        }
        finder = HostFinder(
            HostOptions(**options),
            resolver,
            native=native_address,
            is_local=lambda _: False,
            chance=chance.random,
            clock=lambda: 0.0,
        )
        connections = pool(**(limits or {}))
        delivery = SmtpDelivery(
            smtp or SmtpOptions(),
            finder,
            connections,
            clock=lambda: 0.0,
            log=structlog.get_logger(),
        )
        way = await stack.enter_async_context(
            road(
                directory,
                parse_destination(default),
                exceptions,
                clock=clock,
                deliverers=connections,
                smtp=delivery,
                **more,
            )
        )
        yield Internet(way, server, peers, delivery, port)
