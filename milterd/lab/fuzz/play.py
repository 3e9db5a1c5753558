"""Play one conversation to a milter and say what was wrong with what it did.

As long as the conversation is legal the milter must answer in time and by the rules, and
may not leave.  After that it may say what it likes, or nothing; but when the MTA has
closed its half, it must close too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TypeVar

from milterd.base.sockets import SocketAddress
from milterd.lab.fuzz.conversation import Conversation, Ending, Write
from milterd.lab.fuzz.referee import Look, Referee
from milterd.lab.link import open_streams
from milterd.lab.tape import Side
from milterd.wire.errors import PeerError

_READ = 65536
_GRACE = 0.03
"""Seconds to wait for an answer to what is not legal."""
_PAUSE = 0.001
"""Seconds between two pieces of one write."""
_TOTAL = 20
"""How many times the limit for one answer all answers together may take."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wrong:
    """What was wrong: `kind` and `stage` in a word or two, `what` in a sentence.

    Kinds: `broken` (the protocol), `silent`, `closed` (all on a legal conversation),
    `stuck` (did not close after the MTA did), `deaf` (takes no good conversation
    afterwards), `died`, `memory`.
    """

    kind: str
    stage: str
    what: str

    @property
    def key(self) -> tuple[str, str]:
        """What makes two of them the same."""
        return self.kind, self.stage


@dataclass(frozen=True, slots=True)
class Played:
    """What came of it: the fault, what both sides said, and the writes that were sent."""

    wrong: Wrong | None
    said: tuple[tuple[Side, bytes], ...]
    sent: tuple[Write, ...]


class _WrongError(Exception):
    def __init__(self, kind: str, stage: str, what: str) -> None:
        super().__init__(what)
        self.wrong = Wrong(kind, stage, what)


async def play(target: SocketAddress, conversation: Conversation, answer: float) -> Played:
    """Play it; `answer` is how many seconds the milter has for each answer.

    No connection at all is `deaf`.
    """
    try:
        async with asyncio.timeout(answer):
            reader, writer = await open_streams(target)
    except (OSError, TimeoutError) as error:
        why = f"no connection: {error}" if str(error) else f"no connection within {answer:g} s"
        return Played(Wrong("deaf", "connection", why), (), ())
    playing = _Playing(reader, writer, answer)
    try:
        wrong = await playing.run(conversation)
    finally:
        writer.transport.abort()
    return Played(wrong, tuple(playing.said), tuple(playing.sent))


class _Playing:
    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: float
    ) -> None:
        self._reader, self._writer, self._answer = reader, writer, answer
        self._ends = asyncio.get_running_loop().time() + _TOTAL * answer
        self._referee = Referee()
        self.said: list[tuple[Side, bytes]] = []
        self.sent: list[Write] = []

    async def run(self, conversation: Conversation) -> Wrong | None:
        try:
            for each in conversation.writes:
                if self._referee.over or not await self._turn(each, conversation.adapt):
                    break
            if conversation.ending is Ending.END:
                await self._end()
        except _WrongError as error:
            return error.wrong
        return None

    async def _turn(self, write: Write, adapt: bool) -> bool:
        """One write and its answer; False when the milter is gone."""
        referee = self._referee
        look = referee.look(write.octets)
        if look is Look.UNWANTED and referee.legal:
            referee.pass_over(write.octets)
            return True
        if look is Look.ILLEGAL and adapt:
            return True
        referee.sent(write.octets, look)
        self.sent.append(write)
        if not await self._write(write):
            return False
        if not referee.legal:
            return await self._grace()
        while referee.awaiting:
            await self._hear()
        return True

    async def _write(self, write: Write) -> bool:
        pieces = list(write.pieces())
        for at, piece in enumerate(pieces):
            self.said.append(("mta", piece))
            try:
                self._writer.write(piece)
                await self._within(self._writer.drain(), "does not read")
            except OSError as error:
                self._gone(str(error))
                return False
            if at < len(pieces) - 1:
                await asyncio.sleep(_PAUSE)
        return True

    async def _hear(self) -> None:
        """Read something that is due."""
        try:
            data = await self._within(self._reader.read(_READ), "no answer")
        except OSError as error:
            self._gone(str(error))
            return
        if not data:
            self._gone("closed with an answer due")
            return
        self._heard(data)

    def _heard(self, data: bytes) -> None:
        self.said.append(("milter", data))
        try:
            self._referee.heard(data)
        except PeerError as error:
            raise _WrongError("broken", self._referee.stage, error.reason) from None

    async def _grace(self) -> bool:
        """Take what the milter says to something illegal; False when it has closed."""
        try:
            async with asyncio.timeout(_GRACE):
                data = await self._reader.read(_READ)
        except TimeoutError:
            return True
        except OSError:
            return False
        if data:
            self.said.append(("milter", data))
        return bool(data)

    async def _end(self) -> None:
        """Close our half; what the milter still says, and whether it closes."""
        referee = self._referee
        try:
            if not self._writer.is_closing():
                self._writer.write_eof()
            while data := await self._within(self._reader.read(_READ), "did not close after us"):
                if referee.legal:
                    self._heard_last(data)
        except _WrongError as error:
            if error.wrong.kind == "silent":
                stage, what = error.wrong.stage, error.wrong.what
                raise _WrongError("stuck", stage, what) from None
            raise
        except OSError:
            return  # it is gone, which is what was wanted

    def _heard_last(self, data: bytes) -> None:
        self.said.append(("milter", data))
        what = f"{len(data)} octets that nobody asked for"
        raise _WrongError("broken", self._referee.stage, what)

    def _gone(self, what: str) -> None:
        if self._referee.legal and not self._referee.finished:
            raise _WrongError("closed", self._referee.stage, what)

    async def _within(self, doing: Awaitable[T], what: str) -> T:
        now = asyncio.get_running_loop().time()
        ends = min(now + self._answer, self._ends)
        try:
            async with asyncio.timeout_at(ends):
                return await doing
        except TimeoutError:
            if self._referee.legal:
                words = f"{what} within {self._answer:g} s"
                raise _WrongError("silent", self._referee.stage, words) from None
            words = f"{what} within {self._answer:g} s after something illegal"
            raise _WrongError("stuck", self._referee.stage, words) from None
