"""What a nexthop's text means, which addresses are whose, and the order of hosts."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from smtpgw.delivery.local import is_local
from smtpgw.delivery.nexthop import KINDS, SERVICES, Nexthop, kind_of, of_domain, parse
from smtpgw.delivery.order import Host, OrderOptions, ordered
from smtpgw.delivery.outcome import Destination
from smtpgw.delivery.router import parse_destination
from tests.delivery.roads import routes
from tests.queue.support import run

V4, V6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")


@pytest.mark.parametrize(
    ("text", "host", "port", "direct", "address"),
    [
        ("example.com", "example.com", 0, False, None),
        ("Example.COM.", "example.com", 0, False, None),
        ("example.com:26", "example.com", 26, False, None),
        ("example.com:submission", "example.com", 587, False, None),
        ("[mail.example.com]", "mail.example.com", 0, True, None),
        ("[mail.example.com]:587", "mail.example.com", 587, True, None),
        ("[192.0.2.1]", "192.0.2.1", 0, True, V4),
        ("[192.0.2.1]:2525", "192.0.2.1", 2525, True, V4),
        ("[IPv6:2001:db8::1]:25", "2001:db8::1", 25, True, V6),
        ("[ipv6:2001:db8:0::1]", "2001:db8::1", 0, True, V6),
        ("[2001:db8::1]:25", "2001:db8::1", 25, True, V6),
    ],
)
def test_a_nexthop_is_read_as_postfix_reads_it(
    text: str, host: str, port: int, direct: bool, address: object
) -> None:
    assert parse(text) == (Nexthop(text, host, port, direct, address),)  # type: ignore[arg-type] # address


@pytest.mark.parametrize(
    "text",
    ["", " ", ",", "[", "[]", "[a", "a]", "a:", "a:0", "a:65536", "a:b", "a:99999999", "[a]b",
     "[a]:", "[192.0.2.300]", "[IPv6:1:2]", "[::1%eth0]", "192.0.2.1", "::1", "a b:", "smtp:[a]:25",
     "unix:/run/x", "a:²", "[a]:smtpx", "a..b", "x\0y", "[[a]]"],
)  # fmt: skip
def test_what_is_no_nexthop_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse(text)


def test_several_are_tried_in_order() -> None:
    hosts = [each.host for each in parse("a.example, [b.example]:587 c.example")]
    assert hosts == ["a.example", "b.example", "c.example"]


_LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
_NAMES = st.tuples(_LABEL, st.from_regex(r"[a-z]{2,6}", fullmatch=True)).map(".".join)
_ADDRESSES = st.ip_addresses()


def _spell(host: str | IPv4Address | IPv6Address, direct: bool, port: str) -> str:
    prefix = "IPv6:" if isinstance(host, IPv6Address) else ""
    text = f"[{prefix}{host}]" if direct or not isinstance(host, str) else host
    return f"{text}:{port}" if port else text


@given(
    _NAMES | _ADDRESSES,
    st.booleans(),
    st.just("") | st.integers(1, 65535).map(str) | st.sampled_from(sorted(SERVICES)),
)
def test_every_spelling_means_what_it_says(
    host: str | IPv4Address | IPv6Address, direct: bool, port: str
) -> None:
    (found,) = parse(_spell(host, direct, port))
    number = SERVICES.get(port, int(port) if port.isdigit() else 0)
    assert (found.host, found.port) == (str(host), number)
    assert found.direct == (direct or not isinstance(host, str))
    assert found.address == (None if isinstance(host, str) else host)


@given(st.text(max_size=60) | st.text("[]:.a1,- ", max_size=40))
def test_any_text_is_a_nexthop_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except ValueError:
        return
    assert found
    assert all(0 <= each.port < 65536 and each.host for each in found)


@given(st.text(max_size=60) | st.text("[]:.a1-IPv6", max_size=40))
@example("[IPv6:::1]")
@example("a,b")
def test_a_recipients_domain_is_one_nexthop_of_its_own(text: str) -> None:
    """Nothing in an address can name a port, a second host, or skip the mail exchangers."""
    try:
        found = of_domain(text)
    except ValueError:
        return
    assert found.port == 0
    assert found.direct == (found.address is not None)
    assert parse(found.text) == (found,)


@pytest.mark.parametrize(
    ("kind", "addresses"),
    [
        ("unspecified", "0.0.0.0 0.1.2.3 :: ::ffff:0.0.0.0"),
        ("loopback", "127.0.0.1 127.255.0.9 ::1 ::ffff:127.0.0.1 64:ff9b::7f00:1 2002:7f00:1::"),
        ("link-local", "169.254.169.254 fe80::1 ::ffff:169.254.1.1 fec0::1"),
        ("multicast", "224.0.0.1 239.255.255.255 ff02::1"),
        ("broadcast", "255.255.255.255 240.0.0.1"),
        ("private", "10.1.2.3 172.16.0.1 192.168.1.1 fd00::1 ::10.0.0.1 64:ff9b::a00:1"),
        ("", "8.8.8.8 2600::1 172.32.0.1 ::ffff:8.8.8.8 2002:808:808::1"),
    ],
)
def test_kinds_of_addresses(kind: str, addresses: str) -> None:
    """H28: however an address is wrapped up."""
    assert {each: kind_of(ip_address(each)) for each in addresses.split()} == dict.fromkeys(
        addresses.split(), kind
    )


@given(st.ip_addresses(v=4))
def test_an_address_in_a_wrapper_is_of_its_own_kind(address: IPv4Address) -> None:
    mapped = IPv6Address(b"\0" * 10 + b"\xff\xff" + address.packed)
    assert kind_of(mapped) == kind_of(address)
    assert kind_of(address) in ("", *KINDS)


_HOSTS = st.lists(
    st.builds(
        Host,
        name=st.sampled_from(["a", "b", "c"]),
        address=st.ip_addresses(),
        port=st.just(25),
        preference=st.integers(0, 3),
    ),
    max_size=12,
    unique=True,
)
_ORDER = st.builds(
    OrderOptions,
    smtp_address_preference=st.sampled_from(["any", "ipv4", "ipv6"]),
    smtp_balance_inet_protocols=st.booleans(),
    smtp_randomize_addresses=st.booleans(),
    smtp_mx_address_limit=st.integers(0, 8),
)


@given(_HOSTS, _ORDER, st.integers())
def test_preference_is_always_kept(hosts: list[Host], options: OrderOptions, seed: int) -> None:
    found = ordered(hosts, options, random.Random(seed).random)
    limit = options.smtp_mx_address_limit or len(hosts)
    assert len(found) == min(limit, len(hosts))
    assert set(found) <= set(hosts)
    levels = [each.preference for each in found]
    assert levels == sorted(levels)
    wanted = options.smtp_address_preference
    for level in set(levels):
        families = [each.family for each in found if each.preference == level]
        if wanted != "any":
            assert families == sorted(families, key=lambda each: each != wanted)


@given(_HOSTS, st.integers(2, 8), st.integers())
def test_neither_family_crowds_the_other_out(hosts: list[Host], limit: int, seed: int) -> None:
    options = OrderOptions(smtp_mx_address_limit=limit)
    found = ordered(hosts, options, random.Random(seed).random)
    for family in ("ipv4", "ipv6"):
        there = sum(each.family == family for each in hosts)
        assert sum(each.family == family for each in found) >= min(there, limit // 2)


def test_equal_ones_come_in_every_order_unless_told_otherwise() -> None:
    hosts = [Host("a", ip_address(f"192.0.2.{each}"), 25, 10) for each in range(3)]
    chance = random.Random(3).random
    assert len({ordered(hosts, OrderOptions(), chance) for _ in range(200)}) == 6
    still = OrderOptions(smtp_randomize_addresses=False)
    assert {ordered(hosts, still, chance) for _ in range(20)} == {tuple(hosts)}


def test_what_is_this_machines_own() -> None:
    assert is_local(ip_address("127.0.0.1"))
    assert is_local(ip_address("127.9.9.9"))
    assert is_local(ip_address("0.0.0.0"))
    assert not is_local(ip_address("198.51.100.1"))
    assert not is_local(ip_address("2001:db8::1"))


_REFUSE = frozenset({"loopback"})


@pytest.mark.parametrize(
    ("address", "destination"),
    [
        (b"u@Example.NET", "smtp:example.net"),
        (b"u@example.net.", "smtp:example.net"),
        (b"u@[192.0.2.1]", "smtp:[192.0.2.1]"),
        (b"u@[IPv6:2001:DB8:0::1]", "smtp:[IPv6:2001:db8::1]"),
        ("u@bücher.example".encode(), "smtp:xn--bcher-kva.example"),
        ("u@BÜCHER.special.example".encode(), "relay:[gw]"),
        (b"postmaster", "smtp:gw.example"),
        (b"u@own.example", "relay:own.example"),
        (b"u@x.special.example", "relay:[gw]"),
        (b"u@[127.0.0.1]", "error:5.7.1 no mail goes to a loopback address"),
        (b"u@[::1]", "error:5.1.3 bad address syntax"),
        (b"u@192.0.2.1", "error:5.1.3 bad address syntax"),
        (b"u@\xff.example", "error:5.1.2 '\\\\xff.example': no domain name"),
        (b"u@a..b", "error:5.1.3 bad address syntax"),
    ],
)
def test_mail_for_the_internet_goes_where_its_own_domain_says(
    address: bytes, destination: str
) -> None:
    exceptions = {
        "own.example": parse_destination("relay:"),
        ".special.example": parse_destination("relay:[gw]"),
    }
    table = routes(Destination("smtp"), exceptions, refuse=_REFUSE)
    assert str(run(table.route(address))) == destination


@given(st.binary(max_size=80))
@example(b"u@\xed\xb3\xbf.x")
def test_any_recipient_has_a_destination_that_can_be_written_down(address: bytes) -> None:
    found = run(routes(Destination("smtp"), refuse=_REFUSE).route(address))
    assert str(found).encode().isascii()
    assert str(found).isprintable()
