"""Who was promised what, and who got it: the two books a crash test compares.

The clients write down every 250 they saw; the sink writes down every mail it
answered 250 for.  Both live in the test's own process, which nobody kills.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

Key = tuple[str, str]
"""Mail and recipient."""

_MARK = re.compile(rb"^X-Ledger: ([0-9a-z-]+)\r?$", re.MULTILINE)


_PAUSE = 0.1
"""Seconds a client waits when the gateway, or one of its filters, is down: what is starting
needs the time."""


class Delivery(NamedTuple):
    """When it began and was complete (time.monotonic), and which process made it."""

    began: float
    complete: float
    pid: int = 0


@dataclass
class Ledger:
    """Promises made by the gateway, and deliveries it made.  What comes from the null sender
    is a notification: it goes to the sender of the mail that it is about."""

    promised: dict[str, tuple[str, ...]] = field(default_factory=dict)
    delivered: dict[Key, list[Delivery]] = field(default_factory=lambda: defaultdict(list))
    octets: dict[str, bytes] = field(default_factory=dict)
    refused: int = 0
    broken: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def reaches(self, condition: Callable[[], bool], within: float) -> bool:
        """Wait for a condition on these books, at most `within` seconds; whether it came."""
        try:
            async with asyncio.timeout(within):
                while not condition():
                    self.news.clear()
                    await self.news.wait()
        except TimeoutError:
            return False
        return True

    def owed(self) -> set[Key]:
        """Promised and not delivered."""
        promised = ((mail, each) for mail, rcpts in self.promised.items() for each in rcpts)
        return {key for key in promised if key not in self.delivered}

    def twice(self) -> dict[Key, list[Delivery]]:
        """Delivered more than once."""
        return {key: times for key, times in self.delivered.items() if len(times) > 1}


async def send_mails(
    ledger: Ledger,
    port: int,
    names: Iterator[str],
    body: Callable[[str], bytes],
    stop: asyncio.Event,
) -> None:
    """Send one mail after another until told to stop; a lost connection is just the next try."""
    while not stop.is_set():
        name = next(names)
        rcpts = tuple(f"r{n}-{name}@example.net" for n in range(1 + len(ledger.promised) % 2))
        try:
            async with asyncio.timeout(30):
                accepted = await send_one(port, rcpts, body(name))
        except (OSError, EOFError, TimeoutError):
            ledger.broken += 1
            await asyncio.sleep(_PAUSE)
            continue
        if accepted:
            ledger.promised[name] = rcpts
            ledger.news.set()
        else:
            ledger.refused += 1
            await asyncio.sleep(_PAUSE)


async def send_one(
    port: int, rcpts: Sequence[str], message: bytes, sender: str = "load@example.net"
) -> bool:
    """Whether the mail was answered 250.  Raises OSError, EOFError."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await _reply(reader)
        commands = [b"EHLO load.example.net", b"MAIL FROM:<%b>" % sender.encode()]
        commands += [b"RCPT TO:<%b>" % each.encode() for each in rcpts]
        for command in [*commands, b"DATA"]:
            writer.write(command + b"\r\n")
            if not (await _reply(reader)).startswith((b"2", b"3")):
                return False
        writer.write(message + b"\r\n.\r\n")
        return (await _reply(reader)).startswith(b"250")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _reply(reader: asyncio.StreamReader) -> bytes:
    while True:
        line = await reader.readline()
        if not line.endswith(b"\n"):
            raise EOFError("connection lost before a reply")
        if line[3:4] != b"-":
            return line


Refuse = Callable[[str], bytes | None]
"""What a sink answers to RCPT for an address instead of 250, if anything."""


def nobody(_address: str) -> None:
    """Refuse nobody."""


class Sink:
    """An LMTP server that answers 250 to all it does not refuse, and writes it down first;
    the answer to a message comes after `pace` seconds."""

    def __init__(
        self, ledger: Ledger, path: Path, refuse: Refuse = nobody, pace: float = 0.0
    ) -> None:
        self.ledger, self._path, self.refuse, self._pace = ledger, path, refuse, pace
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._path, limit=2**24)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rcpts: list[str] = []
        null, pid = False, _peer(writer)
        writer.write(b"220 sink LMTP\r\n")
        try:
            while line := await reader.readline():
                verb = line[:4].upper()
                if verb == b"LHLO":
                    writer.write(b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n")
                elif verb == b"RCPT":
                    rcpt = line.split(b"<")[1].split(b">")[0].decode()
                    refused = self.refuse(rcpt)
                    rcpts += [] if refused else [rcpt]
                    writer.write(refused or b"250 2.1.5 ok\r\n")
                elif verb == b"DATA" and not rcpts:
                    writer.write(b"503 5.5.1 no recipients\r\n")
                elif verb == b"DATA":
                    began = time.monotonic()
                    writer.write(b"354 go\r\n")
                    message = await reader.readuntil(b"\r\n.\r\n")
                    made = Delivery(began, time.monotonic(), pid)
                    self._store(message, rcpts, made, notice=null)
                    await asyncio.sleep(self._pace)
                    writer.write(b"250 2.0.0 stored\r\n" * len(rcpts))
                    rcpts = []
                else:
                    null = line.upper().startswith(b"MAIL FROM:<>")
                    rcpts = []
                    writer.write(b"250 2.0.0 ok\r\n")
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the gateway was killed in mid-sentence, as this test means it to be
        finally:
            writer.close()

    def _store(self, message: bytes, rcpts: list[str], made: Delivery, *, notice: bool) -> None:
        mark = _MARK.search(message)
        assert mark is not None, message[:200]
        name = mark[1].decode()
        if not notice:
            self.ledger.octets[name] = message[:-3]
        for rcpt in rcpts:
            self.ledger.delivered[name, rcpt].append(made)
        self.ledger.news.set()


def _peer(writer: asyncio.StreamWriter) -> int:
    """The process at the other end of a UNIX-domain connection."""
    found = writer.get_extra_info("socket").getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
    )
    return int(struct.unpack("3i", found)[0])
