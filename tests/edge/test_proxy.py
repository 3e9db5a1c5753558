"""The PROXY protocol: the parser by itself, and from whom a header is believed (K07)."""

from __future__ import annotations

import ipaddress
import socket
import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpgw.address.clients import ClientElement, ClientList
from smtpgw.edge.dialogue_options import UpstreamOptions
from smtpgw.edge.options import Limits
from smtpgw.edge.proxy import LONGEST, Header, Proxied, ProxyError, parse
from tests.edge.harness import QUICK, Client, Server, wait_for

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def listed(*networks: str) -> ClientList:
    return ClientList(tuple(ClientElement(ipaddress.ip_network(each)) for each in networks))


BEHIND = replace(QUICK, upstream=UpstreamOptions(listed("127.0.0.0/8")))


def version2(command: int, family: int, inside: bytes) -> bytes:
    return SIGNATURE + bytes([0x20 | command, family]) + struct.pack("!H", len(inside)) + inside


def tcp4(client: str = "192.0.2.7", local: str = "198.51.100.1", more: bytes = b"") -> bytes:
    addresses = socket.inet_aton(client) + socket.inet_aton(local)
    return version2(1, 0x11, addresses + struct.pack("!HH", 4711, 25) + more)


FOUND = Proxied(b"192.0.2.7", 4711, b"198.51.100.1", 25)


@pytest.mark.parametrize(
    ("octets", "proxied"),
    [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\n", FOUND),
        (b"PROXY TCP6 2001:db8::7 ::1 1 65535\r\n", Proxied(b"2001:db8::7", 1, b"::1", 65535)),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", Proxied(b"192.0.2.7", 1, b"::1", 2)),
        (tcp4(), FOUND),
        (tcp4(more=b"\x04\0\x02xx" + b"\x20\0\0"), FOUND),
        (version2(0, 0x11, b"\xff" * 12), None),
        (version2(0, 0, b""), None),
        (version2(1, 0x21, b"\0" * 15 + b"\x01" + b"\0" * 15 + b"\x02" + b"\0\x01\0\x02"),
         Proxied(b"::1", 1, b"::2", 2)),
    ],
)  # fmt: skip
def test_headers(octets: bytes, proxied: Proxied | None) -> None:
    rest = b"EHLO x\r\n"
    assert parse(octets + rest) == Header(proxied, len(octets))
    assert all(parse(octets[:end]) is None for end in range(len(octets)))


@pytest.mark.parametrize(
    "octets",
    [
        b"EHLO x\r\n",
        b"\x16\x03\x01",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 65536\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 025\r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 192.0.2.7 198.51.100.1 1 2\r\n",
        b"PROXY TCP4 192.0.2.007 198.51.100.1 1 2\r\n",
        b"PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n",
        b"PROXY  TCP4 192.0.2.7 198.51.100.1 1 2\r\n",
        b"PROXY UNKNOWN\r\n",
        version2(1, 0, b"whatever"),
        b"PROXY TCP4 " + b"1" * 200,
        SIGNATURE + b"\x31\x11\0\x0c",
        SIGNATURE + b"\x22\x11\0\x0c",
        SIGNATURE + b"\x21\x11\xff\xff",
        version2(1, 0x31, b"\0" * 216),
        version2(1, 0x12, b"\0" * 12),
        version2(1, 0x11, b"\0" * 11),
        tcp4(more=b"\x04\0\x09xx"),
        tcp4(more=b"\x04"),
    ],
)
def test_what_is_no_header(octets: bytes) -> None:
    with pytest.raises(ProxyError):
        parse(octets)


@given(st.binary(max_size=80), st.booleans())
def test_any_octets_are_a_header_an_error_or_too_few(octets: bytes, signed: bool) -> None:
    octets = (SIGNATURE if signed else b"PROXY ") + octets
    try:
        found = parse(octets)
    except ProxyError:
        return
    if found is not None:
        assert found.size <= min(len(octets), LONGEST)
        assert parse(octets[: found.size]) == found


@given(
    st.ip_addresses(v=4), st.ip_addresses(v=4), st.integers(0, 65535), st.integers(0, 65535),
    st.binary(max_size=40),
)  # fmt: skip
def test_both_versions_say_the_same(
    client: ipaddress.IPv4Address, local: ipaddress.IPv4Address, one: int, two: int, value: bytes
) -> None:
    text = f"PROXY TCP4 {client} {local} {one} {two}\r\n".encode()
    more = b"\x05" + struct.pack("!H", len(value)) + value
    binary = version2(1, 0x11, client.packed + local.packed + struct.pack("!HH", one, two) + more)
    first, second = parse(text), parse(binary)
    assert first is not None
    assert second is not None
    assert first.proxied == second.proxied


@pytest.mark.parametrize("header", [b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 25\r\n", tcp4()])
def test_the_client_is_who_the_balancer_says(header: bytes) -> None:
    with Server(BEHIND) as server, Client(server.port) as client:
        client.send(header[:9], header[9:] + b"EHLO x\r\n")
        client.expect(220)
        client.expect(250)
        (connection,) = server.ledger.connections
        assert (connection.client.address, connection.client.port) == (b"192.0.2.7", 4711)
        assert (connection.local_address, connection.local_port) == (b"198.51.100.1", 25)


def test_the_balancers_own_connection_is_its_own() -> None:
    with Server(BEHIND) as server, Client(server.port) as client:
        client.send(version2(0, 0, b""))
        client.expect(220)
        assert server.ledger.connections[0].client.address == b"127.0.0.1"


@pytest.mark.parametrize("octets", [b"EHLO x\r\n", SIGNATURE + b"\x21\x11\xff\xff" + b"x" * 9000])
def test_without_a_header_nothing_is_said(octets: bytes) -> None:
    with Server(BEHIND) as server:
        client = Client(server.port)
        client.send(octets)
        assert client.closed() == b""
        wait_for(lambda: server.listener.idle)
        assert server.ledger.connections == []


def test_a_header_from_a_stranger_is_not_believed() -> None:
    options = replace(QUICK, upstream=UpstreamOptions(listed("192.0.2.0/24")))
    with Server(options) as server:
        client = Client(server.port)
        client.send(tcp4())
        assert client.closed() == b""
        assert server.ledger.connections == []


def test_a_header_that_does_not_come_is_not_waited_for() -> None:
    options = replace(QUICK, upstream=UpstreamOptions(listed("127.0.0.0/8"), 0.3))
    with Server(options) as server, Client(server.port) as client:
        client.send(b"PROXY TCP4 ")
        assert client.closed() == b""


def test_clients_without_a_header_are_counted_too() -> None:
    options = replace(BEHIND, limits=Limits(connections=2))
    with Server(options) as server:
        silent = [Client(server.port) for _ in range(2)]
        wait_for(lambda: len(server.listener._turned_away) == 2)
        with Client(server.port) as client:
            client.expect(421, "4.3.2")
        for each in silent:
            each.socket.close()
