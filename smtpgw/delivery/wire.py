"""A connection to a peer: octets out with flow control, replies in, every wait bounded.

Replies nobody asked for are kept and can be asked about (`unread`): a peer that
answers too early or too often is found out before its words are taken for an answer.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import cast

from milterd.base.alarm import Alarm
from smtpgw.delivery.replies import BadReply, Reply, ReplyParser

_UNREAD_LIMIT = 2100
"""Replies to hold unread: more than any pipelined batch awaits, so a flood ends early."""

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


class Wire(asyncio.Protocol):
    """The connection."""

    def __init__(self) -> None:
        self._parser = ReplyParser()
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
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
        try:
            self._parser.feed(data)
        except BadReply as error:
            self._end(Lost(f"bad reply from peer: {error}", "4.5.0"))
        else:
            if len(self._parser.replies) > _UNREAD_LIMIT:
                self._end(Lost("more replies than were asked for", "4.5.0"))
        self._wake()

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
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _end(self, why: Lost) -> None:
        if self._lost is None:
            self._lost = why
        self._writable.set()
        self._wake()
        if self._transport is not None:
            self._transport.abort()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def alive(self) -> bool:
        """Whether octets may still be sent."""
        return self._lost is None

    @property
    def unread(self) -> bool:
        """Whether the peer said something that nobody has asked for yet."""
        return not self._parser.idle

    @property
    def answered(self) -> int:
        """How many whole replies are unread."""
        return len(self._parser.replies)

    async def reply(self, limit: float, what: str) -> Reply:
        """The next reply, within `limit` seconds.  Raises :class:`Lost`."""
        if not self._parser.replies:
            await self._arrival(limit, what)
        return self._parser.replies.pop(0)

    async def _arrival(self, limit: float, what: str) -> None:
        loop, late = asyncio.get_running_loop(), Lost(f"timed out waiting for the reply to {what}")
        if self._alarm is None:
            self._alarm = Alarm(loop, self._ring)
        self._late = late
        self._alarm.set(loop.time() + limit)
        try:
            while not self._parser.replies:
                if self._lost is late:
                    raise Lost(late.text)
                if self._lost is not None:
                    text = f"{self._lost.text} while awaiting the reply to {what}"
                    raise Lost(text, self._lost.enhanced)
                self._waiter = loop.create_future()
                await self._waiter
        finally:
            self._alarm.clear()

    def _ring(self) -> None:
        if self._late is not None:
            self._end(self._late)

    async def send(self, data: bytes, limit: float, what: str) -> None:
        """Send, waiting while the peer does not read.  Raises :class:`Lost`."""
        if self._lost is not None or self._transport is None:
            raise self._lost or Lost("not connected")
        self._transport.write(data)
        if self._writable.is_set():
            return
        try:
            async with asyncio.timeout(limit):
                await self._writable.wait()
        except TimeoutError:
            self._end(Lost(f"timed out sending {what}"))
        if self._lost is not None:
            raise self._lost

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


def _reason(error: Exception) -> str:
    """OpenSSL's words without its line numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not trusted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    if isinstance(error, ConnectionAbortedError):
        return "timed out"  # as asyncio says it
    return str(error) or "connection closed by peer"
