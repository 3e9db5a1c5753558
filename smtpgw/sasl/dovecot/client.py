"""A connection to Dovecot that all sessions of a worker share, and what becomes of logins
without one.

It is made when it is first needed and kept.  When it breaks, or Dovecot hangs, every login on it
is put off, and the next one makes it anew: at once after a loss, then with growing pauses while
Dovecot is gone.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from smtpgw.edge.auth import Mechanism
from smtpgw.sasl.dovecot import codec
from smtpgw.sasl.dovecot.codec import Event, ProtocolError, Ready
from smtpgw.sasl.dovecot.link import Link, Unavailable

_CHUNK = 65_536
_NUMBERS = 2**31 - 1


@dataclass(frozen=True, slots=True)
class DovecotOptions:
    """`place` is the path of a UNIX socket, or host and port.

    `timeout` is seconds for one answer: Dovecot makes those who guess wait for up to 17.
    `connect` is for a connection and its handshake; `patience`, how long a client's EHLO waits
    for that.  After a failed connection the next is tried `first_pause` seconds later, then
    twice that, up to `longest_pause`.  `logins` are under way at once, no more.
    """

    place: Path | tuple[str, int]
    service: str = "smtp"
    timeout: float = 20.0
    connect: float = 10.0
    patience: float = 2.0
    first_pause: float = 0.25
    longest_pause: float = 5.0
    logins: int = 1000

    @property
    def name(self) -> str:
        """The place, for people."""
        return str(self.place) if isinstance(self.place, Path) else "{}:{}".format(*self.place)


class DovecotClient:
    """All of a worker's logins at one Dovecot."""

    def __init__(
        self,
        options: DovecotOptions,
        log: FilteringBoundLogger,
        random: Callable[[int], int] = secrets.randbelow,
    ) -> None:
        self.options = options
        self._log, self._random = log, random
        self._link: Link | None = None
        self._attempt: asyncio.Task[None] | None = None
        self._readers: set[asyncio.Task[None]] = set()
        self._mechanisms: tuple[Mechanism, ...] | None = None
        self._again = self._pause = 0.0
        self._why = ""
        self._retired = False

    async def mechanisms(self) -> tuple[Mechanism, ...] | None:
        """What Dovecot offers, or has offered last; None where it has never been reached."""
        if self._link is None:
            attempt = self._connect()
            if self._mechanisms is None and attempt is not None:
                await asyncio.wait({attempt}, timeout=self.options.patience)
        return self._mechanisms

    async def link(self) -> Link:
        """The connection, made if need be.  Raises Unavailable."""
        attempt = None if self._link is not None else self._connect()
        if attempt is not None:
            await asyncio.wait({attempt})
        if self._link is None:
            raise Unavailable(self._why)
        if self._link.logins >= self.options.logins:
            raise Unavailable("too many logins at once")
        return self._link

    async def ask(self, link: Link, number: int, line: bytes) -> Event:
        """Send a line and wait for what Dovecot answers to that login.  Raises Unavailable."""
        asked = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self.options.timeout):
                return await link.ask(number, line)
        except TimeoutError:
            reason = f"{self.options.name}: no answer within {self.options.timeout:g} s"
            if link.heard <= asked:
                # It hangs for all: a new connection may find one that does not.
                self._lost(link, reason)
            raise Unavailable(reason) from None
        finally:
            link.forget(number)

    def _connect(self) -> asyncio.Task[None] | None:
        """The attempt under way, or a new one; None while the last failure is too fresh."""
        if self._attempt is None or self._attempt.done():
            loop = asyncio.get_running_loop()
            if loop.time() < self._again:
                return None
            self._attempt = loop.create_task(self._try())
        return self._attempt

    async def _try(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.options.connect):
                await self._open()
        except (OSError, TimeoutError, ProtocolError, EOFError) as error:
            self._why = f"{self.options.name}: {_reason(error)}"
            longer = 2 * self._pause or self.options.first_pause
            self._pause = min(self.options.longest_pause, longer)
            self._again = loop.time() + self._pause
            self._log.warning("no connection to Dovecot", reason=self._why)
        else:
            self._pause = self._again = 0.0

    async def _open(self) -> None:
        place = self.options.place
        if isinstance(place, Path):
            reader, writer = await asyncio.open_unix_connection(str(place))
        else:
            reader, writer = await asyncio.open_connection(*place)
        link, decoder = Link(writer), codec.Decoder()
        try:
            # Not our process id: Dovecot refuses a number that another connection still has.
            writer.write(codec.greeting(1 + self._random(_NUMBERS)))
            ready = await _handshake(reader, decoder)
        except BaseException:
            link.fail("no handshake")
            raise
        self._link, self._mechanisms = link, ready.mechanisms
        task = asyncio.get_running_loop().create_task(self._read(link, reader, decoder))
        self._readers.add(task)
        task.add_done_callback(self._readers.discard)

    async def _read(self, link: Link, reader: asyncio.StreamReader, decoder: codec.Decoder) -> None:
        """Hand out answers until the connection is over."""
        reason, loop = "connection closed", asyncio.get_running_loop()
        try:
            while octets := await reader.read(_CHUNK):
                link.heard = loop.time()
                for each in decoder.feed(octets):
                    link.hand_out(each)
        except (OSError, ProtocolError) as error:
            reason = _reason(error)
        self._lost(link, f"{self.options.name}: {reason}")

    def _lost(self, link: Link, reason: str) -> None:
        if link.broken:
            return
        self._log.warning("connection to Dovecot lost", reason=reason, logins=link.logins)
        link.fail(reason)
        if self._link is link:
            self._link = None

    def retire(self) -> None:
        """Others are asked from now on: the connection goes when no login needs it."""
        self._retired = True
        self.settle()

    def settle(self) -> None:
        """A login is over."""
        if self._retired and self._link is not None and not self._link.logins:
            self._link.fail("retired")
            self._link = None

    async def close(self) -> None:
        """Drop the connection; logins under way are put off."""
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait({self._attempt})
        if self._link is not None:
            self._link.fail("closed")
            self._link = None
        if self._readers:
            await asyncio.wait(self._readers)


async def _handshake(reader: asyncio.StreamReader, decoder: codec.Decoder) -> Ready:
    while octets := await reader.read(_CHUNK):
        for each in decoder.feed(octets):
            if isinstance(each, Ready):
                return each
    raise EOFError


def _reason(error: BaseException) -> str:
    if isinstance(error, EOFError):
        return "closed during the handshake"
    if isinstance(error, TimeoutError):
        return "no handshake in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
