"""The host on asyncio and :mod:`milterd.wire`: any octets, any edit, a clean stop.

The numbers of connections and of mails judged at once are bounded by the options.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import socket
from concurrent.futures import ThreadPoolExecutor

import uvloop

from milterd.host.connection import Connection
from milterd.host.judge import Judge, Surroundings

_WAIT = 0.5
"""Seconds between two looks whether a stop was asked for from a thread or a signal."""
_ROOMY = 0.9
"""The part of all connections below which one that is full is no more."""


class NativeHost:
    """See :class:`milterd.host.seam.Host`."""

    def __init__(self, judge: Judge, listener: socket.socket, around: Surroundings) -> None:
        self._judge = judge
        self._listener = listener
        self._around = around
        threads = judge.options.threads
        self._pool = ThreadPoolExecutor(threads, "judge") if threads else None
        self._connections: set[Connection] = set()
        self._making: set[asyncio.Task[None]] = set()
        self._full = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._failed: asyncio.Future[None] | None = None
        self._stop: tuple[float, bool] | None = None
        self._stopped = asyncio.Event()
        self._ended = asyncio.Event()

    # --- the seam -------------------------------------------------------------------

    def serve(self) -> None:
        uvloop.run(self._serve())

    def stop(self, grace: float, *, sessions: bool = False) -> None:
        self._stop = (grace, sessions)
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._stopped.set()
        self._ended.set()

    # --- connections ----------------------------------------------------------------

    async def _serve(self) -> None:
        self._loop = loop = asyncio.get_running_loop()
        self._failed = loop.create_future()
        if self._stop is not None:
            self._wake()  # told to stop before the loop ran
        self._listener.setblocking(False)  # siblings may win the race for a connection
        self._listen()
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait((self._failed, stopped), return_when=asyncio.FIRST_COMPLETED)
            self._deafen()
            self._listener.close()
            if self._failed.done():  # by a fault of ours: better a new process than a deaf one
                self._failed.result()
            await self._drain()
        finally:
            for connection in tuple(self._connections):
                connection.abort()
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)

    def _listen(self) -> None:
        """Accept while there is room; more connections wait in the backlog."""
        if self._loop is not None and self._listener.fileno() >= 0 and not self._stopped.is_set():
            self._loop.add_reader(self._listener, self._accept)

    def _deafen(self) -> None:
        if self._loop is not None:
            self._loop.remove_reader(self._listener)

    def _accept(self) -> None:
        """Take a connection and keep it, in one step: no stop finds one between two hands."""
        try:
            accepted, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # a sibling has it, or it is gone
        except OSError as error:  # out of descriptors, say: they come back
            self._around.log.warning(
                "accept failed", filter=self._judge.filter.name, reason=str(error)
            )
            self._deafen()
            asyncio.get_running_loop().call_later(_WAIT, self._listen)
            return
        try:
            connection = Connection(self._judge, self._around, self._pool, self._ended.set)
            connection.on_end = functools.partial(self._forget, connection)
            self._connections.add(connection)
            if len(self._connections) >= self._judge.options.connections:
                self._deafen()
                self._tell_full()
            making = asyncio.create_task(self._begin(connection, accepted))
            self._making.add(making)
            making.add_done_callback(self._making.discard)
        except Exception as error:  # noqa: BLE001  # raised by serve()
            accepted.close()
            self._fail(error)

    def _tell_full(self) -> None:
        """Say that there is no room for more, once until some has come free."""
        if not self._full:
            self._full, name = True, self._judge.filter.name
            self._around.log.warning(
                "connections full", filter=name, connections=len(self._connections)
            )

    async def _begin(self, connection: Connection, accepted: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            await loop.connect_accepted_socket(lambda: connection, accepted)
        except OSError:  # it is gone already
            accepted.close()
            self._forget(connection)
        except Exception as error:  # noqa: BLE001  # raised by serve()
            accepted.close()
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(error)

    def _forget(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
            self._ended.set()
            most = self._judge.options.connections
            if len(self._connections) == most - 1:
                self._listen()  # there was no room before
            if len(self._connections) < _ROOMY * most:
                self._full = False

    async def _drain(self) -> None:
        """Wait for what :meth:`stop` said, which a second call may shorten."""
        asked: tuple[float, bool] | None = None
        deadline = 0.0
        while True:
            if self._stop is not None and self._stop is not asked:
                asked = self._stop
                deadline = self._around.clock() + asked[0]
            self._ended.clear()
            left = deadline - self._around.clock()
            sessions = asked is not None and asked[1]
            waited_for = any(sessions or each.busy for each in self._connections)
            if left <= 0 or not waited_for:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), min(left, _WAIT))
