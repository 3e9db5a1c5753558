"""What a client has sent and nobody has read yet: lines for the dialogue, octets for messages.

Bounded: a line keeps at most its limit in memory, whatever its length, and at
HIGH_WATER unread octets the transport is told to stop reading.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

HIGH_WATER = 262_144
"""Unread octets from which the client has to wait."""

MAX_DISCARD = 2_097_152
"""Octets of one over-long line that are skipped before the client is sent away."""


class Flow(Protocol):
    """What can be told to stop and go on: an asyncio transport."""

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class EndOfInputError(Exception):
    """The client has sent its last octet."""


class DeadlineError(Exception):
    """The time to wait is over."""


class AttentionError(Exception):
    """Somebody else wants the session's attention."""


class LineTooLongError(Exception):
    """A whole line was skipped because it was over the limit; `endless` if it never ended."""

    def __init__(self, *, endless: bool = False) -> None:
        super().__init__()
        self.endless = endless


class Inbox:
    """The input buffer of one session; one reader at a time."""

    def __init__(self) -> None:
        self.unread = bytearray()
        """What nobody has read yet; to be looked at only."""
        self._searched = 0
        self._skipped = 0
        self._ended = False
        self._paused = False
        self._flow: Flow | None = None
        self._waiter: asyncio.Future[None] | None = None

    def attach(self, flow: Flow) -> None:
        """From now on this is what to pause; it is taken to be reading."""
        self._flow = flow
        self._paused = False

    def feed(self, data: bytes) -> None:
        """Octets came in."""
        self.unread += data
        if len(self.unread) >= HIGH_WATER and not self._paused and self._flow is not None:
            self._flow.pause_reading()
            self._paused = True
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._wake(None)

    def expire(self) -> None:
        """Make the wait under way, if any, raise DeadlineError."""
        self._wake(DeadlineError())

    def interrupt(self) -> None:
        """Make the wait under way, if any, raise AttentionError."""
        self._wake(AttentionError())

    @property
    def waiting(self) -> bool:
        """Whether there is anything unread."""
        return bool(self.unread)

    @property
    def first(self) -> bytes:
        """The first unread octet, if any."""
        return bytes(self.unread[:1])

    def peek(self, limit: int) -> bytes:
        """At most `limit` of the first unread octets, which stay."""
        return bytes(self.unread[:limit])

    @property
    def has_line(self) -> bool:
        """Whether a complete line is unread."""
        return bool(self.unread) and self.unread.find(b"\n", self._searched) >= 0

    def line(self, limit: int) -> bytes | None:
        """The next line with its end, if it is complete.

        `limit` is in octets, line end included.  Raises LineTooLongError.
        """
        end = self.unread.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self.unread)
            if self._skipped or len(self.unread) > limit:
                self._skip(len(self.unread))
            return None
        if self._skipped or end + 1 > limit:
            self._drop(end + 1)
            self._skipped = 0
            raise LineTooLongError
        if end + 1 == len(self.unread):
            return self.take()
        line = bytes(self.unread[: end + 1])
        self._drop(end + 1)
        return line

    def take(self, limit: int = HIGH_WATER * 4) -> bytes:
        """At most `limit` unread octets."""
        if len(self.unread) <= limit:
            taken, self.unread = bytes(self.unread), bytearray()
            self._searched = 0
            if self._paused:
                self._resume()
            return taken
        taken = bytes(self.unread[:limit])
        self._drop(limit)
        return taken

    def give_back(self, data: bytes) -> None:
        """Put octets in front of all others again."""
        self.unread[:0] = data
        self._searched = 0

    def clear(self) -> bytes:
        """Forget what is unread, and say what it was."""
        unread = bytes(self.unread)
        self._drop(len(self.unread))
        self._skipped = 0
        return unread

    async def more(self) -> None:
        """Wait until more octets came.  Raises EndOfInputError, DeadlineError, AttentionError."""
        await self.coming(asyncio.get_running_loop())

    def coming(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """The same to be awaited, for who knows the running loop."""
        if self._ended:
            raise EndOfInputError
        waiter = self._waiter = loop.create_future()
        return waiter

    def leave(self) -> None:
        """Whoever waits is not woken by what comes, until :meth:`await_by`."""
        self._waiter = None

    def await_by(self, waiter: asyncio.Future[None]) -> None:
        """The same goes on waiting."""
        self._waiter = waiter

    def whole_line(self, limit: int) -> bytes | None:
        """The next line, if it is there to its end and not longer than it may be."""
        size = self.unread.find(b"\n", self._searched) + 1
        if not 0 < size <= limit or self._skipped:
            return None
        if size == len(self.unread):
            return self.take()
        line = bytes(self.unread[:size])
        self._drop(size)
        return line

    def _skip(self, octets: int) -> None:
        self._skipped += octets
        self._drop(octets)
        if self._skipped > MAX_DISCARD:
            self._skipped = 0
            raise LineTooLongError(endless=True)

    def _drop(self, octets: int) -> None:
        del self.unread[:octets]
        self._searched = 0
        self._resume()

    def _resume(self) -> None:
        if self._paused and len(self.unread) < HIGH_WATER // 2 and self._flow is not None:
            self._flow.resume_reading()
            self._paused = False

    def _wake(self, error: Exception | None) -> None:
        if self._waiter is None or self._waiter.done():
            return
        if error is None:
            self._waiter.set_result(None)
        else:
            self._waiter.set_exception(error)
