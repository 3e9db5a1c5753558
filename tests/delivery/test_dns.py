"""The resolver against a name server that misbehaves: four answers, and none of them guessed."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from smtpgw.dns import resolver as resolver_module
from smtpgw.dns.answers import (
    NAME_LIMIT,
    Family,
    Found,
    Mx,
    NoData,
    NoName,
    TryAgain,
    host_name,
)
from smtpgw.dns.cache import Cache
from smtpgw.dns.native import native_address
from smtpgw.dns.resolver import DnsOptions, DnsResolver
from tests.peers import dns as faulty
from tests.peers.dns import DnsServer, Zone, dns_server
from tests.peers.process import free_port
from tests.queue.support import run, until

ZONE: Zone = {
    "example.net": {"MX": ["10 mx1.example.net.", "20 mx2.example.net."]},
    "mx1.example.net": {"A": ["198.51.100.1"], "AAAA": ["2001:db8::1"]},
    "mx2.example.net": {"CNAME": ["mx1.example.net."]},
    "null.example": {"MX": ["0 ."]},
    "odd.example": {"MX": [r"10 a\013\010b.example.", "20 _ok.example.", "30 192.0.2.1."]},
    "alias.example": {"CNAME": ["nowhere.example."]},
    "loop.example": {"CNAME": ["pool.example."]},
    "pool.example": {"CNAME": ["loop.example."]},
}
MX = (Mx(10, "mx1.example.net"), Mx(20, "mx2.example.net"))
LATE = "no answer within|timed out after"
"""By our clock, or by dnspython's, which a stall of the machine moves."""


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextlib.asynccontextmanager
async def asking(
    server: DnsServer, clock: Clock | None = None, **options: object
) -> AsyncIterator[DnsResolver]:
    """A resolver that asks this server alone, and is closed at the end."""
    given_options = {
        "nameservers": (("127.0.0.1", server.port),),
        "try_timeout": 0.4,
        "query_timeout": 5.0,
        **options,
    }
    resolver = DnsResolver(DnsOptions(**given_options), clock or Clock())  # type: ignore[arg-type] # names of fields
    try:
        yield resolver
    finally:
        await resolver.close()


def ask_mx(name: str, fault: str = "", **options: object) -> object:
    """The answer of a new resolver for the mail exchangers of a name, records in order."""

    async def scenario() -> object:
        with dns_server(ZONE) as server:
            server.faults["*"] = fault
            async with asking(server, **options) as resolver:
                found = await resolver.mx(name, 9)
        return Found(tuple(sorted(found.records))) if isinstance(found, Found) else found

    return run(scenario())


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("example.net", Found(MX)),
        ("EXAMPLE.net.", Found(MX)),
        ("null.example", Found((Mx(0, ""),))),
        ("odd.example", Found((Mx(20, "_ok.example"),))),
        ("nowhere.example", NoName("no such name")),
        ("alias.example", NoName("no such name")),
        ("mx1.example.net", NoData("no MX record")),
    ],
)
def test_what_the_name_service_knows(name: str, answer: object) -> None:
    assert ask_mx(name) == answer


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (faulty.SERVFAIL, "SERVFAIL"),
        (faulty.REFUSED, "REFUSED"),
        (faulty.SILENT, LATE),
        (faulty.WRONG_ID, LATE),
        (faulty.WRONG_QUESTION, LATE),
        (faulty.GARBAGE, LATE),
        (faulty.CUT, "does not fit"),
        (faulty.NXDOMAIN_WITH_DATA, "NXDOMAIN"),
    ],
)
def test_a_server_at_fault_says_nothing_about_the_name(fault: str, words: str) -> None:
    """F15 and H27: whatever a server does wrong is no answer, least of all "not found"."""
    answer = ask_mx("example.net", fault, query_timeout=0.8)
    assert isinstance(answer, TryAgain)
    assert re.search(words, answer.reason)


@pytest.mark.parametrize("fault", [faulty.TRUNCATED, faulty.FORGED_FIRST, faulty.NO_EDNS])
def test_the_right_answer_is_found_all_the_same(fault: str) -> None:
    assert ask_mx("example.net", fault) == Found(MX)


def test_a_circle_of_aliases_ends() -> None:
    assert isinstance(ask_mx("loop.example"), TryAgain)


def test_aliases_of_hosts_are_followed_and_both_families_found() -> None:
    async def scenario() -> None:
        with dns_server(ZONE) as server:
            server.secure.add("mx2.example.net")
            async with asking(server) as resolver:
                four = await resolver.address("mx2.example.net", Family.IPV4, 9)
                six = await resolver.address("mx1.example.net", Family.IPV6, 9)
        assert four == Found((ip_address("198.51.100.1"),), secure=True)
        assert six == Found((ip_address("2001:db8::1"),), secure=False)

    run(scenario())


def test_an_answer_is_used_up_to_a_limit() -> None:
    async def scenario() -> None:
        many = [f"198.51.100.{each}" for each in range(1, 200)]
        with dns_server({"big.example": {"A": many}}) as server:
            async with asking(server, records=20) as resolver:
                found = await resolver.address("big.example", Family.IPV4, 9)
            assert isinstance(found, Found)
            assert len(found.records) == 20
            assert server.by_tcp == [("big.example", "A")], "it was too long for a datagram"

    run(scenario())


def test_the_next_server_is_asked_where_one_fails() -> None:
    async def scenario() -> None:
        with dns_server(ZONE) as bad, dns_server(ZONE) as good:
            bad.faults["*"] = faulty.SERVFAIL
            servers = (("127.0.0.1", 1), ("127.0.0.1", bad.port), ("127.0.0.1", good.port))
            async with asking(bad, nameservers=servers) as resolver:
                assert isinstance(await resolver.mx("example.net", 9), Found)
            assert (bad.count("example.net", "MX"), good.count("example.net", "MX")) == (1, 1)

    run(scenario())


def test_answers_are_kept_for_their_time_and_a_failure_is_not() -> None:
    async def scenario() -> None:
        clock = Clock()
        with dns_server(ZONE) as server:
            async with asking(server, clock, min_ttl=5, max_ttl=50) as resolver:
                for name in ("example.net", "nowhere.example", "mx1.example.net"):
                    for seconds, asked in ((0, 1), (49.9, 1), (0.2, 2)):
                        clock.now += seconds
                        await resolver.mx(name, 9)
                        assert server.count(name, "MX") == asked, name
                    clock.now += 1000
                server.faults["*"] = faulty.SERVFAIL
                for asked in (3, 4):
                    assert isinstance(await resolver.mx("example.net", 9), TryAgain)
                    assert server.count("example.net", "MX") == asked
                server.faults.clear()
                server.ttl = 0
                assert isinstance(await resolver.mx("example.net", 9), Found)
                clock.now += 4.9
                await resolver.mx("example.net", 9)
                assert server.count("example.net", "MX") == 5, "an answer for no time at all"

    run(scenario())


def test_a_hundred_at_once_are_one_question_and_each_waits_as_long_as_it_likes() -> None:
    async def scenario() -> None:
        with dns_server(ZONE) as server:
            server.gate.clear()
            async with asking(server) as resolver:
                waiting = [asyncio.ensure_future(resolver.mx("example.net", 9)) for _ in range(100)]
                hurried = await resolver.mx("example.net", 0.05)
                assert hurried == TryAgain("no answer within 0.05 s")
                waiting[0].cancel()
                server.gate.set()
                answers = await asyncio.gather(*waiting[1:])
                assert all(isinstance(each, Found) for each in answers)
                assert server.count("example.net", "MX") == 1

    run(scenario())


def test_so_many_questions_are_asked_at_once_and_no_more() -> None:
    async def scenario() -> None:
        with dns_server() as server:
            server.gate.clear()
            async with asking(server, queries=3) as resolver:
                waiting = [
                    asyncio.ensure_future(resolver.mx(f"n{each}.example", 9)) for each in range(10)
                ]
                await until(lambda: len(server.asked) == 3)
                await asyncio.sleep(0.05)
                assert len(server.asked) == 3
                server.gate.set()
                assert set(await asyncio.gather(*waiting)) == {NoName("no such name")}

    run(scenario())


@pytest.mark.parametrize(
    "name",
    ["", ".", "a..b", "-a.example", "a b", "a/../b.example", "192.0.2.1", "[192.0.2.1]", "x" * 64,
     "a." * 127 + "b", "ex\0ample.net", "exa\nmple.net", "\udcff.example", "*.example", "a@b"],
)  # fmt: skip
def test_what_is_no_name_is_never_asked_for(name: str) -> None:
    async def scenario() -> None:
        with dns_server() as server:
            async with asking(server) as resolver:
                assert isinstance(await resolver.mx(name, 9), NoName)
                assert isinstance(await resolver.address(name, Family.IPV4, 9), NoName)
            assert server.asked == []
        assert isinstance(await native_address(name, Family.IPV4, 9), NoName)

    run(scenario())


@given(st.text(max_size=300))
def test_a_host_name_is_plain_and_stays_itself(text: str) -> None:
    try:
        name = host_name(text)
    except ValueError:
        return
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
    assert 0 < len(name) <= NAME_LIMIT
    assert host_name(name) == host_name(name + ".") == host_name(name.upper()) == name


def test_an_international_name_is_asked_for_as_it_stands_in_dns() -> None:
    assert host_name("Bücher.Example") == "xn--bcher-kva.example"


def test_it_works_in_the_event_loop_of_the_workers() -> None:
    async def scenario() -> object:
        with dns_server(ZONE) as server:
            server.faults["*"] = faulty.TRUNCATED
            async with asking(server) as resolver:
                return await resolver.mx("null.example", 9)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(scenario()) == Found((Mx(0, ""),))


def test_the_machine_knows_its_own_names() -> None:
    async def scenario() -> None:
        found = await native_address("localhost", Family.IPV4, 5)
        assert found == Found((ip_address("127.0.0.1"),))

    run(scenario())


def test_the_cache_keeps_to_its_size() -> None:
    async def scenario() -> None:
        cache: Cache[int] = Cache(2, Clock())
        calls: list[int] = []

        async def get(key: int) -> int:
            async def find() -> tuple[int, float]:
                calls.append(key)
                return key, 60.0

            return await cache.get(key, find)

        for key in (1, 2, 1, 3, 1, 2):
            assert await get(key) == key
        assert calls == [1, 2, 3, 2], "who was not asked for longest went first"
        assert len(cache) == 2

    run(scenario())


def test_the_systems_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "resolv.conf"
    monkeypatch.setattr(resolver_module, "_RESOLV_CONF", file)
    servers = resolver_module._read_resolv_conf
    assert servers() == (("127.0.0.1", 53),)
    file.write_text("# x\nnameserver 192.0.2.53\nsearch a.example\nnameserver fe80::1%eth0\nx\n")
    assert servers() == (("192.0.2.53", 53),)
    file.write_text("nameserver\nnameserver 2001:db8::53\n")
    assert servers() == (("2001:db8::53", 53),)


def test_no_test_asks_the_machines_own_servers() -> None:
    """The whole suite is fenced in: see tests/conftest.py."""
    with pytest.raises(AssertionError, match="name server of its own"):
        resolver_module.system_nameservers()


def test_time_for_a_dead_server_is_bounded() -> None:
    async def scenario() -> None:
        with dns_server() as server:
            server.faults["*"] = faulty.SILENT
            async with asking(server, query_timeout=0.6) as resolver:
                began = time.monotonic()
                names = [f"n{each}.example" for each in range(20)]
                answers = await asyncio.gather(*(resolver.mx(each, 9) for each in names))
                assert all(isinstance(each, TryAgain) for each in answers)
                assert time.monotonic() - began < 15

    run(scenario())


def test_a_server_that_does_not_run_is_known_at_once() -> None:
    """What is said is what the kernel tells; waiting would end otherwise, at its limit."""
    options = DnsOptions((("127.0.0.1", free_port()),), try_timeout=60, query_timeout=60)

    async def ask() -> object:
        resolver = DnsResolver(options, time.monotonic)
        try:
            return await resolver.mx("example.net", 60)
        finally:
            await resolver.close()

    found = run(ask())
    assert isinstance(found, TryAgain)
    assert "refused" in found.reason.lower()
