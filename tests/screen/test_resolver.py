"""Names of addresses, texts and name servers, asked of a name server that misbehaves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from ipaddress import ip_address

import pytest

from smtpgw.dns.allowance import Allowance
from smtpgw.dns.answers import Family, Found, NoData, NoName, TryAgain
from smtpgw.dns.resolver import DnsResolver
from tests.delivery.test_dns import Clock, asking
from tests.peers import dns as faulty
from tests.peers.dns import Zone, dns_server
from tests.queue.support import run

ADDRESS = ip_address("192.0.2.1")
REVERSE = "1.2.0.192.in-addr.arpa"
ZONE: Zone = {
    REVERSE: {"PTR": ["b.example.net.", "a.example.net."]},
    "2.2.0.192.in-addr.arpa": {"CNAME": ["2.0-63.2.0.192.in-addr.arpa."]},
    "2.0-63.2.0.192.in-addr.arpa": {"PTR": ["aliased.example.net."]},
    "3.2.0.192.in-addr.arpa": {"PTR": [r"a\013\010b.example.", "192.0.2.3.", "_ok.example."]},
    "4.2.0.192.in-addr.arpa": {"PTR": [r"two\032words."]},
    "5.2.0.192.in-addr.arpa": {"TXT": ['"only words"']},
    "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": {
        "PTR": ["six.example.net."]
    },
    "bl.example": {"TXT": ['"listed, " "see there"', '"\\255\\000"'], "A": ["127.0.0.2"]},
    "example.net": {"NS": ["ns1.example.net.", "ns2.example.net."]},
}


def ask(
    question: Callable[[DnsResolver], Awaitable[object]], fault: str = "", **options: object
) -> object:
    """The answer of a new resolver."""

    async def scenario() -> object:
        with dns_server(ZONE) as server:
            server.faults["*"] = fault
            async with asking(server, **options) as resolver:
                return await question(resolver)

    return run(scenario())


@pytest.mark.parametrize(
    ("address", "answer"),
    [
        ("192.0.2.1", Found(("b.example.net", "a.example.net"))),
        ("192.0.2.2", Found(("aliased.example.net",))),
        ("192.0.2.3", Found(("_ok.example",))),
        ("192.0.2.4", Found(())),
        ("192.0.2.5", NoData("no PTR record")),
        ("192.0.2.6", NoName("no such name")),
        ("2001:db8::1", Found(("six.example.net",))),
    ],
)
def test_names_of_an_address(address: str, answer: object) -> None:
    """In the order of the answer, for the first of them is the client's name."""
    assert ask(lambda it: it.ptr(ip_address(address), 9)) == answer


def test_texts_are_octets_joined() -> None:
    texts = ask(lambda it: it.txt("bl.example", 9))
    assert texts == Found((b"listed, see there", b"\xff\x00"))
    assert ask(lambda it: it.txt("example.net", 9)) == NoData("no TXT record")


def test_name_servers() -> None:
    assert ask(lambda it: it.ns("example.net", 9)) == Found(("ns1.example.net", "ns2.example.net"))
    assert ask(lambda it: it.ns("192.0.2.1", 9)) == NoName("'192.0.2.1': no domain name")


@pytest.mark.parametrize(
    "question",
    [lambda it: it.ptr(ADDRESS, 9), lambda it: it.txt("bl.example", 9),
     lambda it: it.ns("example.net", 9)],
)  # fmt: skip
@pytest.mark.parametrize(
    "fault",
    [faulty.SERVFAIL, faulty.REFUSED, faulty.SILENT, faulty.WRONG_ID, faulty.WRONG_QUESTION,
     faulty.GARBAGE, faulty.CUT, faulty.NXDOMAIN_WITH_DATA],
)  # fmt: skip
def test_a_server_at_fault_says_nothing_about_them(
    question: Callable[[DnsResolver], Awaitable[object]], fault: str
) -> None:
    """F15 and H27."""
    assert isinstance(ask(question, fault, try_timeout=0.1, query_timeout=0.2), TryAgain)


def test_many_records_are_used_up_to_a_limit() -> None:
    """H27: what nobody needs takes no memory for long."""

    async def scenario() -> None:
        names = [f"{each}.example." for each in range(300)]
        with dns_server({REVERSE: {"PTR": names}}) as server:
            async with asking(server, records=20) as resolver:
                found = await resolver.ptr(ADDRESS, 9)
        assert isinstance(found, Found)
        assert found.records[0] == "0.example"
        assert len(found.records) == 20

    run(scenario())


def test_an_alias_to_itself_ends() -> None:
    async def scenario() -> object:
        with dns_server({REVERSE: {"CNAME": [f"{REVERSE}."]}}) as server:
            async with asking(server) as resolver:
                return await resolver.ptr(ADDRESS, 9)

    assert isinstance(run(scenario()), TryAgain)


def test_how_long_an_answer_is_still_good() -> None:
    """What the servers say, less the time that it was kept; nothing where they said nothing."""

    async def scenario() -> None:
        clock = Clock()
        with dns_server(ZONE) as server:
            server.ttl = 40
            async with asking(server, clock) as resolver:
                for passed, left in ((0, 40), (30, 10)):
                    clock.now += passed
                    found = await resolver.address("bl.example", Family.IPV4, 9)
                    assert isinstance(found, Found)
                    assert found.ttl == left
                assert server.count("bl.example", "A") == 1
                missing = await resolver.ptr(ip_address("192.0.2.6"), 9)
                assert isinstance(missing, NoName)
                assert missing.ttl == 0.0

    run(scenario())


def test_a_mail_waits_so_long_for_the_name_service_and_no_longer() -> None:
    async def scenario() -> None:
        clock = Clock()
        allowance = Allowance(10.0, clock)
        limits = []
        gate = asyncio.Event()

        async def answer(limit: float) -> NoName:
            limits.append(limit)
            await gate.wait()
            return NoName("gone")

        first = asyncio.ensure_future(allowance.ask(answer))
        await asyncio.sleep(0)
        clock.now += 3
        together = asyncio.gather(first, *(allowance.ask(answer) for _ in range(2)))
        await asyncio.sleep(0)
        clock.now += 1
        gate.set()
        assert await together == [NoName("gone")] * 3
        assert allowance.left == 6, "three at the same time are one wait"

        async def slow(limit: float) -> TryAgain:
            limits.append(limit)
            clock.now += limit
            return TryAgain("no answer")

        assert await allowance.ask(slow) == TryAgain("no answer")
        assert await allowance.ask(slow) == TryAgain("no time left for the name service")
        assert limits == [10, 7, 7, 6], "what has no time left is not asked"

    run(scenario())
