"""One connection to Dovecot after its handshake: who waits for which answer."""

from __future__ import annotations

import asyncio

from smtpgw.sasl.dovecot import codec
from smtpgw.sasl.dovecot.codec import Event, Ready


class Unavailable(Exception):  # noqa: N818 - a state of the world
    """Dovecot cannot judge this login now, and why."""


class Link:
    """Logins are told apart by their numbers.  Once it is `broken`, which says why, it stays so."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.broken = ""
        self.heard = 0.0
        """When Dovecot has last said anything, by the loop's clock."""
        self._writer = writer
        self._logins: set[int] = set()
        self._waiting: dict[int, asyncio.Future[Event]] = {}
        self._last = 0

    @property
    def logins(self) -> int:
        """How many are under way."""
        return len(self._logins)

    @property
    def _gone(self) -> bool:
        """Whether nothing can be written any more; the reader may not know it yet."""
        return bool(self.broken) or self._writer.transport.is_closing()

    def begin(self) -> int:
        """A new login's number, which no other login of this connection has."""
        self._last += 1
        self._logins.add(self._last)
        return self._last

    def end(self, number: int, *, cancel: bool) -> None:
        """A login is over; with `cancel`, Dovecot does not know it yet."""
        self._logins.discard(number)
        if cancel and not self._gone:
            self._writer.write(codec.cancel(number))

    def ask(self, number: int, line: bytes) -> asyncio.Future[Event]:
        """Send a line; what Dovecot answers to that login.  Raises Unavailable."""
        if self._gone:
            raise Unavailable(self.broken or "connection closed")
        answer: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        self._writer.write(line)
        return answer

    def forget(self, number: int) -> None:
        """Nobody waits for that login's answer any more."""
        self._waiting.pop(number, None)

    def hand_out(self, event: Event) -> None:
        """To whoever waits for it; an answer to a login that was given up is nobody's."""
        if isinstance(event, Ready):
            return
        answer = self._waiting.pop(event.id, None)
        if answer is not None and not answer.done():
            answer.set_result(event)

    def fail(self, reason: str) -> None:
        """It is of no use any more."""
        if self.broken:
            return
        self.broken = reason
        self._writer.transport.abort()
        for each in self._waiting.values():
            if not each.done():
                each.set_exception(Unavailable(reason))
        self._waiting.clear()
