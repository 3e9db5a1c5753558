"""Where an MTA under test delivers: a small SMTP and LMTP server that keeps what it gets.

It accepts everything, to the octet, and offers what lets an envelope arrive whole
(8BITMIME, DSN, SMTPUTF8).  Not a server for any other purpose.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from milterd.base import sockets

_LINE = 4096
"""Octets of a command line."""
_MAIL = 64 * 1024 * 1024
"""Octets of a mail."""
_IDLE = 300.0
"""Seconds a client may be silent."""
_PATH = re.compile(rb"(?:FROM|TO):\s*<([^>]*)>\s*(.*)\Z", re.IGNORECASE | re.DOTALL)
_OFFERS = (b"sink.example", b"8BITMIME", b"SMTPUTF8", b"DSN", b"ENHANCEDSTATUSCODES", b"SIZE")


@dataclass(frozen=True, slots=True)
class Address:
    """An envelope address without brackets, and its ESMTP arguments."""

    address: bytes
    args: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Delivered:
    """One transaction: the envelope, and the message as it came, dots unstuffed."""

    sender: Address
    recipients: tuple[Address, ...]
    octets: bytes


class Sink:
    """What has come so far."""

    def __init__(self) -> None:
        self._mails: list[Delivered] = []
        self._came = asyncio.Condition()

    def of(self, token: bytes) -> list[Delivered]:
        """The mails that hold the token in the envelope or the message."""
        return [each for each in self._mails if _holds(each, token)]

    async def wait(self, token: bytes, recipients: int) -> list[Delivered]:
        """Wait until mails with the token came for so many recipients; the caller sets
        the limit."""
        async with self._came:
            while sum(len(each.recipients) for each in self.of(token)) < recipients:
                await self._came.wait()
        return self.of(token)

    async def _take(self, mail: Delivered) -> None:
        async with self._came:
            self._mails.append(mail)
            self._came.notify_all()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, to its end."""
        try:
            await _Session(self, reader, writer).run()
        except (ConnectionError, TimeoutError, EOFError, asyncio.LimitOverrunError, ValueError):
            pass  # the client's trouble: what it had not ended was not delivered
        finally:
            writer.close()


def _holds(mail: Delivered, token: bytes) -> bool:
    envelope = [mail.sender.address, *(each.address for each in mail.recipients)]
    return token in mail.octets or any(token in each for each in envelope)


class _Session:
    def __init__(
        self, sink: Sink, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._sink, self._reader, self._writer = sink, reader, writer
        self._lmtp = False
        self._sender: Address | None = None
        self._recipients: list[Address] = []

    async def run(self) -> None:
        await self._say(b"220 sink.example")
        while True:
            line = await self._line()
            verb, _, rest = line.partition(b" ")
            match verb.upper():
                case b"EHLO" | b"LHLO":
                    self._lmtp = verb.upper() == b"LHLO"
                    *first, last = _OFFERS
                    await self._say(*(b"250-" + each for each in first), b"250 " + last)
                case b"MAIL":
                    self._sender, self._recipients = _path(rest), []
                    await self._say(b"250 2.1.0 Ok")
                case b"RCPT":
                    self._recipients.append(_path(rest))
                    await self._say(b"250 2.1.5 Ok")
                case b"DATA":
                    await self._data()
                case b"QUIT":
                    await self._say(b"221 2.0.0 Bye")
                    return
                case _:
                    await self._say(b"250 2.0.0 Ok")

    async def _data(self) -> None:
        if self._sender is None or not self._recipients:
            await self._say(b"503 5.5.1 No envelope")
            return
        await self._say(b"354 Go on")
        octets = await self._message()
        mail = Delivered(self._sender, tuple(self._recipients), octets)
        # Before the answer: after it the MTA, and a test, may look at once.
        await self._sink._take(mail)
        answers = len(self._recipients) if self._lmtp else 1
        self._sender, self._recipients = None, []
        await self._say(*[b"250 2.0.0 Kept"] * answers)

    async def _message(self) -> bytes:
        async with asyncio.timeout(_IDLE):
            octets = b""
            while octets != b".\r\n" and not octets.endswith(b"\r\n.\r\n"):
                octets += await self._reader.readuntil(b".\r\n")
                if len(octets) > _MAIL:
                    raise ValueError("mail too large")
        octets = octets[:-3]
        if octets.startswith(b"."):
            octets = octets[1:]
        return octets.replace(b"\r\n.", b"\r\n")

    async def _line(self) -> bytes:
        async with asyncio.timeout(_IDLE):
            line = await self._reader.readuntil(b"\n")
        if len(line) > _LINE:
            raise ValueError("command line too long")
        return line.rstrip(b"\r\n")

    async def _say(self, *lines: bytes) -> None:
        self._writer.write(b"".join(each + b"\r\n" for each in lines))
        await self._writer.drain()


def _path(rest: bytes) -> Address:
    match = _PATH.match(rest)
    if match is None:
        raise ValueError("no path")
    return Address(match[1], tuple(match[2].split()))


@asynccontextmanager
async def serve(address: str) -> AsyncIterator[Sink]:
    """Take mail at `HOST:PORT`, `inet:PORT@HOST` or `unix:PATH`, closed at the end.

    Raises ValueError for an address that is none, and sockets.SocketError where
    nobody can listen.
    """
    sink, target = Sink(), sockets.parse(address)
    listener = sockets.listen(target, mode=0o666)
    start = asyncio.start_unix_server if target.kind == "unix" else asyncio.start_server
    server = await start(sink.serve, sock=listener, limit=_MAIL)
    try:
        yield sink
    finally:
        server.close()
        if target.kind == "unix":
            sockets.remove(target.path)
