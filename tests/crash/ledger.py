"""Who was promised what, and who got it: the two books a crash test compares.

The clients write down every 250 they saw; the sink writes down every mail it
answered 250 for.  Both live in the test's own process, which nobody kills.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

Key = tuple[str, str]
"""Mail and recipient."""

_MARK = re.compile(rb"^X-Ledger: ([0-9a-z-]+)\r?$", re.MULTILINE)


@dataclass
class Ledger:
    """Promises made by the gateway, and deliveries it made."""

    promised: dict[str, tuple[str, ...]] = field(default_factory=dict)
    delivered: dict[Key, list[tuple[float, float]]] = field(
        default_factory=lambda: defaultdict(list)
    )
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

    def twice(self) -> dict[Key, list[tuple[float, float]]]:
        """Delivered more than once, with the times it began and was complete."""
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
                accepted = await _send_one(port, rcpts, body(name))
        except (OSError, EOFError, TimeoutError):
            ledger.broken += 1
            await asyncio.sleep(0.02)  # the gateway is down: do not spin
            continue
        if accepted:
            ledger.promised[name] = rcpts
            ledger.news.set()
        else:
            ledger.refused += 1


async def _send_one(port: int, rcpts: tuple[str, ...], message: bytes) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await _reply(reader)
        commands = [b"EHLO load.example.net", b"MAIL FROM:<load@example.net>"]
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


class Sink:
    """An LMTP server that answers 250 for all and writes it down first."""

    def __init__(self, ledger: Ledger, path: Path) -> None:
        self._ledger, self._path = ledger, path
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._path, limit=2**24)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        rcpts: list[str] = []
        writer.write(b"220 sink LMTP\r\n")
        try:
            while line := await reader.readline():
                verb = line[:4].upper()
                if verb == b"LHLO":
                    writer.write(b"250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n")
                elif verb == b"RCPT":
                    rcpts.append(line.split(b"<")[1].split(b">")[0].decode())
                    writer.write(b"250 2.1.5 ok\r\n")
                elif verb == b"DATA":
                    began = time.monotonic()
                    writer.write(b"354 go\r\n")
                    self._store(await reader.readuntil(b"\r\n.\r\n"), rcpts, began)
                    writer.write(b"250 2.0.0 stored\r\n" * len(rcpts))
                    rcpts = []
                else:
                    rcpts = []
                    writer.write(b"250 2.0.0 ok\r\n")
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the gateway was killed in mid-sentence, as this test means it to be
        finally:
            writer.close()

    def _store(self, message: bytes, rcpts: list[str], began: float) -> None:
        mark = _MARK.search(message)
        assert mark is not None, message[:200]
        name = mark[1].decode()
        self._ledger.octets[name] = message[:-3]
        for rcpt in rcpts:
            self._ledger.delivered[name, rcpt].append((began, time.monotonic()))
        self._ledger.news.set()
