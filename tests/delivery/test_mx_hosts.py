"""From a nexthop to its hosts: Postfix's rules, against a name server of our own."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import AsyncIterator, Mapping
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpgw.delivery.hosts import HostFinder, HostOptions, Hosts, NoHosts
from smtpgw.delivery.nexthop import parse
from smtpgw.delivery.order import OrderOptions
from smtpgw.dns.answers import (
    AddressAnswer,
    Family,
    Found,
    IpAddress,
    Mx,
    MxAnswer,
    NamesAnswer,
    NoName,
    Resolver,
    TextAnswer,
    TryAgain,
)
from smtpgw.dns.native import native_address
from smtpgw.dns.resolver import DnsOptions, DnsResolver
from tests.peers import dns as faulty
from tests.peers.dns import DnsServer, dns_server
from tests.queue.support import run

US = "198.51.100.99"
ZONE: dict[str, Mapping[str, list[str]]] = {
    "example.net": {"MX": ["20 b.example.", "10 a.example.", "30 c.example."]},
    "a.example": {"A": ["198.51.100.1"], "AAAA": ["2001:db8::1"]},
    "b.example": {"A": ["198.51.100.2"]},
    "c.example": {"A": ["198.51.100.3"]},
    "gw.example": {"A": [US]},
    "bare.example": {"A": ["198.51.100.7"], "AAAA": ["2001:db8::7"]},
    "alias.example": {"MX": ["10 pointer.example."]},
    "pointer.example": {"CNAME": ["a.example."]},
    "half.example": {"MX": ["10 gone.example.", "20 b.example."]},
    "dead.example": {"MX": ["10 gone.example.", "20 gone2.example."]},
    "null.example": {"MX": ["0 ."], "A": ["198.51.100.8"]},
    "odd.example": {"MX": [r"10 a\000.example."], "A": ["198.51.100.8"]},
    "backup.example": {"MX": ["10 a.example.", "20 gw.example.", "20 b.example.", "30 c.example."]},
    "ours.example": {"MX": ["10 gw.example.", "20 b.example."]},
    "later.example": {"MX": ["10 gone.example.", "20 gw.example."]},
    "mixed.example": {"MX": ["10 inside.example.", "10 b.example."]},
    "inside.example": {"A": ["127.0.0.9", "0.0.0.0", "169.254.169.254"], "AAAA": ["::1"]},
    "trap.example": {"MX": ["10 inside.example."]},
    "private.example": {"A": ["10.0.0.1"]},
    "crowd.example": {"MX": [f"{each} m{each}.example." for each in range(1000)]},
    **{f"m{each}.example": {"A": [f"198.51.101.{each % 250}"]} for each in range(40, 1000)},
}


def _is_us(address: IpAddress) -> bool:
    return str(address) in (US, "127.0.0.1", "127.0.0.9")


@contextlib.asynccontextmanager
async def finder(
    server: DnsServer | None = None, resolver: Resolver | None = None, **options: Any
) -> AsyncIterator[HostFinder]:
    """A finder called gw.example, which asks this server."""
    nameservers = (("127.0.0.1", server.port),) if server else ()
    asked = resolver or DnsResolver(DnsOptions(nameservers, query_timeout=5), time.monotonic)
    options = {"names": frozenset({"gw.example"}), **options}
    try:
        yield HostFinder(
            HostOptions(**options),
            asked,
            native=native_address,
            is_local=_is_us,
            chance=random.Random(5).random,
            clock=time.monotonic,
        )
    finally:
        await asked.close()


def find(
    text: str, faults: Mapping[str, str] | None = None, **options: Any
) -> tuple[Hosts | NoHosts, list[tuple[str, str]]]:
    """What is found for a nexthop, and what was asked for it."""

    async def scenario() -> tuple[Hosts | NoHosts, list[tuple[str, str]]]:
        with dns_server(ZONE) as server:
            server.faults.update(faults or {})
            async with finder(server, **options) as way:
                return await way.find(parse(text)[0]), server.asked

    return run(scenario())


def names(found: Hosts | NoHosts) -> list[str]:
    assert isinstance(found, Hosts), found
    return list(dict.fromkeys(each.name for each in found.hosts))


@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("example.net", ["a.example", "b.example", "c.example"]),
        ("[a.example]", ["a.example"]),
        ("[198.51.100.77]", ["198.51.100.77"]),
        ("bare.example", ["bare.example"]),
        ("alias.example", ["pointer.example"]),
        ("half.example", ["b.example"]),
        ("backup.example", ["a.example"]),
    ],
)
def test_hosts_in_their_order(text: str, hosts: list[str]) -> None:
    assert names(find(text)[0]) == hosts


def test_addresses_of_both_families_at_the_right_port() -> None:
    found, _ = find("bare.example:587")
    assert isinstance(found, Hosts)
    assert {(str(each.address), each.port) for each in found.hosts} == {
        ("198.51.100.7", 587),
        ("2001:db8::7", 587),
    }
    four, asked = find("bare.example", inet_protocols="ipv4", smtp_tcp_port=26)
    assert isinstance(four, Hosts)
    assert [(str(each.address), each.port) for each in four.hosts] == [("198.51.100.7", 26)]
    assert ("bare.example", "AAAA") not in asked


def test_brackets_ask_for_no_mail_exchangers_and_an_address_for_nothing() -> None:
    assert ("a.example", "MX") not in find("[a.example]")[1]
    assert find("[198.51.100.77]")[1] == []


@pytest.mark.parametrize(
    ("text", "enhanced", "words"),
    [
        ("nowhere.example", "5.4.4", "Host or domain name not found"),
        ("dead.example", "5.4.4", "Host or domain name not found"),
        ("[nowhere.example]", "5.4.4", "Host or domain name not found"),
        ("null.example", "5.1.10", "Domain null.example does not accept mail (nullMX)"),
        ("odd.example", "5.4.4", "no MX record of odd.example has a valid host name"),
        ("ours.example", "5.4.6", "mail for ours.example loops back to myself"),
        ("gw.example", "5.4.6", "mail for gw.example loops back to myself"),
        ("[198.51.100.99]", "5.4.6", "loops back to myself"),
        ("later.example", "4.4.4", "unable to find primary relay for later.example"),
        ("trap.example", "5.4.4", "is a loopback address"),
        ("inside.example", "5.4.4", "has an address that mail may go to"),
    ],
)
def test_why_there_are_none(text: str, enhanced: str, words: str) -> None:
    found, _ = find(text)
    assert isinstance(found, NoHosts)
    assert found.enhanced == enhanced
    assert words in found.text
    assert found.mx_is_us == ("myself" in words or "primary relay" in words)
    assert found.refused == ("nullMX" in words)


@pytest.mark.parametrize("fault", [faulty.SERVFAIL, faulty.REFUSED, faulty.NXDOMAIN_WITH_DATA])
@pytest.mark.parametrize(
    "text", ["example.net", "nowhere.example", "null.example", "[a.example]", "bare.example"]
)
def test_trouble_with_dns_is_a_deferral_and_never_a_bounce(text: str, fault: str) -> None:
    """F15."""
    found, _ = find(text, {"*": fault})
    if isinstance(found, NoHosts) and fault == faulty.NXDOMAIN_WITH_DATA:
        assert found.enhanced in ("4.4.3", "5.4.4"), "of a name without records this is the truth"
        assert text == "nowhere.example" or found.later
    else:
        assert isinstance(found, NoHosts)
        assert found.enhanced == "4.4.3"
        assert "Name service error" in found.text


def test_trouble_with_one_host_hides_no_other_and_keeps_mail_from_bouncing() -> None:
    assert names(find("example.net", {"a.example": faulty.SERVFAIL})[0]) == [
        "b.example", "c.example",
    ]  # fmt: skip
    found, _ = find("dead.example", {"gone2.example": faulty.SERVFAIL})
    assert isinstance(found, NoHosts)
    assert found.later, "one is gone for certain, of the other nobody knows"


def test_no_address_defers_where_that_is_wanted() -> None:
    found, _ = find("dead.example", smtp_defer_if_no_mx_address_found=True)
    assert isinstance(found, NoHosts)
    assert found.enhanced == "4.4.4"


def test_mx_lookup_errors_are_ignored_where_that_is_wanted() -> None:
    faults = {"bare.example MX": faulty.SERVFAIL}
    assert names(find("bare.example", faults, ignore_mx_lookup_error=True)[0]) == ["bare.example"]


def test_without_dns_the_machine_is_asked_and_nobody_else() -> None:
    found, asked = find("localhost:2525", smtp_dns_support_level="disabled", inet_protocols="ipv4")
    assert isinstance(found, Hosts)
    assert [str(each.address) for each in found.hosts] == ["127.0.0.1"]
    assert asked == []
    found, asked = find("[localhost]:2525", smtp_host_lookup=("dns", "native"))
    assert names(found) == ["localhost"]
    assert ("localhost", "A") in asked


def test_a_strangers_dns_sends_us_to_nobodys_inside() -> None:
    """H28: skipped and told of; the others are used; RFC 1918 only where it is asked for."""
    found, _ = find("mixed.example")
    assert names(found) == ["b.example"]
    assert sorted(each.partition("] is a ")[2] for each in found.notes) == [
        "link-local address", "loopback address", "loopback address", "unspecified address",
    ]  # fmt: skip
    assert names(find("private.example")[0]) == ["private.example"]
    found, _ = find("private.example", smtp_mx_refuse_addresses=frozenset({"private"}))
    assert isinstance(found, NoHosts)
    assert names(find("[private.example]", smtp_mx_refuse_addresses=frozenset({"private"}))[0])


def test_we_are_known_by_name_by_address_and_at_our_ports_only() -> None:
    behind_nat = {"addresses": frozenset({ip_address("198.51.100.1")})}
    found, _ = find("example.net", **behind_nat)
    assert isinstance(found, NoHosts)
    assert "loops" in found.text
    named = {"names": frozenset({"b.example"})}
    assert names(find("example.net", **named)[0]) == ["a.example"]
    assert names(find("example.net:2525", **named)[0]) == ["a.example", "b.example", "c.example"]
    found, _ = find("example.net", **named)
    assert isinstance(found, Hosts)
    assert found.mx_is_us, "so that its mail goes to no fallback"


def test_a_crowd_of_mail_exchangers_is_not_asked_for_whole() -> None:
    """H30: 1000 of them, the first forty without an address."""
    found, asked = find("crowd.example")
    assert names(found) == [f"m{each}.example" for each in range(40, 45)]
    assert len(asked) == 2 + 2 * 45, "by UDP, by TCP, and for the addresses of forty-five"
    everywhere, _ = find("crowd.example", order=OrderOptions(smtp_mx_address_limit=0))
    assert len(names(everywhere)) == 10, "fifty names are asked for, however many there are"


def test_all_questions_of_a_mail_have_one_deadline() -> None:
    async def scenario() -> None:
        with dns_server(ZONE) as server:
            server.faults.update({"a.example": faulty.SILENT, "c.example": faulty.SILENT})
            async with finder(server, mail_timeout=0.5) as way:
                began = time.monotonic()
                assert names(await way.find(parse("example.net")[0])) == ["b.example"]
                assert time.monotonic() - began < 15

    run(scenario())


class Scripted:
    """A resolver that knows what it is told."""

    def __init__(self, mx: MxAnswer, addresses: Mapping[str, AddressAnswer]) -> None:
        self._mx, self._addresses = mx, addresses

    async def mx(self, name: str, limit: float) -> MxAnswer:  # noqa: ARG002 - the protocol's
        return self._mx

    async def address(self, name: str, family: Family, limit: float) -> AddressAnswer:  # noqa: ARG002 - the protocol's
        if family is Family.IPV6:
            return NoName("not there")
        return self._addresses[name]

    async def ptr(self, address: IpAddress, limit: float) -> NamesAnswer:  # noqa: ARG002
        raise AssertionError("nobody asks for that here")

    async def txt(self, name: str, limit: float) -> TextAnswer:  # noqa: ARG002
        raise AssertionError("nobody asks for that here")

    async def ns(self, name: str, limit: float) -> NamesAnswer:  # noqa: ARG002
        raise AssertionError("nobody asks for that here")

    async def close(self) -> None:
        return


_HOSTS = ["gw.example", *(f"h{each}.example" for each in range(6))]
_ANSWERS = st.sampled_from(["there", "gone", "unknown"])


@given(
    st.lists(st.tuples(st.integers(0, 4), st.sampled_from(_HOSTS)), min_size=1, unique=True),
    st.fixed_dictionaries(dict.fromkeys(_HOSTS, _ANSWERS)),
    st.integers(1, 6),
)
def test_nobody_is_tried_who_is_no_better_than_we_are(
    records: list[tuple[int, str]], state: dict[str, str], limit: int
) -> None:
    """RFC 5321 section 5.1, whatever of the exchangers' addresses is known."""
    answers: dict[str, AddressAnswer] = {
        name: {
            "there": Found((ip_address(f"198.51.100.{number + 1}"),)),
            "gone": NoName("no such name"),
            "unknown": TryAgain("silence"),
        }[state[name]]
        for number, name in enumerate(_HOSTS)
    }
    mx = Found(tuple(Mx(*each) for each in records))

    async def scenario() -> Hosts | NoHosts:
        order = OrderOptions(smtp_mx_address_limit=limit)
        async with finder(resolver=Scripted(mx, answers), order=order) as way:
            return await way.find(parse("example.net")[0])

    found = run(scenario())
    ours = min((level for level, name in records if name == "gw.example"), default=99)
    better = {name for level, name in records if level < ours}
    there = {name for name in better if state[name] == "there"}
    if isinstance(found, Hosts):
        tried = {each.name for each in found.hosts}
        assert tried <= there
        assert len(tried) == len(found.hosts) == min(limit, len(there)) or len(records) > len(
            better
        )
        worst = max(each.preference for each in found.hosts)
        assert {n for level, n in records if level < worst and n in there} <= tried | {"gw.example"}
    else:
        assert not there
        if not better and ours < 99:
            assert found.enhanced == "5.4.6"
        elif any(state[name] == "unknown" for name in better):
            assert found.later
