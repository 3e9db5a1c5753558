"""The name of a client, and why it has none: Postfix's codes and words."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from milterd.core.mail import Client
from milterd.core.mail import Family as ClientFamily
from smtpgw.client_name import ClientNames, named
from smtpgw.dns.changing import ChangingResolver
from smtpgw.dns.hosts_file import LIMIT, HostsFile
from smtpgw.dns.resolver import DnsOptions
from smtpgw.edge.names import NameStatus, PeerName
from smtpgw.edge.road import Connection
from tests.delivery.test_dns import Clock
from tests.peers import dns as faulty
from tests.peers.dns import DnsServer, Zone, dns_server
from tests.queue.support import run

ZONE: Zone = {
    "1.2.0.192.in-addr.arpa": {"PTR": ["mail.example.net.", "other.example.net."]},
    "mail.example.net": {"A": ["192.0.2.99", "192.0.2.1"]},
    "2.2.0.192.in-addr.arpa": {"PTR": ["lies.example.net."]},
    "lies.example.net": {"A": ["192.0.2.1"], "AAAA": ["2001:db8::2"]},
    "3.2.0.192.in-addr.arpa": {"PTR": ["gone.example.net."]},
    "4.2.0.192.in-addr.arpa": {"PTR": ["Alias.Example.Net."]},
    "alias.example.net": {"CNAME": ["real.example.net."]},
    "real.example.net": {"A": ["192.0.2.4"]},
    "5.2.0.192.in-addr.arpa": {"PTR": ["192.0.2.5."]},
    "6.2.0.192.in-addr.arpa": {"PTR": ["six-only.example.net."]},
    "six-only.example.net": {"AAAA": ["2001:db8::6"]},
    "8.2.0.192.in-addr.arpa": {"PTR": ["second.example.net.", "mail.example.net."]},
    "second.example.net": {"A": ["192.0.2.77"]},
    "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": {
        "PTR": ["six.example.net."]
    },
    "six.example.net": {"AAAA": ["2001:db8::7"]},
}


@contextlib.asynccontextmanager
async def finding(hosts: str, directory: Path) -> AsyncIterator[tuple[ClientNames, DnsServer]]:
    """Who finds names, with a name server and a hosts file of its own."""
    file = directory / "hosts"
    file.write_text(hosts)
    with dns_server(ZONE) as server:
        options = DnsOptions((("127.0.0.1", server.port),), try_timeout=0.2, query_timeout=0.4)
        clock = Clock()
        resolver = ChangingResolver(options, clock)
        try:
            yield ClientNames(resolver, HostsFile(file), 5.0, clock), server
        finally:
            await resolver.close()


def client(address: str) -> Client:
    family = ClientFamily.INET6 if ":" in address else ClientFamily.INET
    return Client(b"unknown", family, address.encode(), 25)


def find(address: str, directory: Path, hosts: str = "", **faults: str) -> PeerName:
    """What becomes of an address; faults by kind of question."""

    async def scenario() -> PeerName:
        async with finding(hosts, directory) as (names, server):
            for name, records in ZONE.items():
                for kind in (*records, "A"):
                    server.faults[f"{name} {kind}"] = faults.get(kind, "")
            return await names.find(client(address))

    return run(scenario())


OK, TEMP, PERM, FORGED = NameStatus


@pytest.mark.parametrize(
    ("address", "name", "reverse", "status", "reverse_status", "reason"),
    [
        ("192.0.2.1", "mail.example.net", "mail.example.net", OK, OK, ""),
        ("192.0.2.2", "unknown", "lies.example.net", FORGED, OK,
         "lies.example.net does not resolve to 192.0.2.2"),
        ("192.0.2.3", "unknown", "gone.example.net", FORGED, OK,
         "gone.example.net does not resolve to 192.0.2.3: no such name"),
        ("192.0.2.4", "alias.example.net", "alias.example.net", OK, OK, ""),
        ("192.0.2.5", "unknown", "unknown", PERM, PERM,
         "192.0.2.5 has a name that no host can have"),
        ("192.0.2.6", "unknown", "six-only.example.net", FORGED, OK,
         "six-only.example.net does not resolve to 192.0.2.6: no A record"),
        ("192.0.2.8", "unknown", "second.example.net", FORGED, OK,
         "second.example.net does not resolve to 192.0.2.8"),
        ("192.0.2.9", "unknown", "unknown", PERM, PERM, "192.0.2.9 has no name: no such name"),
        ("2001:db8::7", "six.example.net", "six.example.net", OK, OK, ""),
    ],
)  # fmt: skip
def test_names_and_why_there_is_none(
    address: str, name: str, reverse: str, status: NameStatus, reverse_status: NameStatus,
    reason: str, tmp_path: Path,
) -> None:  # fmt: skip
    """smtpd_peername_lookup."""
    found = find(address, tmp_path)
    assert found == PeerName(name.encode(), reverse.encode(), status, reverse_status, reason)


@pytest.mark.parametrize("fault", [faulty.SERVFAIL, faulty.REFUSED, faulty.SILENT, faulty.GARBAGE])
def test_what_cannot_be_known_now_is_temporary(fault: str, tmp_path: Path) -> None:
    """F15."""
    found = find("192.0.2.1", tmp_path, PTR=fault)
    assert (found.name, found.reverse) == (b"unknown", b"unknown")
    assert (found.status, found.reverse_status) == (TEMP, TEMP)
    found = find("192.0.2.1", tmp_path, A=fault)
    assert (found.name, found.reverse) == (b"unknown", b"mail.example.net")
    assert (found.status, found.reverse_status) == (TEMP, OK)


def test_the_hosts_file_knows_before_the_name_service(tmp_path: Path) -> None:
    hosts = """
    # 192.0.2.1 not.example
    192.0.2.1 Box.Example box # the first name on the line
    192.0.2.1 never.example
    192.0.2.2 nobody.example
    2001:db8::7 gate.example
    192.0.2.44 gate.example
    rubbish
    300.1.2.3 rubbish.example
    """
    assert find("192.0.2.1", tmp_path, hosts).name == b"box.example"
    assert find("2001:db8::7", tmp_path, hosts).name == b"gate.example"
    assert find("192.0.2.3", tmp_path, hosts + "192.0.2.3 gone.example.net").status is OK
    # The file may confirm what the name service says, and the other way round.
    assert find("192.0.2.3", tmp_path, "192.0.2.33 gone.example.net").status is FORGED


def test_the_hosts_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "hosts"
    hosts = HostsFile(file)
    address = client("192.0.2.1").address
    from ipaddress import ip_address

    one = ip_address(address.decode())
    assert hosts.now().names.get(one) is None
    file.write_text("192.0.2.1 a.example\n")
    assert hosts.now().names.get(one) == "a.example"
    file.write_text("192.0.2.1 longer.example\n")
    assert hosts.now().names.get(one) == "longer.example"
    file.write_text("192.0.2.1 a.example\n" + "#" * LIMIT)
    assert hosts.now().names.get(one) is None, "too large to be one"
    file.unlink()
    assert hosts.now().names.get(one) is None


def test_what_the_hosts_file_has_takes_no_task(tmp_path: Path) -> None:
    async def scenario() -> None:
        hosts = "192.0.2.1 box.example\n192.0.2.2 300.1.2.3\n"
        async with finding(hosts, tmp_path) as (names, server):
            for address, name in (("192.0.2.1", b"box.example"), ("192.0.2.2", b"unknown")):
                naming = names.begin(client(address))
                assert len(asyncio.all_tasks()) == 1
                connection = await naming.done(Connection("mx", client(address)))
                assert connection.client.name == name
                assert connection.peer is not None
                assert connection.peer.name == name
                await naming.stop()
            assert server.asked == []

    run(scenario())


def test_a_client_has_its_new_name_once_the_hosts_file_has(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with finding("192.0.2.1 box.example\n", tmp_path) as (names, _server):

            async def name_of(address: str) -> bytes:
                found = await names.begin(client(address)).done(Connection("mx", client(address)))
                return found.client.name

            for _ in range(2):
                assert await name_of("192.0.2.1") == b"box.example"
            (tmp_path / "hosts").write_text("192.0.2.1 other.example\n192.0.2.2 box.example\n")
            for _ in range(2):
                assert await name_of("192.0.2.1") == b"other.example"
                assert await name_of("192.0.2.2") == b"box.example"

    run(scenario())


def test_a_name_changes_nothing_else_of_a_connection() -> None:
    was = Connection("mx", client("192.0.2.1"), b"192.0.2.9", 25, "s", lambda: True, stressed=True)
    found = PeerName(b"a.example", b"a.example", OK, OK)
    now = named(was, found)
    assert now == replace(was, peer=found, client=replace(was.client, name=b"a.example"))


def test_who_has_no_address(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with finding("", tmp_path) as (names, server):
            local = await names.find(Client(b"localhost", ClientFamily.UNIX))
            assert (local.name, local.status) == (b"localhost", OK)
            gone = await names.find(Client(b"unknown"))
            assert (gone.name, gone.status) == (b"unknown", PERM)
            assert server.asked == []

    run(scenario())


def test_macros_of_milters() -> None:
    """Postfix's {client_ptr} and {client_resolve}."""
    words = [PeerName(status=each).macros["client_resolve"] for each in NameStatus]
    assert words == [b"OK", b"TEMP", b"FAIL", b"FORGED"]
    assert PeerName(reverse=b"a.example").macros["client_ptr"] == b"a.example"
