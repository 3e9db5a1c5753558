"""Lists of clients by address, and the addresses themselves."""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass, field

import pytest

from smtpgw.address.clients import ClientElement, ClientList
from smtpgw.address.find import Hit
from smtpgw.address.ip import ip_of, plain_ip_of


@dataclass
class Watched:
    """Tables whose answers change; `asked` counts the questions."""

    says: bytes | None = b"ok"
    version: int = 0
    asked: list[bytes] = field(default_factory=list)
    watched: bool = True

    def changes(self) -> object:
        return (self._version,) if self.watched else None

    def _version(self) -> int:
        return self.version

    async def find(self, key: bytes) -> Hit | None:
        self.asked.append(key)
        return None if self.says is None else Hit(self.says, "clients:1", key, b"")


def asked(clients: ClientList, address: bytes) -> str:
    return asyncio.run(clients.match(address))


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (b"192.0.2.1", "192.0.2.1"),
        (b"2001:DB8::1", "2001:db8::1"),
        (b"::ffff:192.0.2.1", "192.0.2.1"),
        (b"192.0.2.300", None),
        (b"", None),
        (b"\xff", None),
    ],
)
def test_what_address_a_text_is(text: bytes, plain: str | None) -> None:
    found = plain_ip_of(text)
    assert (None if found is None else str(found)) == plain
    assert (ip_of(text) is None) == (plain is None)


def test_a_client_is_found_by_its_network_again_and_again() -> None:
    networks = ipaddress.ip_network("192.0.2.0/28"), ipaddress.ip_network("192.0.2.0/24")
    clients = ClientList((ClientElement(networks[0], negated=True), ClientElement(networks[1])))
    for _ in range(2):
        assert asked(clients, b"192.0.2.16") == "192.0.2.0/24"
        assert asked(clients, b"::ffff:192.0.2.16") == "192.0.2.0/24"
        assert not asked(clients, b"192.0.2.1")
        assert not asked(clients, b"nobody")


def test_a_table_that_says_when_it_changes_is_asked_once_and_again_then() -> None:
    table = Watched()
    clients = ClientList((ClientElement(maps=table),))  # type: ignore[arg-type] # as much as is asked
    assert [asked(clients, b"192.0.2.1") for _ in range(3)] == ["clients:1"] * 3
    assert table.asked == [b"192.0.2.1"]
    table.says, table.version = None, 1
    assert not asked(clients, b"192.0.2.1")
    assert table.asked == [b"192.0.2.1"] * 2


def test_a_table_that_does_not_is_asked_each_time() -> None:
    table = Watched(watched=False)
    clients = ClientList((ClientElement(maps=table),))  # type: ignore[arg-type] # as much as is asked
    assert asked(clients, b"192.0.2.1") == "clients:1"
    table.says = None
    assert not asked(clients, b"192.0.2.1")
