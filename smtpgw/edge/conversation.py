"""The connection under an SMTP dialogue: aiosmtpd's SMTP with our reading and writing.

What stays aiosmtpd's: one task for each connection, the names and the form of the `smtp_*`
methods, a table of them by verb, and `push`.

What is ours, and why:

- the start: aiosmtpd lists all names of each new connection four times for its table, and makes
  a stream reader and writer, a session, an envelope and a timer, which would all lie idle here.
  That is more than all else that a connection costs; the table is the class's here.
- input: `data_received` fills an :class:`Inbox`.  aiosmtpd takes lines that end in a bare LF,
  and keeps every line of a message as an object.
- the command loop: bounded lines, replies to pipelined commands in one write, and
  deadlines that no dribble and no valid verb puts off.
- `eof_received` does not cancel: a client may half-close after its final dot.
- one timer (:class:`Alarm`), not one a wait.

Private names of aiosmtpd 1.4 that mean the same here: `_handle_client` (what the session's task
does) and `_handler_coroutine` (that task).
"""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ClassVar, TypeVar, cast

from aiosmtpd.smtp import SMTP
from structlog.typing import FilteringBoundLogger

from milterd.base import metrics
from milterd.base.alarm import Alarm
from smtpgw.edge import commands
from smtpgw.edge.inbox import AttentionError, DeadlineError, EndOfInputError, Inbox
from smtpgw.edge.options import Deadlines, EdgeOptions
from smtpgw.edge.road import Answer, Tls
from smtpgw.edge.secure import secured, told

TIMEOUT = Answer(421, "4.4.2", "Timeout exceeded", hangup=True)
SHUTDOWN = Answer(421, "4.3.2", "Service shutting down", hangup=True)

_FLUSH_AT = 65_536
"""Octets of replies that are sent even while more pipelined commands wait."""

T = TypeVar("T")

Verb = Callable[[Any, str], Coroutine[Any, Any, Answer | None]]
"""A method that carries out a verb: its connection and the argument; the answer, None if it has
been given."""


class Goodbye(Exception):  # noqa: N818 - no error: the dialogue is over
    """Nothing more is to be said to this client."""


class Conversation(SMTP):
    """Lines in, answers out, deadlines on both.  What is said is for subclasses:
    they give :meth:`converse` and :attr:`in_transaction`.

    `ended` is called once, when the connection is over.
    """

    _verbs: ClassVar[Mapping[str, Verb]] = {}
    """The methods by verb."""

    def __init_subclass__(cls) -> None:
        names = [each for each in dir(cls) if each.startswith("smtp_")]
        cls._verbs = {each.removeprefix("smtp_"): getattr(cls, each) for each in names}

    def __init__(
        self,
        options: EdgeOptions,
        ended: Callable[[Conversation], None],
        log: FilteringBoundLogger,
    ) -> None:
        # Not SMTP.__init__: see above.
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self._handler_coroutine: asyncio.Task[None] | None = None
        self.options = options
        self.deadlines = options.deadlines
        self._since, self._until = 0.0, math.inf
        self._waiting = False
        self._alarm = Alarm(self.loop, self._expired)
        self._blocked = False
        self._taken: asyncio.Event | None = None
        self.inbox = Inbox()
        self.log = log
        self.secure = False
        self._wire: asyncio.Transport | None = None
        self._ended: Callable[[Conversation], None] | None = ended
        self._out = bytearray()
        self._flushing = False
        self._closing = False
        self._draining = False
        self.over = False
        """Whether nothing of the dialogue is under way any more."""

    async def converse(self) -> None:
        """Hold the dialogue; ends by Goodbye, EndOfInputError or ConnectionError."""
        raise NotImplementedError

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is under way that a shutdown waits for."""
        raise NotImplementedError

    def pending(self) -> bool:
        """Whether the client has sent more than was read."""
        return bool(self.inbox.unread)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client is there."""
        self.transport = self._wire = cast(asyncio.Transport, transport)
        self.inbox.attach(self._wire)
        self._handler_coroutine = self.loop.create_task(self._handle_client())

    def data_received(self, data: bytes) -> None:
        """Keep what came for whoever reads next."""
        self.inbox.feed(data)

    def pause_writing(self) -> None:
        """The client does not take what is sent."""
        self._blocked = True
        self._taken = asyncio.Event()

    def resume_writing(self) -> None:
        """It does again."""
        self._unblock()

    def _unblock(self) -> None:
        self._blocked = False
        if self._taken is not None:
            self._taken.set()

    def eof_received(self) -> bool:
        """The client sends no more; it may still read, unless TLS ended with it."""
        self.inbox.end()
        return not self.secure

    def connection_lost(self, _error: Exception | None) -> None:
        """Give up what was under way; a hand-over is not ours to give up."""
        self._closing = True
        self._alarm.close()
        self._unblock()
        self.inbox.end()
        task = self._handler_coroutine
        if task is not None:
            task.cancel()
        self.transport = None
        self._release()
        if task is None or task.done():
            self._let_go()

    @property
    def resumed(self) -> bool:
        """Whether TLS goes on with a session of before, which costs nobody a full handshake."""
        found = self._wire.get_extra_info("ssl_object") if self.secure and self._wire else None
        return bool(found is not None and found.session_reused)

    def drain(self) -> None:
        """Finish the transaction under way, if there is one, and then say goodbye."""
        self._draining = True
        self.inbox.interrupt()

    def abort(self) -> None:
        """Drop the connection now."""
        if self._wire is not None:
            self._wire.abort()

    async def _handle_client(self) -> None:
        end = "lost"
        try:
            await self.converse()
        except Goodbye:
            end = "goodbye"
        except (EndOfInputError, ConnectionError):
            pass  # the client's end of a dialogue
        except Exception:
            end = "failed"
            self.log.exception("session failed")
        finally:
            metrics.sessions(self.options.listener, end).inc()
            self._closing = self.over = True
            self._alarm.close()
            if self.transport is not None:
                self.transport.close()
            self._release()
            if self.transport is None:
                self._let_go()

    def _let_go(self) -> None:
        """Connection and dialogue are over.  Hold on to nobody who holds on to this: all of a
        session then ends at once, and not with the garbage collector's next round, which has the
        more to do the more sessions there were."""
        self._wire = None
        self._handler_coroutine = None

    def _release(self) -> None:
        ended, self._ended = self._ended, None
        if ended is not None:
            ended(self)

    async def next_line(self, response: int | None = None) -> bytes:
        """The next command line, whole, within its deadline; with `response`, a line of at most
        so many octets that is no command.

        Raises LineTooLongError, and Goodbye where what comes is not SMTP.
        """
        limit = commands.LONGEST if response is None else response
        began = self.loop.time()
        while True:
            line = self.inbox.line(limit)
            if line is not None:
                return line
            await self._no_line(command=response is None)
            await self._wait(began)

    async def _no_line(self, *, command: bool = True) -> None:
        """Say what need not wait for the end of a line."""
        first = self.inbox.first
        if first and command and commands.is_foreign_octet(first):
            await self.say(commands.NOT_SMTP)
        if self._draining and not self.in_transaction:
            await self.say(SHUTDOWN)

    async def some(self, until: float, limit: int | None = None) -> bytes:
        """Some octets of a message, at most `limit`, before `until` on the loop's clock."""
        while not self.inbox.waiting:
            await self._wait(self.loop.time(), until)
        return self.inbox.take() if limit is None else self.inbox.take(limit)

    async def heard(self, until: float) -> bytes:
        """Whatever the client says next, before `until`; outside of any transaction."""
        while not self.inbox.waiting:
            if self._draining:
                await self.say(SHUTDOWN)
            await self._wait(self.loop.time(), until)
        return self.inbox.take()

    async def _wait(self, began: float, until: float = math.inf) -> None:
        """Until more input, with all replies sent (RFC 2920 section 3.2): smtpd_timeout from
        `began` on, and not beyond `until`."""
        if self._out:
            await self.flush()
        self._since, self._until, self._waiting = began, until, True
        due = began + self.deadlines.smtpd_timeout
        self._alarm.set(due if due < until else until)
        try:
            await self.inbox.coming(self.loop)
        except AttentionError:
            return
        except DeadlineError:
            self.log.info("timeout")
            self._waiting = False
            await self.say(TIMEOUT)
        finally:
            self._waiting = False
            self._alarm.clear()

    def hurry(self, deadlines: Deadlines) -> None:
        """Go by shorter deadlines from now on, in what is waited for now too."""
        if deadlines.smtpd_timeout >= self.deadlines.smtpd_timeout:
            return
        self.deadlines = deadlines
        if self._waiting:
            self._alarm.set(min(self._since + deadlines.smtpd_timeout, self._until))

    async def preamble(self, parse: Callable[[bytes], T | None], patience: float, most: int) -> T:
        """What stands before the dialogue: what `parse` makes of the first octets, `most` at
        most, which stay where they are.

        Raises whatever `parse` raises, and Goodbye where the client is late or has to leave.
        """
        deadline = self.loop.time() + patience
        while (found := parse(self.inbox.peek(most))) is None:
            self._alarm.set(deadline)
            try:
                await self.inbox.more()
            except (AttentionError, DeadlineError) as error:
                raise Goodbye from error
            finally:
                self._alarm.clear()
        return found

    def _expired(self) -> None:
        if self._flushing:
            self.abort()  # who does not read replies gets no 421 either
        else:
            self.inbox.expire()

    async def push(self, status: bytes | str) -> None:
        """Queue a reply, given without its line end (aiosmtpd's way to answer)."""
        self._out += status.encode("utf-8", "replace") if isinstance(status, str) else status
        self._out += b"\r\n"

    async def say(self, answer: Answer) -> None:
        """Queue an answer, and send what is queued unless more commands are pipelined.

        Raises Goodbye after an answer that closes the connection.
        """
        if self.options.soft_bounce:
            answer = answer.softened()
        self._out += answer.encode()
        last = answer.hangup or answer.code == 421
        hold = self.inbox.has_line and not last and len(self._out) < _FLUSH_AT
        if not hold and not self._sent():
            await self._until_taken()
        if last:
            raise Goodbye

    async def flush(self) -> None:
        """Send what is queued; a client that does not take it in time is dropped."""
        if not self._sent():
            await self._until_taken()

    def _sent(self) -> bool:
        """Send what is queued; whether there is nothing to wait for then."""
        if not self._out or self._closing or self._wire is None:
            return True
        out, self._out = bytes(self._out), bytearray()
        self._wire.write(out)
        return not self._blocked

    async def _until_taken(self) -> None:
        if self._taken is None:
            return
        self._flushing = True
        self._alarm.set(self.loop.time() + self.deadlines.smtpd_timeout)
        try:
            await self._taken.wait()
        finally:
            self._flushing = False
            self._alarm.clear()

    async def start_tls(self, ready: Answer | None) -> Tls:
        """Send `ready`, forget all plaintext input, and shake hands (RFC 3207 section 4.2).

        Without `ready` TLS comes first, and what is there already is a part of it (RFC 8314).
        Raises Goodbye where that fails.
        """
        plain, security = self._wire, self.options.security
        if plain is None or security is None:
            raise Goodbye
        plain.pause_reading()  # the client's hello is for TLS, not for the inbox
        if ready is not None:
            self._out += ready.encode()
            await self.flush()
        # Not after the handshake: a client may send its next command with the end of it.
        early = self.inbox.clear()
        timeout = self.deadlines.starttls
        try:
            secure = await secured(
                plain, self, security.context(), timeout, b"" if ready is not None else early
            )
        except (OSError, ssl.SSLError) as error:
            self.log.info("TLS handshake failed", reason=str(error))
            plain.abort()
            raise Goodbye from error
        if secure is None:
            raise Goodbye
        self.transport = self._wire = secure
        self.inbox.attach(secure)
        self.secure = True
        connection = secure.get_extra_info("ssl_object")
        if connection is None:  # the client is gone already
            raise Goodbye
        found = security.facts(connection)
        if self.options.tls_logged:
            self.log.info("TLS connection", **told(found))
        return found
