"""A policy service whose every connection follows a script, on a UNIX socket of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from smtpgw.delegation import codec

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Scripted:
    """`scripts` are for the connections in turn, the last one for all that come after."""

    def __init__(self, *scripts: Script) -> None:
        self.scripts = list(scripts)
        self.connections = 0
        self.requests: list[dict[str, str]] = []

    async def read(self, reader: asyncio.StreamReader) -> dict[str, str] | None:
        """The next request; None at the end."""
        codec_reader = codec.Reader()
        while (found := codec_reader.next()) is None:
            octets = await reader.read(4096)
            if not octets:
                return None
            codec_reader.feed(octets)
        self.requests.append(found)
        return found

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = self.scripts[min(self.connections, len(self.scripts) - 1)]
        self.connections += 1
        try:
            await script(reader, writer)
        finally:
            writer.close()

    def says(self, answer: bytes) -> Script:
        """The same octets to every request."""

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await self.read(reader) is not None:
                writer.write(answer)

        return script

    def once(self, answer: bytes) -> Script:
        """One answer, then it hangs up."""

        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self.read(reader)
            writer.write(answer)

        return script

    @asynccontextmanager
    async def at(self, path: Path) -> AsyncIterator[str]:
        """Its name while it runs."""
        server = await asyncio.start_unix_server(self.serve, str(path))
        try:
            yield f"unix:{path}"
        finally:
            server.close()
