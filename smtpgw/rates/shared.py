"""A worker's side of :mod:`smtpgw.rates.service`."""

from __future__ import annotations

import asyncio
import socket
from collections import deque

from smtpgw.rates.counts import Event, Usage
from smtpgw.rates.limits import Ticket
from smtpgw.rates.local import CountersDown
from smtpgw.rates.service import DISCONNECT, LONGEST

_OWED = 100_000
"""Ends of connections that are kept for a service that does not read; one client each."""

_WAITING = 10_000
"""Questions without an answer, at most."""


class SharedTicket:
    """A connection that the supervisor counts."""

    __slots__ = ("_ident", "_store", "usage")

    def __init__(self, store: SharedCounts, ident: str, usage: Usage) -> None:
        self._store, self._ident, self.usage = store, ident, usage

    async def release(self) -> None:
        self._store.disconnect(self._ident)


class SharedCounts:
    """:class:`~smtpgw.rates.local.Store` behind a socket of :func:`~smtpgw.rates.service.pair`,
    in the running loop."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, asyncio.Future[Usage]] = {}
        self._owed: deque[str] = deque(maxlen=_OWED)
        self._number = 0
        self._gone = False
        self._loop.add_reader(channel, self._read)

    async def connect(self, ident: str) -> Ticket:
        try:
            usage = await self._ask(Event.CONNECTION.value, ident)
        except asyncio.CancelledError:
            # The question may be on its way: what it counts is taken back behind it.
            self.disconnect(ident)
            raise
        return SharedTicket(self, ident, usage)

    async def add(self, event: Event, ident: str) -> int:
        return (await self._ask(event.value, ident)).rate

    async def rate(self, event: Event, ident: str) -> int:
        return (await self._ask(f"?{event.value}", ident)).rate

    async def close(self) -> None:
        self._end()

    def disconnect(self, ident: str) -> None:
        """Tell the service, now or as soon as it reads again."""
        self._owed.append(ident)
        try:
            self._settle()
        except CountersDown:
            return  # told with the next question; a service that is gone counts nothing

    async def _ask(self, word: str, ident: str) -> Usage:
        self._settle()
        if len(self._waiting) >= _WAITING:
            raise CountersDown("too many questions wait for an answer")
        self._number += 1
        number = self._number
        self._send(f"{number} {word} {ident}")
        answer: asyncio.Future[Usage] = self._loop.create_future()
        self._waiting[number] = answer
        try:
            return await answer
        finally:
            self._waiting.pop(number, None)

    def _settle(self) -> None:
        while self._owed:
            self._send(f"0 {DISCONNECT} {self._owed[0]}")
            self._owed.popleft()

    def _send(self, text: str) -> None:
        if self._gone:
            raise CountersDown("the supervisor is gone")
        try:
            self._channel.send(text.encode())
        except OSError as error:
            raise CountersDown(f"the supervisor does not answer: {error.strerror}") from error

    def _read(self) -> None:
        while True:
            try:
                packet = self._channel.recv(LONGEST)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                packet = b""
            if not packet:
                self._end()
                return
            number, count, rate = map(int, packet.split())
            waiting = self._waiting.get(number)
            if waiting is not None and not waiting.done():
                waiting.set_result(Usage(count, rate))

    def _end(self) -> None:
        if self._gone:
            return
        self._gone = True
        self._loop.remove_reader(self._channel)
        self._channel.close()
        for each in self._waiting.values():
            if not each.done():
                each.set_exception(CountersDown("the supervisor is gone"))
