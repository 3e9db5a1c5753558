"""Asking policy services, over connections that are kept.

A service that is down, slow, talks garbage or hangs up in mid-answer is tried again as
smtpd_policy_service_try_limit says; then ServiceDown.  Each request in flight has a connection of
its own, of which there are at most `connections` to a service; who has to wait for one waits within
smtpd_policy_service_timeout.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import cast

from smtpgw.delegation import codec
from smtpgw.delegation.service import Service


class ServiceDown(Exception):  # noqa: N818 - it says what happened
    """No answer after all tries; the message says why."""


class _Connection(asyncio.Protocol):
    """One to a service.  What comes though nothing was asked ends it."""

    def __init__(self) -> None:
        self.opened = self.used = 0.0
        self.requests = 0
        self._transport: asyncio.Transport | None = None
        self._reader = codec.Reader()
        self._answer: asyncio.Future[str] | None = None
        self._gone = False

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return not self._gone and self._answer is None and self._reader.empty

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's streams are none of asyncio's classes.
        self._transport = cast("asyncio.Transport", transport)

    async def ask(self, request: bytes) -> str:
        """The action.  Raises Malformed, EOFError; is of no use after that, or if cancelled."""
        assert self._transport is not None  # noqa: S101 - it is connected when it is handed out
        self._answer = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(request)
            found = await self._answer
        except BaseException:
            self.drop()
            raise
        self._answer = None
        return found

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        if self._answer is None or self._answer.done():
            self.drop()
            return
        try:
            answer = self._reader.next()
            if answer is not None:
                self._answer.set_result(codec.action(answer))
        except codec.Malformed as error:
            self._answer.set_exception(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._gone = True
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(exc or EOFError())

    def drop(self) -> None:
        """Close it at once."""
        self._gone = True
        if self._transport is not None:
            self._transport.abort()


@dataclass(slots=True)
class _Known:
    """Of one service: its idle connections, the one used last behind, and room for all."""

    room: asyncio.Semaphore
    idle: list[_Connection] = field(default_factory=list)


class PolicyClient:
    """One for a worker.  `clock` gives monotonic seconds, `pause` waits."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        connections: int = 100,
        services: int = 100,
    ) -> None:
        self._clock, self._pause = clock, pause
        self._connections, self._services = connections, services
        self._known: dict[tuple[str, str, int], _Known] = {}

    async def ask(self, service: Service, attributes: Mapping[str, str]) -> str:
        """An action of access(5).  Raises ServiceDown."""
        options = service.options
        request = codec.encode(attributes)
        reason = ""
        for number in range(options.try_limit):
            if number:
                await self._pause(options.retry_delay)
            try:
                async with asyncio.timeout(options.timeout):
                    return await self._tried(service, request)
            except TimeoutError:
                reason = f"no answer within {options.timeout:g} s"
            except codec.Malformed as error:
                reason = str(error)
            except OSError as error:
                reason = error.strerror or str(error)
            except EOFError:
                reason = "the connection was closed before an answer"
        raise ServiceDown(f"{service.name}: {reason}")

    def _of(self, service: Service) -> _Known:
        key = service.path, service.host, service.port
        found = self._known.get(key)
        if found is None:
            if len(self._known) >= self._services:
                self._forget()
            found = self._known[key] = _Known(asyncio.Semaphore(self._connections))
        return found

    def _forget(self) -> None:
        """Only the connections of services that settings name now are worth keeping."""
        for known in self._known.values():
            for each in known.idle:
                each.drop()
        self._known.clear()

    async def _tried(self, service: Service, request: bytes) -> str:
        known = self._of(service)
        async with known.room:
            kept = self._take(service, known)
            if kept is not None:
                # One that its peer closed meanwhile is no failure of the service.
                with contextlib.suppress(OSError, EOFError):
                    return await self._exchange(service, known, kept, request)
            return await self._exchange(service, known, await self._open(service), request)

    async def _open(self, service: Service) -> _Connection:
        loop = asyncio.get_running_loop()
        if service.path:
            _, made = await loop.create_unix_connection(_Connection, service.path)
        else:
            _, made = await loop.create_connection(_Connection, service.host, service.port)
        made.opened = made.used = self._clock()
        return made

    def _take(self, service: Service, known: _Known) -> _Connection | None:
        """The connection used last, if it may be used again; all others that may not are closed."""
        now, options = self._clock(), service.options
        idle, known.idle = known.idle, []
        for each in idle:
            young = now - each.used < options.max_idle and now - each.opened < options.max_ttl
            if young and each.usable:
                known.idle.append(each)
            else:
                each.drop()
        return known.idle.pop() if known.idle else None

    async def _exchange(
        self, service: Service, known: _Known, connection: _Connection, request: bytes
    ) -> str:
        found = await connection.ask(request)
        connection.requests += 1
        connection.used = self._clock()
        limit = service.options.request_limit
        if connection.usable and not (limit and connection.requests >= limit):
            known.idle.append(connection)
        else:
            connection.drop()
        return found

    async def close(self) -> None:
        """Close what is kept."""
        self._forget()
