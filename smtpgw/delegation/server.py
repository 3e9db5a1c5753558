"""Answering the policy protocol: Postfix asks, `evaluate` says.

Many requests by one connection, one after the other, however they come.  A connection that is
silent too long, talks something else, or is one too many is closed; a request whose evaluation
fails or takes too long is answered with the action of the settings.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from structlog.typing import FilteringBoundLogger

from smtpgw.delegation import codec

Evaluate = Callable[[Mapping[str, str]], Awaitable[str]]
"""The action for a request's attributes."""

_READ = 16384
REQUEST = "smtpd_access_policy"
"""The one kind of request that smtpd makes."""


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """`idle`: seconds without a request after which a connection is closed; `deadline`: seconds
    for an answer; `connections` at once; `failure`: the answer where there is none."""

    name: str
    idle: float = 1200.0
    deadline: float = 90.0
    connections: int = 500
    failure: str = "DUNNO"


class PolicyServer:
    """One listener."""

    def __init__(
        self, options: ServerOptions, evaluate: Evaluate, *, log: FilteringBoundLogger
    ) -> None:
        self.options, self.evaluate = options, evaluate
        self._log = log.bind(listener=options.name)
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()
        self._busy: set[asyncio.Task[None]] = set()
        self._ending = False

    async def start(self, listening: socket.socket) -> None:
        """Serve on a socket that listens."""
        if listening.family == socket.AF_UNIX:
            self._server = await asyncio.start_unix_server(self._serve, sock=listening)
        else:
            self._server = await asyncio.start_server(self._serve, sock=listening)

    def reconfigure(self, options: ServerOptions, evaluate: Evaluate) -> None:
        """Answer by these from the next request on."""
        self.options, self.evaluate = options, evaluate

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine that runs is a task's
        if len(self._serving) >= self.options.connections or self._ending:
            self._log.warning("policy", outcome="closed", reason="too many connections")
            writer.transport.abort()
            return
        self._serving.add(task)
        try:
            await self._requests(task, reader, writer)
        except codec.Malformed as error:
            self._log.warning("policy", outcome="closed", reason=str(error))
        except (OSError, TimeoutError):
            return  # it has gone, or has been silent: both are everyday
        finally:
            self._serving.discard(task)
            self._busy.discard(task)
            writer.transport.abort() if self._ending else writer.close()

    async def _requests(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        requests = codec.Reader()
        while not self._ending:
            request = requests.next()
            if request is None:
                async with asyncio.timeout(self.options.idle):
                    octets = await reader.read(_READ)
                if not octets:
                    return
                requests.feed(octets)
                continue
            self._busy.add(task)
            answer = await self._answer(request)
            writer.write(codec.encode({"action": answer}))
            async with asyncio.timeout(self.options.idle):
                await writer.drain()
            self._busy.discard(task)

    async def _answer(self, request: Mapping[str, str]) -> str:
        if request.get("request") != REQUEST:
            raise codec.Malformed(f"request={request.get('request', '')!r:.60}: not ours")
        try:
            async with asyncio.timeout(self.options.deadline):
                return await self.evaluate(request)
        except TimeoutError:
            reason = f"no answer within {self.options.deadline:g} s"
        except Exception as error:  # noqa: BLE001 - our fault: Postfix hears the failure's action
            self._log.error("policy", outcome="error", exc_info=error)
            return self.options.failure
        self._log.warning("policy", outcome="failed", reason=reason)
        return self.options.failure

    async def drain(self, patience: float) -> None:
        """Take nobody new, let answers that are under way leave within `patience` seconds."""
        self._ending = True
        if self._server is not None:
            self._server.close()
        busy = set(self._busy)
        for each in self._serving - busy:
            each.cancel()
        if busy:
            await asyncio.wait(busy, timeout=patience)
        for each in list(self._serving):
            each.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._serving, return_exceptions=True)
