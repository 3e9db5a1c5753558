"""A plain aiosmtpd that takes every mail and keeps none: what any server on it pays at least.

python -m tests.bench.floor PORT [CHAIN]
"""

from __future__ import annotations

import asyncio
import ssl
import sys

import uvloop
from aiosmtpd.smtp import SMTP, Envelope, Session


class _Nothing:
    async def handle_DATA(self, _server: SMTP, _session: Session, _envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        return "250 OK"


async def _serve(port: int, chain: str = "") -> None:
    loop, context = asyncio.get_running_loop(), None
    if chain:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)

    def session() -> SMTP:
        return SMTP(_Nothing(), hostname="floor.example.net", loop=loop, tls_context=context)

    server = await loop.create_server(session, "127.0.0.1", port, backlog=1000)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(int(sys.argv[1]), *sys.argv[2:]))
