"""A connection to a peer: octets out with flow control, replies in, every wait bounded.

Replies nobody asked for are kept and can be asked about (`unread`): a peer that
answers too early or too often is found out before its words are taken for an answer.
"""

from __future__ import annotations

import asyncio
import functools
import math
import ssl
from collections.abc import Callable, Sequence
from typing import cast

from milterd.base.alarm import Alarm
from smtpgw.delivery.replies import BadReply, Reply, ReplyParser

_UNREAD_LIMIT = 2100
"""Replies to hold unread: more than any pipelined batch awaits, so a flood ends early."""

_LAST_WORD = 421
"""After it the peer says nothing more (RFC 5321 section 3.8)."""

_SHUTDOWN = 5.0
"""Seconds a peer has to answer the end of TLS."""


class Lost(Exception):  # noqa: N818 - it is the peer's doing, not an error of ours
    """The conversation cannot go on: closed, timed out, or not understood.

    `next_host` says that nothing of a mail was said yet, so that another host of the
    same destination may be tried in the same attempt.
    """

    def __init__(self, text: str, enhanced: str = "4.4.2", *, next_host: bool = False) -> None:
        super().__init__(text)
        self.text, self.enhanced, self.next_host = text, enhanced, next_host


Wait = tuple[float, str]
"""Seconds for a reply, and what it answers."""


class Wire(asyncio.Protocol):
    """The connection.  `replies` are those that are whole and unread."""

    def __init__(self) -> None:
        self._parser = ReplyParser()
        self.replies = self._parser.replies
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._ready: Callable[[], None] | None = None
        self._due: Sequence[Wait] = ()
        self._wanted = 0  # as many as are due
        self._until = math.inf
        self._blocked = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._lost: Lost | None = None
        self._closing: asyncio.TimerHandle | None = None
        self._alarm: Alarm | None = None
        self._late: Lost | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._lost is not None:
            return
        replies = self.replies
        before = len(replies) if replies else 0
        try:
            self._parser.feed(data)
        except BadReply as error:
            self._end(Lost(f"bad reply from peer: {error}", "4.5.0"))
            return
        count = len(replies)
        if count > _UNREAD_LIMIT:
            self._end(Lost("more replies than were asked for", "4.5.0"))
        elif count >= self._wanted or _LAST_WORD in [each.code for each in replies]:
            self._wake()
        elif self._alarm is not None and count > before:
            self._await_next(self._alarm)

    def eof_received(self) -> bool:
        self._end(Lost("connection closed by peer"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(Lost(f"connection lost: {exc}" if exc else "connection closed by peer"))
        if self._closing is not None:
            self._closing.cancel()
        if self._alarm is not None:
            self._alarm.close()

    def pause_writing(self) -> None:
        self._blocked = True
        self._writable.clear()

    def resume_writing(self) -> None:
        self._blocked = False
        self._writable.set()

    def _end(self, why: Lost) -> None:
        if self._lost is None:
            self._lost = why
        self.resume_writing()
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        ready, self._ready = self._ready, None
        if ready is not None:
            # So that the alarm rings for nothing, if it rings before the next wait.
            self._due, self._wanted = (), 0
            ready()

    @property
    def alive(self) -> bool:
        """Whether octets may still be sent."""
        return self._lost is None

    @property
    def unread(self) -> bool:
        """Whether the peer said something that nobody has asked for yet."""
        return bool(self.replies) or self._parser.midway

    @property
    def quiet(self) -> bool:
        """Whether octets may still be sent, and the peer said nothing that is unread."""
        return self._lost is None and not self.replies and not self._parser.midway

    @property
    def writable(self) -> bool:
        """Whether the peer reads what it is sent, as far as can be seen."""
        return not self._blocked

    @property
    def answered(self) -> int:
        """How many whole replies are unread."""
        return len(self.replies)

    def taken(self, what: str) -> Reply:
        """The next reply, which has come, or never will.  Raises :class:`Lost`."""
        if self.replies:
            return self.replies.pop(0)
        if self._lost is None:
            raise Lost(f"no reply to {what}")
        if self._lost is self._late:
            raise Lost(self._lost.text)
        text = f"{self._lost.text} while awaiting the reply to {what}"
        raise Lost(text, self._lost.enhanced)

    async def arrival(self, due: Sequence[Wait]) -> None:
        """Wait for what :meth:`expect` tells of."""
        if len(self.replies) >= len(due) or self._lost is not None:
            return
        waiter = self._loop.create_future()
        self.expect(due, functools.partial(_set, waiter))
        try:
            await waiter
        finally:
            self.expect_nothing()

    def expect(
        self, due: Sequence[Wait], ready: Callable[[], None], until: float = math.inf
    ) -> None:
        """Call `ready` once, when there are so many replies, each with a time of its own from the
        one before, and no later than `until` (loop time); or a 421, after which nothing is said;
        or the end of the connection.  Whoever takes the replies sees which it was."""
        if self._lost is not None:
            ready()
            return
        self._due, self._ready, self._until = due, ready, until
        self._wanted = len(due)
        if self._alarm is None:
            self._alarm = Alarm(self._loop, self._ring)
        if self.replies or not due:
            self._await_next(self._alarm)
        else:  # as most often
            first = self._loop.time() + due[0][0]
            self._alarm.set(first if first < until else until)

    def expect_nothing(self) -> None:
        """Nobody waits any more."""
        self._due, self._wanted, self._ready = (), 0, None
        if self._alarm is not None:
            self._alarm.clear()

    def _await_next(self, alarm: Alarm) -> None:
        """Let the time run of the reply that is next, if one is waited for."""
        if self._due:
            number = len(self.replies) if self.replies else 0
            due = self._loop.time() + self._due[number][0]
            alarm.set(due if due < self._until else self._until)

    def _ring(self) -> None:
        if self._due:
            what = self._due[len(self.replies)][1]
            self._late = Lost(f"timed out waiting for the reply to {what}")
            self._end(self._late)

    def post(self, data: bytes) -> None:
        """Send, whether the peer reads or not.  Raises :class:`Lost`."""
        if self._lost is not None or self._transport is None:
            raise self._lost or Lost("not connected")
        self._transport.write(data)

    async def send(self, data: bytes, limit: float, what: str) -> None:
        """Send, waiting while the peer does not read.  Raises :class:`Lost`."""
        self.post(data)
        if self._blocked:
            await self.drain(limit, what)

    async def drain(self, limit: float, what: str) -> None:
        """Wait until the peer has read most of what was sent, as long as it reads some of it in
        each `limit` seconds.  Raises :class:`Lost`."""
        left = self._unsent()
        while self._blocked:
            try:
                async with asyncio.timeout(limit):
                    await self._writable.wait()
            except TimeoutError:
                before, left = left, self._unsent()
                if left >= before:
                    self._end(Lost(f"timed out sending {what}"))
        if self._lost is not None:
            raise self._lost

    def _unsent(self) -> int:
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    async def start_tls(
        self, context: ssl.SSLContext, name: str | None, limit: float
    ) -> ssl.SSLObject:
        """The handshake, after the reply that permits it was read and nothing else is unread
        (RFC 3207 section 4).  Raises :class:`Lost`."""
        if self._lost is not None or self._transport is None:
            raise self._lost or Lost("not connected")
        try:
            transport = await asyncio.get_running_loop().start_tls(
                self._transport, self, context, server_hostname=name,
                ssl_handshake_timeout=limit, ssl_shutdown_timeout=_SHUTDOWN,
            )  # fmt: skip
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError; a name may be no name
            self._end(Lost("connection dropped"))
            raise Lost(f"TLS handshake failed: {_reason(error)}", "4.7.5") from None
        secured = None if transport is None else transport.get_extra_info("ssl_object")
        if secured is None or self._lost is not None:
            raise Lost("connection lost in the TLS handshake", "4.7.5")
        self._transport = transport
        return cast(ssl.SSLObject, secured)

    def close(self, limit: float) -> None:
        """Close, after what is buffered went out; within `limit` seconds in any case."""
        if self._transport is not None:
            self._transport.close()
            later = asyncio.get_running_loop().call_later
            self._closing = later(limit, self._transport.abort)

    def abort(self) -> None:
        """Drop the connection at once."""
        self._end(Lost("connection dropped"))


def _set(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _reason(error: Exception) -> str:
    """OpenSSL's words without its line numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    if isinstance(error, ConnectionAbortedError):
        return "timed out"  # as asyncio says it
    return str(error) or "connection closed by peer"
