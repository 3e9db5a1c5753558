"""A connected socket as asyncio's transport, made and ready at once.

A loop's own takes a coroutine, a future and turns of the loop before it can be written to.  Each
session has one for each of its milters, most of which say and hear a few hundred octets.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from collections.abc import Iterable

from milterd.wire.bulk import Octets

PIECE = 65_536
"""Octets read at a time."""
FULL, ROOM = 65_536, 16_384
"""Octets that wait to be sent when the protocol is told to pause, and to resume; as asyncio's."""
_PIECES = 512
"""Pieces that are sent in one call; the system takes 1,024."""


class Line(asyncio.Transport):
    """Talks to `protocol` from the start, on a socket that does not block, which is its own now."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, opened: socket.socket, protocol: asyncio.Protocol
    ) -> None:
        super().__init__()
        self._loop, self._protocol = loop, protocol
        self._socket = opened.detach()
        self._unsent: deque[Octets] = deque()
        self._waiting = 0
        self._full = self._reading = self._closing = self._over = False
        protocol.connection_made(self)
        self.resume_reading()

    def is_closing(self) -> bool:
        """Whether nothing more can be written."""
        return self._closing

    def get_write_buffer_size(self) -> int:
        """Octets that the peer has not taken yet."""
        return self._waiting

    # --- reading ---

    def pause_reading(self) -> None:
        """Leave what comes where it is."""
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._socket)

    def resume_reading(self) -> None:
        """Hear what comes."""
        if not (self._reading or self._closing):
            self._reading = True
            self._loop.add_reader(self._socket, self._read)

    def _read(self) -> None:
        try:
            data = os.read(self._socket, PIECE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        if data:
            self._protocol.data_received(data)
        else:
            self._end(None)

    # --- writing ---

    def write(self, data: Octets) -> None:  # type: ignore[override]  # of what milters are told
        """Send it now, or as soon as the peer takes it."""
        if self._closing or not data:
            return
        sent = 0
        if not self._unsent:
            try:
                sent = os.write(self._socket, data)
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._end(error)
                return
        if sent < len(data):
            self._keep(memoryview(data)[sent:])

    def writelines(self, list_of_data: Iterable[Octets]) -> None:  # type: ignore[override]
        """The same for many pieces, which are not copied."""
        pieces = list(list_of_data)
        sent = 0
        if not (self._unsent or self._closing):
            try:
                sent = os.writev(self._socket, pieces[:_PIECES])
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                self._end(error)
        if sent == sum(map(len, pieces)):
            return
        for each in pieces:
            if sent >= len(each):
                sent -= len(each)
            elif not self._closing:
                self._keep(memoryview(each)[sent:])
                sent = 0

    def _keep(self, piece: Octets) -> None:
        if not self._unsent:
            self._loop.add_writer(self._socket, self._send_on)
        self._unsent.append(piece)
        self._waiting += len(piece)
        if self._waiting > FULL and not self._full:
            self._full = True
            self._protocol.pause_writing()

    def _send_on(self) -> None:
        """The peer takes more."""
        unsent = self._unsent
        try:
            sent = os.write(self._socket, unsent[0])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        self._waiting -= sent
        piece = unsent.popleft()
        if sent < len(piece):
            unsent.appendleft(memoryview(piece)[sent:])
        elif not unsent:
            self._loop.remove_writer(self._socket)
            if self._closing:
                self._end(None)
                return
        if self._full and self._waiting <= ROOM:
            self._full = False
            self._protocol.resume_writing()

    # --- the end ---

    def close(self) -> None:
        """Read no more, and hang up once the peer has taken what was written."""
        self.pause_reading()
        self._closing = True
        if not self._unsent:
            self._end(None)

    def abort(self) -> None:
        """Hang up."""
        self._end(None)

    def _end(self, error: OSError | None) -> None:
        """The protocol is told in a turn of its own."""
        if self._over:
            return
        self.pause_reading()
        self._over = self._closing = True
        if self._unsent:
            self._loop.remove_writer(self._socket)
            self._unsent.clear()
            self._waiting = 0
        os.close(self._socket)
        self._loop.call_soon(self._protocol.connection_lost, error)
