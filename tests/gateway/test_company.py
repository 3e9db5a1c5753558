"""Which mails are taken to be on their way, for whose sake others wait a moment to be committed."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from milterd.base import logs, settings
from smtpgw import wiring
from smtpgw.app import App, spool
from smtpgw.chain.health import Health
from smtpgw.config import GatewaySettings
from smtpgw.control import Orders
from smtpgw.counting import Counting
from smtpgw.dns.changing import ChangingResolver
from smtpgw.plan import Means
from smtpgw.post import Post
from smtpgw.queue.clock import SystemClock
from smtpgw.queue.sqlite import SqliteStore
from smtpgw.road import GatewayRoad
from tests.queue.support import run, until

SETTINGS = """
[smtpgw]
myhostname = "gw.example.net"
relay_domains = ["example.net"]
[[smtpgw.listener]]
name = "mx"
profile = "mx"
address = "127.0.0.1:2525"
[smtpgw.queue]
directory = "{queue}"
queue_minfree = 0
[smtpgw.delivery]
default = "discard:"
"""
TO = b"RCPT TO:<u@example.net>"


def expected(store: SqliteStore) -> int:
    return len(store.expected._since)


class Client:
    """One that says a line and hears its answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    async def heard(self) -> int:
        while (line := await self._reader.readline())[3:4] == b"-":
            pass
        return int(line[:3])

    async def say(self, *lines: bytes) -> int:
        for line in lines:
            self.writer.write(line + b"\r\n")
            code = await self.heard()
        return code


@asynccontextmanager
async def gateway(directory: Path) -> AsyncIterator[tuple[SqliteStore, int]]:
    """The rooms of a worker in this process."""
    loaded = settings.parse(SETTINGS.format(queue=directory / "queue"), GatewaySettings)
    clock = SystemClock()
    spool(loaded.smtpgw).mkdir(parents=True)
    post = await Post.open(0, loaded.smtpgw, clock, 0.0)
    log = logs.get("smtpd")
    means = Means(post.intake, Health(time.monotonic), log, time.time, time.monotonic)
    resolver = ChangingResolver(wiring.dns(loaded.smtpgw), time.monotonic)
    app = App(post, GatewayRoad(means, {}), clock, loaded.smtpgw, resolver, Counting(None))
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    failures: list[BaseException] = []
    await app.apply(Orders(loaded, {"mx": listening}), failures.append)
    try:
        yield post.store, listening.getsockname()[1]
    finally:
        await app.close(1.0)
        assert not failures


def test_a_mail_is_on_its_way_from_connecting_and_from_mail_to_its_answer(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as (store, port):
            client = Client(*await asyncio.open_connection("127.0.0.1", port))
            assert await client.heard() == 220
            assert expected(store) == 1
            assert await client.say(b"EHLO x") == 250
            assert expected(store) == 1
            assert await client.say(b"MAIL FROM:<a@example.org>", TO, b"RSET") == 250
            assert expected(store) == 0
            for _ in range(2):
                assert await client.say(b"MAIL FROM:<a@example.org>", TO, b"DATA") == 354
                assert expected(store) == 1
                assert await client.say(b"Subject: x\r\n\r\nhello\r\n.") == 250
                assert expected(store) == 0
            assert await client.say(b"MAIL FROM:<a@example.org>") == 250
            assert expected(store) == 1
            client.writer.close()
            await until(lambda: expected(store) == 0)

    run(scenario())


def test_nobody_waits_for_who_has_gone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with gateway(tmp_path) as (store, port):
            silent, polite = [
                Client(*await asyncio.open_connection("127.0.0.1", port)) for _ in range(2)
            ]
            assert await silent.heard() == await polite.heard() == 220
            assert expected(store) == 2
            assert await polite.say(b"EHLO x", b"QUIT") == 221
            await until(lambda: expected(store) == 1)
            silent.writer.close()
            await until(lambda: expected(store) == 0)

    run(scenario())
