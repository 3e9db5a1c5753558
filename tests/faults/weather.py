"""A proxy between two ends whose connections fare as on a bad day, each as chance has it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]

FATES = ("fair", "octet by octet", "reset", "closed", "silence", "half open")
_DRIBBLE = 300
"""Octets that go one by one, each in a segment of its own."""
_PATIENCE = 2.0
"""Seconds in which an end has to notice by itself that nothing comes any more."""


@dataclass
class Weather:
    """`port` leads to what `connect` connects to; `happened` counts fates, `cut` connections
    that did not end by their own.  Fair for all as long as `clear` is set."""

    port: int
    connect: Connect
    chance: random.Random
    clear: bool = False
    happened: Counter[str] = field(default_factory=Counter)

    @property
    def cut(self) -> int:
        """How many connections were broken."""
        return sum(self.happened[each] for each in FATES[2:])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        fate = "fair" if self.clear else self.chance.choice(FATES)
        # Mostly in the dialogue, now and then in the message.
        left = int(2 ** self.chance.uniform(2, 12)) if fate in FATES[2:] else 1 << 60
        self.happened[fate] += 1
        try:
            there, back = await self.connect()
        except OSError:
            writer.close()
            return
        broken = asyncio.Event()
        ways = [(reader, back), (there, writer)]
        copies = [asyncio.ensure_future(_copy(*way, fate, left, broken)) for way in ways]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
            if broken.is_set():
                await _end(copies)
                await self._break(fate, writer, back, reader)
            else:
                await asyncio.wait(copies, timeout=1)
        finally:
            await _end(copies)
            for each_writer in (writer, back):
                each_writer.close()

    async def _break(
        self,
        fate: str,
        writer: asyncio.StreamWriter,
        back: asyncio.StreamWriter,
        reader: asyncio.StreamReader,
    ) -> None:
        if fate == "reset":
            for each in (writer, back):
                _reset(each)
        elif fate == "half open":
            _reset(back)  # and whoever came to us is not told
        if fate in ("silence", "half open"):
            # Until the one that waits has had enough of it.
            with contextlib.suppress(OSError, TimeoutError):
                await asyncio.wait_for(_drained(reader), _PATIENCE)


async def _end(copies: Sequence[asyncio.Future[None]]) -> None:
    for each in copies:
        each.cancel()
    await asyncio.gather(*copies, return_exceptions=True)


async def _drained(reader: asyncio.StreamReader) -> None:
    while await reader.read(65536):
        pass


def _reset(writer: asyncio.StreamWriter) -> None:
    linger = struct.pack("ii", 1, 0)
    raw = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def _copy(
    source: asyncio.StreamReader,
    sink: asyncio.StreamWriter,
    fate: str,
    left: int,
    broken: asyncio.Event,
) -> None:
    dribble = _DRIBBLE if fate == "octet by octet" else 0
    try:
        while not broken.is_set() and (data := await source.read(1 if dribble else 65536)):
            sink.write(data[:left])
            left -= len(data)
            await sink.drain()
            if dribble:
                dribble -= 1
                await asyncio.sleep(0)
            if left <= 0:
                broken.set()
    except OSError:
        return  # one end has hung up: so does the other


@contextlib.asynccontextmanager
async def weather(connect: Connect, chance: random.Random) -> AsyncIterator[Weather]:
    """A proxy on a loopback port."""
    listening = socket.create_server(("127.0.0.1", 0))
    made = Weather(listening.getsockname()[1], connect, chance)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await made._serve(reader, writer)

    server = await asyncio.start_server(serve, sock=listening)
    try:
        yield made
    finally:
        server.close()
