"""Tables behind a small protocol of one request and one reply: socketmap: and tcp:."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from smtpgw.tables.answers import Answers
from smtpgw.tables.context import Context
from smtpgw.tables.servers import Limits, Lost, Server, Servers
from smtpgw.tables.table import Found, TableError, Unavailable


class Stream:
    """A connection whose replies have `limit` octets at most."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit: int
    ) -> None:
        self.reader, self._writer, self.limit = reader, writer, limit

    async def send(self, octets: bytes) -> None:
        """Raises Lost."""
        try:
            self._writer.write(octets)
            await self._writer.drain()
        except OSError as error:
            raise Lost(f"cannot send: {error}") from error

    def drop(self) -> None:
        self._writer.transport.abort()

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except OSError as error:
            raise Lost(str(error)) from error


async def connect(server: Server, limit: int) -> Stream:
    """Raises Lost."""
    try:
        if server.unix:
            reader, writer = await asyncio.open_unix_connection(server.host, limit=limit)
        else:
            reader, writer = await asyncio.open_connection(server.host, server.port, limit=limit)
    except OSError as error:
        raise Lost(str(error)) from error
    return Stream(reader, writer, limit)


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
