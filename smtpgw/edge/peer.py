"""Who is at the other end of a transport."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable

from milterd.core.mail import Client, Family
from smtpgw.address.ip import plain_ip_of
from smtpgw.edge.names import UNKNOWN_NAME
from smtpgw.edge.proxy import Header
from smtpgw.edge.road import Connection


def connection_of(
    transport: asyncio.BaseTransport,
    listener: str,
    session: str,
    header: Header | None,
    pending: Callable[[], bool],
    *,
    stressed: bool,
) -> Connection:
    """The facts of a new connection, those that a load balancer tells before our own."""
    local, port = _host_port(transport.get_extra_info("sockname"))
    client = client_of(transport.get_extra_info("peername"), unix=not local)
    told = header.proxied if header is not None else None
    if told is not None:
        client = client_of((told.client.decode("ascii"), told.client_port), unix=False)
        local, port = told.local, told.local_port
    return Connection(listener, client, local, port, session, pending, stressed)


def client_of(peername: object, *, unix: bool) -> Client:
    """A client from what the socket, perhaps a UNIX one, calls its peer.

    An IPv4 client on an IPv6 socket is an IPv4 client.  One on a UNIX socket has
    no address, and one that has hung up already is nobody.
    """
    if unix:
        return Client(name=b"localhost", family=Family.UNIX)
    host, port = _host_port(peername)
    if not host:
        return Client(name=UNKNOWN_NAME)
    family = Family.INET6 if b":" in host else Family.INET
    return Client(name=UNKNOWN_NAME, family=family, address=host, port=port)


def _host_port(name: object) -> tuple[bytes, int]:
    if not isinstance(name, tuple) or len(name) < 2:
        return b"", 0
    return _host(str(name[0])), int(name[1])


@functools.lru_cache(1000)
def _host(text: str) -> bytes:
    """The address that a socket names, without its scope."""
    address = plain_ip_of(text.partition("%")[0].encode())
    if address is None:
        raise ValueError(f"{text!r} is no address of a socket")
    return str(address).encode("ascii")
