"""A milter of `broken` as a program: `python milter_program.py SOCKET NAME`."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from milterd.wire import messages as m
from tests.lab.broken import Milter


class DiesOfNul(Milter):
    """Takes the whole process with it."""

    def hear(self, event: m.CommandMessage) -> None:
        super().hear(event)
        if b"\0" in self.body:
            os.abort()


class DiesAtQuit(Milter):
    """Dies when all is said, of a HELO that is not ASCII."""

    odd = False

    def hear(self, event: m.CommandMessage) -> None:
        super().hear(event)
        self.odd = self.odd or (isinstance(event, m.Helo) and not event.name.isascii())

    def unasked(self, event: m.CommandMessage) -> bytes:
        if isinstance(event, m.Quit) and self.odd:
            os.kill(os.getpid(), signal.SIGKILL)
        return b""


class Deaf(Milter):
    """Hears no SIGTERM."""


KINDS = {each.__name__: each for each in (Milter, DiesOfNul, DiesAtQuit, Deaf)}


async def main(path: str, kind: type[Milter]) -> None:
    if kind is Deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await kind().serve(reader, writer)
        finally:
            writer.close()

    if os.path.exists(path):  # noqa: PTH110, ASYNC240 - left by one that died
        os.unlink(path)  # noqa: PTH108
    async with await asyncio.start_unix_server(serve, path, backlog=500) as server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], KINDS[sys.argv[2]]))
