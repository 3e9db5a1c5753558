"""Tables behind a small protocol of one request and one reply: socketmap: and tcp:."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from smtpgw.tables.answers import Answers
from smtpgw.tables.context import Context
from smtpgw.tables.servers import Limits, Lost, Server, Servers
from smtpgw.tables.table import Found, TableError, Unavailable


class Stream(asyncio.Protocol):
    """A connection whose replies have `limit` octets at most."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._octets = bytearray()
        self._transport: asyncio.Transport | None = None
        self._news = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Of a stream it is one, though uvloop's has another ancestry.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._octets += data
        self._news.set()
        if len(self._octets) > self._limit:
            self.drop()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002 - gone is gone
        self._transport = None
        self._news.set()

    @property
    def unasked(self) -> bool:
        """Whether there is something that nobody asked for."""
        return bool(self._octets)

    async def ask(self, request: bytes, measure: Callable[[bytes], int]) -> bytes:
        """The one reply to a request.  `measure` tells its length from what has come so far, 0:
        more has to come.  Raises Lost, for octets that nobody asked for too."""
        if self._transport is None or self.unasked:
            raise Lost("it speaks without being asked" if self.unasked else "closed")
        self._transport.write(request)
        while not (length := self._measured(measure)):
            if self._transport is None:
                raise Lost(f"closed after {len(self._octets)} octets of a reply")
            self._news.clear()
            await self._news.wait()
        reply = bytes(self._octets[:length])
        if len(self._octets) > length:
            raise Lost("more than one reply")
        self._octets.clear()
        return reply

    def _measured(self, measure: Callable[[bytes], int]) -> int:
        if len(self._octets) > self._limit:
            raise Lost(f"a reply of more than {self._limit} octets")
        return measure(bytes(self._octets))

    def drop(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def connect(server: Server, limit: int) -> Stream:
    """Raises Lost."""
    loop = asyncio.get_running_loop()
    try:
        if server.unix:
            _, stream = await loop.create_unix_connection(lambda: Stream(limit), server.host)
        else:
            _, stream = await loop.create_connection(
                lambda: Stream(limit), server.host, server.port
            )
    except OSError as error:
        raise Lost(str(error)) from error
    return stream


def inet(place: str, spec: str) -> Server:
    """host:port or [host]:port.  Raises TableError."""
    host, _, port = place.rpartition(":")
    if not port.isdigit() or not 0 < int(port) < 65_536:
        raise TableError(spec, found=repr(place), expected="host:port")
    bare = host.removeprefix("[").removesuffix("]")
    return Server(place, bare or "localhost", int(port))


class Asking:
    """A table whose server is asked with `question(stream, key)`."""

    fixed = False

    def __init__(
        self,
        name: str,
        server: Server,
        context: Context,
        question: Callable[[Stream, bytes], Awaitable[Found | None]],
        limits: Limits,
        longest: int,
    ) -> None:
        self._name, self._question = name, question
        self._folding = context.folding
        self._servers = Servers(
            name, [server], lambda each: connect(each, longest), limits, context
        )
        self._answers = Answers(
            context.cache_size, context.cache_time, context.cache_missing_time, context.clock
        )

    @property
    def name(self) -> str:
        """The table as it was written."""
        return self._name

    async def find(self, key: bytes) -> Found | None:
        """What the server says.  Raises Unavailable."""
        asked = self._folding.pattern(key)
        if not asked or b"\0" in asked:
            return None
        return await self._answers.get(asked, lambda: self._find(asked))

    async def _find(self, key: bytes) -> Found | None:
        found = await self._servers.ask(lambda stream: self._question(stream, key))
        if found is not None and not self._folding.allows(found.value):
            raise Unavailable(self._name, "an answer that is not UTF-8")
        return found

    async def close(self) -> None:
        """Close the connections."""
        await self._answers.close()
        await self._servers.close()
