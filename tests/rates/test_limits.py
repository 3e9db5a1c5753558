"""What a client hears that comes too often, and who is one client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import pytest

from smtpgw.rates.counts import Counts
from smtpgw.rates.limits import ClientLimiter, ClientLimits, Excess, Ticket, network
from smtpgw.rates.local import LocalCounters

Result = TypeVar("Result")


def run(work: Awaitable[Result]) -> Result:
    async def inner() -> Result:
        return await work

    return asyncio.run(inner())


def codes(found: list[Excess | None]) -> list[str]:
    return ["" if each is None else f"{each.code} {each.enhanced}" for each in found]


@pytest.mark.parametrize(
    ("name", "limits", "answer"),
    [
        ("message", ClientLimits(message_rate_limit=2), "450 4.7.1"),
        ("recipient", ClientLimits(recipient_rate_limit=2), "450 4.7.1"),
        ("auth", ClientLimits(auth_rate_limit=2), "450 4.7.1"),
        ("newtls", ClientLimits(new_tls_session_rate_limit=2), "421 4.7.0"),
    ],
)
def test_a_rate(name: str, limits: ClientLimits, answer: str) -> None:
    counters = LocalCounters(Counts(lambda: 0.0, 60))

    async def many() -> list[Excess | None]:
        one = ClientLimiter(counters, limits, "mx", b"192.0.2.1")
        return [await getattr(one, name)() for _ in range(4)]

    assert codes(run(many())) == ["", "", answer, answer]


@pytest.mark.parametrize(
    "limits", [ClientLimits(connection_count_limit=2), ClientLimits(0, connection_rate_limit=2)]
)
def test_connections(limits: ClientLimits) -> None:
    counters = LocalCounters(Counts(lambda: 0.0, 60))

    async def many() -> list[Excess | None]:
        several = [ClientLimiter(counters, limits, "mx", b"192.0.2.1") for _ in range(3)]
        found = [await each.connect() for each in several]
        for each in several:
            await each.close()
        return [*found, await ClientLimiter(counters, limits, "mx", b"192.0.2.1").connect()]

    again = "" if limits.connection_count_limit else "421 4.7.0"
    assert codes(run(many())) == ["", "", "421 4.7.0", again]


def test_who_is_counted_is_not_gone_at_once() -> None:
    counters = LocalCounters(Counts(lambda: 0.0, 60))

    async def scenario() -> None:
        limits = ClientLimits(connection_count_limit=1)
        one = ClientLimiter(counters, limits, "mx", b"192.0.2.1")
        assert await one.connect() is None
        assert not one.close_now()
        await one.close()
        other = ClientLimiter(counters, limits, "mx", b"192.0.2.1")
        assert await other.connect() is None, "the first one is not counted any more"
        late = ClientLimiter(counters, limits, "mx", b"192.0.2.9")
        assert late.close_now()
        assert await late.connect() is None
        again = ClientLimiter(counters, limits, "mx", b"192.0.2.9")
        assert await again.connect() is None, "who went while it was counted is not counted"

    run(scenario())


def test_starttls_is_refused_after_one_handshake_too_many_and_counts_nothing() -> None:
    counters = LocalCounters(Counts(lambda: 0.0, 60))

    async def many() -> list[Excess | None]:
        one = ClientLimiter(
            counters, ClientLimits(new_tls_session_rate_limit=1), "mx", b"192.0.2.1"
        )
        found = []
        for _ in range(3):
            found += [await one.starttls()]
        for _ in range(2):
            found += [await one.starttls(), await one.newtls()]
        return [*found, await one.starttls()]

    assert codes(run(many())) == ["", "", "", "", "", "", "421 4.7.0", "454 4.7.0"]


def test_listeners_count_apart_and_those_without_address_not_at_all() -> None:
    counters = LocalCounters(Counts(lambda: 0.0, 60))
    limits = ClientLimits(connection_count_limit=1)

    async def many() -> list[Excess | None]:
        return [
            await ClientLimiter(counters, limits, service, address).connect()
            for service, address in (
                ("mx", b"192.0.2.1"), ("submission", b"192.0.2.1"), ("mx", b""), ("mx", b""),
            )
        ]  # fmt: skip

    assert run(many()) == [None] * 4


@pytest.mark.parametrize(
    ("address", "limits", "whom"),
    [
        ("192.0.2.1", ClientLimits(), "192.0.2.1"),
        ("192.0.2.1", ClientLimits(ipv4_prefix_length=24), "192.0.2.0/24"),
        ("2001:db8::1:2:3", ClientLimits(), "2001:db8::/84"),
        ("2001:db8:0:1:2::3", ClientLimits(ipv6_prefix_length=64), "2001:db8:0:1::/64"),
        ("2001:DB8::1", ClientLimits(ipv6_prefix_length=128), "2001:db8::1"),
        ("nonsense", ClientLimits(), "nonsense"),
    ],
)
def test_who_is_one_client(address: str, limits: ClientLimits, whom: str) -> None:
    assert network(address, limits) == whom


def test_a_client_that_goes_while_it_is_counted_is_not_counted_on() -> None:
    counts = Counts(lambda: 0.0, 60)

    class Slow(LocalCounters):
        async def connect(self, ident: str) -> Ticket:
            await limiter.close()
            return await super().connect(ident)

    limiter = ClientLimiter(Slow(counts), ClientLimits(), "mx", b"192.0.2.1")
    assert run(limiter.connect()) is None
    assert counts.usage("mx:192.0.2.1").count == 0
