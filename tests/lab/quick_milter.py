"""A milter that does nothing, as fast as Python can: quick_milter.py SOCKET [FLAGS].

It answers each event that FLAGS (a number, SMFIP_*) leave to be answered with Continue,
and looks at nothing but the frames' lengths and codes: what is measured against it is
the client.
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

import uvloop

from milterd.wire import messages as m
from milterd.wire.constants import Actions, Protocol
from milterd.wire.states import COMMAND_OF, EVENTS, unanswered_commands

FLAGS = Protocol(int(sys.argv[2], 0) if len(sys.argv) > 2 else 0)
ANSWERED = frozenset(
    COMMAND_OF[kind][0] for kind in EVENTS if kind not in unanswered_commands(FLAGS)
)
NEGOTIATE = m.Negotiate(6, Actions.NONE, FLAGS).encode()
CONTINUE = m.Continue().encode()


class Quick(asyncio.Protocol):
    """One connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._held = cast("asyncio.Transport", transport), b""

    def data_received(self, data: bytes) -> None:
        held = self._held + data
        at, end = 0, len(held)
        while end - at >= 5:
            length = int.from_bytes(held[at : at + 4], "big") + 4
            if end - at < length:
                break
            code = held[at + 4]
            if code == b"O"[0]:
                self._transport.write(NEGOTIATE)
            elif code in ANSWERED:
                self._transport.write(CONTINUE)
            at += length
        self._held = held[at:]


async def main() -> None:
    server = await asyncio.get_running_loop().create_unix_server(Quick, sys.argv[1])
    await server.serve_forever()


uvloop.run(main())
