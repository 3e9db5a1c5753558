"""Answering: in order, bounded, and whatever fails has an answer."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import pytest
from structlog.testing import capture_logs

from milterd.base import logs
from smtpgw.delegation.client import PolicyClient
from smtpgw.delegation.server import Evaluate, PolicyServer, ServerOptions
from smtpgw.delegation.service import PolicyOptions, parse
from tests.loop import in_loop

OPTIONS = ServerOptions("test", idle=5.0, deadline=5.0)
REQUEST = b"request=smtpd_access_policy\nsender=%b\n\n"


async def echo(request: Mapping[str, str]) -> str:
    await asyncio.sleep(0)
    return f"REJECT {request.get('sender', '')}"


@asynccontextmanager
async def serving(
    evaluate: Evaluate = echo, options: ServerOptions = OPTIONS
) -> AsyncIterator[tuple[PolicyServer, int]]:
    listening = socket.create_server(("127.0.0.1", 0))
    server = PolicyServer(options, evaluate, log=logs.get("policy"))
    await server.start(listening)
    try:
        yield server, listening.getsockname()[1]
    finally:
        await server.drain(1.0)


async def talk(port: int, octets: bytes, *, end: bool = True) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(octets)
    if end:
        writer.write_eof()
    async with asyncio.timeout(10):
        found = await reader.read()
    writer.close()
    return found


@in_loop
async def test_requests_that_come_at_once_are_answered_in_order() -> None:
    async with serving() as (_, port):
        found = await talk(port, b"".join(REQUEST % b"%d" % each for each in range(200)))
    assert found == b"".join(b"action=REJECT %d\n\n" % each for each in range(200))


@in_loop
async def test_our_client_and_our_server_understand_each_other() -> None:
    async with serving() as (_, port):
        client = PolicyClient(clock=asyncio.get_running_loop().time)
        service = parse(f"inet:127.0.0.1:{port}", PolicyOptions())
        asked = {"request": "smtpd_access_policy", "sender": "é@example.org"}
        assert await client.ask(service, asked) == "REJECT é@example.org"
        await client.close()


@pytest.mark.parametrize(
    "octets", [b"\n", b"GET / HTTP/1.0\r\n\r\n", b"request=junk\n\n", b"x" * 9000, b"\0=\n"]
)
@in_loop
async def test_what_is_no_policy_request_ends_the_connection(octets: bytes) -> None:
    async with serving() as (_, port):
        assert await talk(port, octets, end=False) == b""
        assert await talk(port, REQUEST % b"x") == b"action=REJECT x\n\n"


@in_loop
async def test_a_failure_has_an_answer_and_a_line_in_the_log() -> None:
    async def broken(_: Mapping[str, str]) -> str:
        raise RuntimeError("boom")

    options = ServerOptions("test", failure="DEFER_IF_PERMIT 4.3.0 try later")
    with capture_logs() as said:
        async with serving(broken, options) as (_, port):
            found = await talk(port, REQUEST % b"x" * 2)
    assert found == b"action=DEFER_IF_PERMIT 4.3.0 try later\n\n" * 2
    assert [each["outcome"] for each in said] == ["error", "error"]


@in_loop
async def test_what_takes_too_long_is_answered_by_the_setting() -> None:
    async def never(_: Mapping[str, str]) -> str:
        await asyncio.Event().wait()
        return ""

    async with serving(never, ServerOptions("test", deadline=0.05)) as (_, port):
        assert await talk(port, REQUEST % b"x") == b"action=DUNNO\n\n"


@in_loop
async def test_who_is_silent_is_sent_away() -> None:
    async with serving(options=ServerOptions("test", idle=0.05)) as (_, port):
        assert await talk(port, b"request=", end=False) == b""


@in_loop
async def test_one_connection_too_many_is_closed() -> None:
    async with serving(options=ServerOptions("test", connections=1)) as (_, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST % b"a")
        assert await reader.readuntil(b"\n\n") == b"action=REJECT a\n\n"
        with pytest.raises(ConnectionError):
            await talk(port, REQUEST % b"b", end=False)
        writer.write(REQUEST % b"c")
        assert await reader.readuntil(b"\n\n") == b"action=REJECT c\n\n"
        writer.close()


@in_loop
async def test_an_answer_that_is_under_way_leaves_before_the_end() -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    async def slow(_: Mapping[str, str]) -> str:
        asked.set()
        await go.wait()
        return "OK"

    async with serving(slow) as (server, port):
        talking = asyncio.ensure_future(talk(port, REQUEST % b"x", end=False))
        await asked.wait()
        ending = asyncio.ensure_future(server.drain(5.0))
        await asyncio.sleep(0)
        go.set()
        await ending
        assert await talking == b"action=OK\n\n"


@in_loop
async def test_new_rules_hold_from_the_next_request_on() -> None:
    async def other(_: Mapping[str, str]) -> str:
        return "OK"

    async with serving() as (server, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(REQUEST % b"a")
        assert await reader.readuntil(b"\n\n") == b"action=REJECT a\n\n"
        server.reconfigure(OPTIONS, other)
        writer.write(REQUEST % b"a")
        assert await reader.readuntil(b"\n\n") == b"action=OK\n\n"
        writer.close()
