"""The world in which clients live: who has which address and name, and what the zones hold."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

from tests.peers.dns import SERVFAIL

SERVER, SERVER6 = "192.0.2.250", "2001:db8::250"


@dataclass(frozen=True)
class Client:
    """`what` says what is special."""

    address: str
    name: str
    what: str


CLIENTS = (
    Client("192.0.2.1", "mail.good.example", "right in both directions"),
    Client("192.0.2.2", "own.local.example", "one of mynetworks"),
    Client("192.0.2.3", "", "no PTR"),
    Client("192.0.2.4", "noforward.example", "a name that does not exist"),
    Client("192.0.2.5", "mail.good.example", "the name of somebody else"),
    Client("192.0.2.6", "tempfwd.example", "a name that cannot be asked for now"),
    Client("192.0.2.7", "", "a PTR that cannot be asked for now"),
    Client("192.0.2.8", "listed.bad.example", "in every list of bad ones"),
    Client("192.0.2.9", "half.bad.example", "in one list, with another code"),
    Client("192.0.2.10", "white.good.example", "in a list of good ones"),
    Client("192.0.2.11", "a_b.under.example", "a name with an underscore"),
    Client("2001:db8::1", "six.good.example", "by IPv6, right in both directions"),
    Client("2001:db8::2", "", "by IPv6, no PTR"),
    Client("2001:db8::3", "six.bad.example", "by IPv6, listed"),
)  # fmt: skip
TROUBLED = {"192.0.2.7"}


def reverse(address: str) -> str:
    """The name of its PTR record."""
    return ip_address(address).reverse_pointer


def listed(address: str, zone: str) -> str:
    """Its name in a list of addresses."""
    return f"{reverse(address).rsplit('.', 2)[0]}.{zone}"


def _forward(client: Client) -> dict[str, list[str]]:
    return {"AAAA" if ":" in client.address else "A": [client.address]}


def zone() -> dict[str, dict[str, list[str]]]:
    """All records."""
    found: dict[str, dict[str, list[str]]] = {
        "good.example": {"A": ["192.0.2.1"], "MX": ["10 mail.good.example."],
                         "NS": ["ns.good.example."], "SOA": [_soa("good.example")]},
        "ns.good.example": {"A": ["192.0.2.53"]},
        "a.good.example": {"A": ["192.0.2.1"]},
        "mxonly.example": {"MX": ["10 mail.good.example."], "NS": ["ns.good.example."]},
        "nullmx.example": {"MX": ["0 ."], "A": ["192.0.2.1"]},
        "nodata.example": {"TXT": ["nothing else"]},
        "six.example": {"AAAA": ["2001:db8::1"]},
        "badmx.example": {"MX": ["10 mx.bad.example."], "NS": ["ns.bad.example."]},
        "mx.bad.example": {"A": ["203.0.113.9"]},
        "ns.bad.example": {"A": ["203.0.113.53"]},
        "loopmx.example": {"MX": ["10 loop.example."]},
        "loop.example": {"A": ["127.0.0.1"]},
        "lostmx.example": {"MX": ["10 nowhere.example."]},
        "backup.example": {"MX": ["10 mail.good.example.", "20 own.gateway.example."]},
        "own.gateway.example": {"A": [SERVER]},
        "bad.example": {"A": ["203.0.113.1"], "NS": ["ns.bad.example."],
                        "MX": ["5 mx.bad.example."]},
        "alias.example": {"CNAME": ["good.example."]},
        "deadalias.example": {"CNAME": ["nowhere.example."]},
        "local.example": {"A": [SERVER], "MX": ["10 own.gateway.example."]},
        "relay.example": {"A": ["192.0.2.1"], "MX": ["10 mail.good.example."]},
        "va.example": {"MX": ["10 own.gateway.example."]},
        "vm.example": {"MX": ["10 own.gateway.example."]},
        "tempmx.example": {"A": ["192.0.2.1"]},
    }  # fmt: skip
    for client in CLIENTS:
        if client.name:
            found[reverse(client.address)] = {"PTR": [f"{client.name}."]}
            if client.what not in ("a name that does not exist", "the name of somebody else"):
                found.setdefault(client.name, {}).update(_forward(client))
    return found | _lists()


def _soa(name: str) -> str:
    return f"ns.{name}. root.{name}. 1 3600 600 86400 60"


def _lists() -> dict[str, dict[str, list[str]]]:
    bad, other = {"A": ["127.0.0.2"], "TXT": ["listed here"]}, {"A": ["127.0.0.10", "127.0.1.3"]}
    found: dict[str, dict[str, list[str]]] = {}
    for address in ("192.0.2.8", "2001:db8::3"):
        found[listed(address, "bl.test")] = bad
        found[listed(address, "bl2.test")] = bad
    found[listed("192.0.2.9", "bl.test")] = other
    found[listed("192.0.2.10", "wl.test")] = {"A": ["127.0.5.2"]}
    found[listed("192.0.2.8", "wl.test")] = {"A": ["127.0.5.0"]}
    for name in ("bad.example", "listed.bad.example", "six.bad.example"):
        found[f"{name}.rhs.test"] = bad
    found["half.bad.example.rhs.test"] = other
    found["white.good.example.rhswl.test"] = {"A": ["127.0.0.3"]}
    return found


FAULTS = {
    "tempfwd.example": SERVFAIL,
    reverse("192.0.2.7"): SERVFAIL,
    "temp.example": SERVFAIL,
    "tempmx.example MX": SERVFAIL,
    "tempns.example NS": SERVFAIL,
    "temp.example.rhs.test": SERVFAIL,
    listed("192.0.2.1", "tempbl.test"): SERVFAIL,
    listed("192.0.2.3", "tempbl.test"): SERVFAIL,
}
ADDRESSES = (SERVER, SERVER6, *(each.address for each in CLIENTS))
