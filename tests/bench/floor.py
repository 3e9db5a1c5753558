"""A plain aiosmtpd that takes every mail and keeps none: what any server on it pays at least.

python -m tests.bench.floor PORT
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from aiosmtpd.smtp import SMTP, Envelope, Session


class _Nothing:
    async def handle_DATA(self, _server: SMTP, _session: Session, _envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        return "250 OK"


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(_Nothing(), hostname="floor.example.net", loop=loop), "127.0.0.1", port
    )
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1])))
