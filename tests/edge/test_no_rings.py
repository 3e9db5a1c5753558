"""What is over is over: a session leaves nothing behind that only the garbage collector would
find."""

from __future__ import annotations

import asyncio
import gc
import socket
import weakref
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from smtpgw.edge.conversation import Conversation
from smtpgw.edge.listener import Listener, serve
from tests.edge.harness import PATIENCE, QUICK, Ledger

Ends = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def said(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *lines: bytes) -> None:
    for each in lines:
        writer.write(each + b"\r\n")
        while (await reader.readline())[3:4] == b"-":
            pass


async def a_mail(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await said(reader, writer, b"EHLO c.example", b"MAIL FROM:<a@b.example>")
    await said(reader, writer, b"RCPT TO:<u@local.example>", b"DATA", b"A: b\r\n\r\nc\r\n.")


async def quits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await a_mail(reader, writer)
    await said(reader, writer, b"QUIT")
    await reader.read()


async def hangs_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await a_mail(reader, writer)


async def hangs_up_in_a_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await said(reader, writer, b"EHLO c.example", b"MAIL FROM:<a@b.example>")
    await said(reader, writer, b"RCPT TO:<u@local.example>", b"DATA")
    writer.write(b"A: b\r\n")


async def talks_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await said(reader, writer, b"GET / HTTP/1.1")
    await reader.read()


@pytest.mark.parametrize("ends", [quits, hangs_up, hangs_up_in_a_message, talks_http])
def test_a_session_ends_without_the_garbage_collector(ends: Ends) -> None:
    async def session() -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        ledger = Ledger()
        listener = await serve(listening, QUICK, ledger)
        try:
            async with asyncio.timeout(PATIENCE):
                seen = await _meet(listener, listening.getsockname(), ends)
                ledger.connections.clear()  # each can tell what its client has sent
                while not listener.idle or seen() is not None:  # noqa: ASYNC110 - nothing tells of it
                    await asyncio.sleep(0.001)
        finally:
            await listener.drain(PATIENCE)

    gc.collect()
    gc.disable()
    try:
        uvloop.run(session())
    finally:
        gc.enable()


async def _meet(
    listener: Listener, where: tuple[str, int], ends: Ends
) -> weakref.ref[Conversation]:
    reader, writer = await asyncio.open_connection(*where)
    await reader.readline()
    (conversation,) = listener._sessions
    seen = weakref.ref(conversation)
    del conversation
    await ends(reader, writer)
    writer.close()
    return seen
