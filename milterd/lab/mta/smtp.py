"""A small SMTP client that says exactly what it is told and keeps every answer.

The end of the connection is an answer too: code 0.  Every wait has a limit.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from milterd.base.sockets import SocketAddress
from milterd.lab.link import open_streams

_LINES = 100
_LINE = re.compile(rb"([2-5][0-9]{2})([ -]|\Z)(.*)", re.DOTALL)
_QUEUED = re.compile(r"queued as .*")


@dataclass(frozen=True, slots=True)
class Said:
    """An answer of the MTA's; code 0 where it closed the connection instead."""

    code: int
    lines: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """2xx or 3xx."""
        return 200 <= self.code < 400

    @property
    def kind(self) -> int:
        """The first digit."""
        return self.code // 100

    def __str__(self) -> str:
        """As a card shows it: the same in every run."""
        if not self.code:
            return "connection closed"
        return _QUEUED.sub("queued", f"{self.code} {' | '.join(self.lines)}".strip())


CLOSED = Said(0)


class SilentError(Exception):
    """The MTA did not answer in time."""


@dataclass(slots=True)
class Told:
    """The answers of one transaction, by step: mail, rcpt (as often as given), data, end."""

    steps: list[tuple[str, Said]] = field(default_factory=list)

    def at(self, step: str) -> Said | None:
        """The first answer to that step; None where it did not come to it."""
        return next((said for name, said in self.steps if name == step), None)

    @property
    def last(self) -> Said:
        """The last answer."""
        return self.steps[-1][1] if self.steps else CLOSED

    @property
    def last_step(self) -> str:
        """The step it answers."""
        return self.steps[-1][0] if self.steps else ""

    @property
    def taken(self) -> bool:
        """Whether the mail was taken."""
        return self.last_step == "end" and self.last.good

    def __str__(self) -> str:
        return f"{self.last} at {self.last_step or 'the start'}"


class Client:
    """One SMTP session; get one with `connect`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, patience: float
    ) -> None:
        self._reader, self._writer, self._patience = reader, writer, patience
        self.banner = CLOSED
        self.port = (writer.get_extra_info("sockname") or ("", 0))[1]

    async def answer(self) -> Said:
        """The next answer.  Raises SilentError."""
        lines: list[str] = []
        try:
            async with asyncio.timeout(self._patience):
                while len(lines) < _LINES:
                    match = _LINE.match((await self._reader.readuntil(b"\n")).rstrip(b"\r\n"))
                    if match is None:
                        return CLOSED
                    lines.append(match[3].decode("utf-8", "replace"))
                    if match[2] != b"-":
                        return Said(int(match[1]), tuple(lines))
        except TimeoutError:
            raise SilentError(f"the MTA did not answer within {self._patience:g} s") from None
        except (OSError, EOFError):
            return CLOSED
        return CLOSED

    async def say(self, line: bytes) -> Said:
        """A command and its answer."""
        try:
            self._writer.write(line + b"\r\n")
            await self._writer.drain()
        except OSError:
            return CLOSED
        return await self.answer()

    async def content(self, message: bytes) -> Said:
        """The message after DATA, dots stuffed, and the answer to its end."""
        stuffed = message.replace(b"\r\n.", b"\r\n..")
        if stuffed.startswith(b"."):
            stuffed = b"." + stuffed
        try:
            self._writer.write(stuffed)
            await self._writer.drain()
        except OSError:
            return CLOSED
        return await self.say(b".")

    async def send(
        self,
        message: bytes,
        sender: bytes,
        recipients: Sequence[bytes],
        *,
        mail_args: bytes = b"",
        rcpt_args: bytes = b"",
    ) -> Told:
        """One transaction; it ends where the MTA refuses it, or the last recipient."""
        told = Told()

        async def step(name: str, line: bytes) -> bool:
            said = await self.say(line)
            told.steps.append((name, said))
            return said.good

        if not await step("mail", b"MAIL FROM:<%b>" % sender + mail_args):
            return told
        taken = [await step("rcpt", b"RCPT TO:<%b>" % each + rcpt_args) for each in recipients]
        if any(taken) and await step("data", b"DATA"):
            told.steps.append(("end", await self.content(message)))
        return told

    def drop(self) -> None:
        """Leave without a word."""
        self._writer.transport.abort()


@asynccontextmanager
async def connect(target: SocketAddress, patience: float) -> AsyncIterator[Client]:
    """A session, the banner not yet read.  Raises OSError, and SilentError."""
    try:
        async with asyncio.timeout(patience):
            streams = await open_streams(target)
    except TimeoutError:
        raise SilentError(f"no connection to {target} within {patience:g} s") from None
    client = Client(*streams, patience)
    try:
        yield client
    finally:
        client.drop()
