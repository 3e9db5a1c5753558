"""Asking: connections are kept; a service that is down, slow or confused ends in ServiceDown."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from smtpgw.delegation.client import PolicyClient, ServiceDown
from smtpgw.delegation.service import PolicyOptions, Service, parse
from tests.delegation.scripted import Scripted
from tests.loop import in_loop
from tests.peers.process import directory

DUNNO = b"action=DUNNO\n\n"
OPTIONS = PolicyOptions(timeout=0.3, retry_delay=5.0)
ASKED = {"request": "smtpd_access_policy", "sender": "a@example.org"}


class World:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.pauses: list[float] = []

    def clock(self) -> float:
        return self.now

    async def pause(self, seconds: float) -> None:
        self.pauses.append(seconds)

    def client(self, connections: int = 100) -> PolicyClient:
        return PolicyClient(clock=self.clock, pause=self.pause, connections=connections)


async def ask(
    world: World, peer: Scripted, times: int = 1, options: PolicyOptions = OPTIONS
) -> str:
    """The last answer."""
    with directory("policy") as home:
        async with peer.at(home / "p") as name:
            client, service = world.client(), parse(name, options)
            try:
                for _ in range(times):
                    found = await client.ask(service, ASKED)
            finally:
                await client.close()
    return found


@in_loop
async def test_one_connection_carries_many_requests() -> None:
    peer = Scripted()
    peer.scripts = [peer.says(DUNNO)]
    assert await ask(World(), peer, 5) == "DUNNO"
    assert peer.connections == 1
    assert peer.requests == [ASKED] * 5


@in_loop
async def test_request_limit_ends_a_connection() -> None:
    peer = Scripted()
    peer.scripts = [peer.says(DUNNO)]
    await ask(World(), peer, 6, replace(OPTIONS, request_limit=2))
    assert peer.connections == 3


@pytest.mark.parametrize(("limit", "passes"), [("max_idle", 11.0), ("max_ttl", 11.0)])
@in_loop
async def test_what_is_too_old_is_not_used_again(limit: str, passes: float) -> None:
    peer, world = Scripted(), World()
    peer.scripts = [peer.says(DUNNO)]
    with directory("policy") as home:
        async with peer.at(home / "p") as name:
            client = world.client()
            service = parse(f"{{ {name}, {limit}=10s }}", OPTIONS)
            await client.ask(service, ASKED)
            await client.ask(service, ASKED)
            assert peer.connections == 1
            world.now += passes
            await client.ask(service, ASKED)
            assert peer.connections == 2
            await client.close()


@in_loop
async def test_a_kept_connection_that_was_closed_costs_no_try() -> None:
    peer, world = Scripted(), World()
    peer.scripts = [peer.once(DUNNO)]
    assert await ask(world, peer, 3, replace(OPTIONS, try_limit=1)) == "DUNNO"
    assert peer.connections == 3
    assert world.pauses == []


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", "closed before"),
        (b"action=DUN", "closed before"),
        (b"action=DUNNO\n", "closed before"),
        (b"nonsense\n\n", "name=value"),
        (b"verdict=OK\n\n", "without action"),
        (b"x" * 10_000, "longer than"),
    ],
)
@in_loop
async def test_garbage_and_half_answers_are_tried_again(answer: bytes, why: str) -> None:
    peer, world = Scripted(), World()
    peer.scripts = [peer.once(answer)]
    with pytest.raises(ServiceDown, match=why):
        await ask(world, peer)
    assert peer.connections == 2
    assert world.pauses == [5.0]


@in_loop
async def test_a_second_try_may_succeed() -> None:
    peer, world = Scripted(), World()
    peer.scripts = [peer.once(b"action="), peer.says(b"action=REJECT no\n\n")]
    assert await ask(world, peer) == "REJECT no"


@in_loop
async def test_a_silent_service_is_given_up() -> None:
    peer = Scripted()
    peer.scripts = [peer.says(b"")]
    with pytest.raises(ServiceDown, match=r"no answer within 0\.1 s"):
        await ask(World(), peer, options=replace(OPTIONS, timeout=0.1, try_limit=1))


@in_loop
async def test_an_answer_that_nobody_asked_for_is_no_answer_to_the_next() -> None:
    peer = Scripted()

    async def two(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await peer.read(reader)
        writer.write(b"action=OK\n\naction=OK\n\n")
        await peer.read(reader)

    peer.scripts = [two, peer.says(b"action=REJECT\n\n")]
    assert await ask(World(), peer, 2) == "REJECT"


@in_loop
async def test_nobody_there() -> None:
    with directory("policy") as home, pytest.raises(ServiceDown, match="No such file"):
        await World().client().ask(parse(f"unix:{home}/none", OPTIONS), ASKED)


@in_loop
async def test_connections_are_bounded() -> None:
    peer, most, now = Scripted(), 0, 0

    async def counted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most, now
        while await peer.read(reader) is not None:
            now += 1
            most = max(most, now)
            await asyncio.sleep(0)
            now -= 1
            writer.write(DUNNO)

    peer.scripts = [counted]
    with directory("policy") as home:
        async with peer.at(home / "p") as name:
            client, service = World().client(connections=3), parse(name, OPTIONS)
            found = await asyncio.gather(*(client.ask(service, ASKED) for _ in range(50)))
            await client.close()
    assert found == ["DUNNO"] * 50
    assert peer.connections <= 3
    assert most <= 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unix:/run/p", Service("unix:/run/p", OPTIONS, path="/run/p")),
        ("unix:private/p", Service("unix:private/p", OPTIONS, path="/q/private/p")),
        ("inet:127.0.0.1:10023", Service("inet:127.0.0.1:10023", OPTIONS, "", "127.0.0.1", 10023)),
        ("inet:[::1]:7", Service("inet:[::1]:7", OPTIONS, "", "::1", 7)),
        (
            "{ inet:h:1, timeout=10s, default_action=DUNNO, policy_context=submission }",
            Service(
                "inet:h:1",
                replace(OPTIONS, timeout=10, default_action="DUNNO", policy_context="submission"),
                "",
                "h",
                1,
            ),
        ),
        (
            "{inet:h:1 { default_action = 450 4.7.1 try later } try_limit=3 max_ttl=2m}",
            Service(
                "inet:h:1",
                replace(OPTIONS, default_action="450 4.7.1 try later", try_limit=3, max_ttl=120),
                "",
                "h",
                1,
            ),
        ),
    ],
)
def test_a_service_as_it_is_written(text: str, expected: Service) -> None:
    assert parse(text, OPTIONS, "/q") == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "unix:",
        "127.0.0.1:10",
        "inet:h",
        "inet:h:0",
        "inet:h:70000",
        "unix:/" + "x" * 107,
        "{inet:h:1",
        "{}",
        "{inet:h:1, speed=3}",
        "{inet:h:1, timeout=soon}",
        "{inet:h:1, try_limit=0}",
        "{inet:h:1, {a} = }",
    ],
)
def test_what_names_no_service(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|at most"):
        parse(text, OPTIONS)


def test_the_fixture_keeps_paths_short() -> None:
    with directory("policy") as home:
        assert len(str(Path(home) / "p")) < 100
