"""The verbs that bring a message: DATA and BDAT, bounded in size and time.

Where it cannot be known where a message ends, or where a client sends one unasked, the
connection ends: nothing of a message is ever taken for a command.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from structlog.typing import FilteringBoundLogger

from smtpgw.edge.budget import Budget
from smtpgw.edge.content import Content
from smtpgw.edge.conversation import Conversation
from smtpgw.edge.data import DRAIN_FACTOR, BdatReader, DataReader
from smtpgw.edge.options import Deadlines, EdgeOptions
from smtpgw.edge.pace import Pace
from smtpgw.edge.road import Answer
from smtpgw.edge.session import Session
from smtpgw.edge.sink import TOO_LARGE
from smtpgw.edge.turns import Turns

EARLY_MESSAGE = Answer(503, "5.5.0", "Improper command pipelining", hangup=True)
FAR_TOO_LARGE = Answer(421, "4.3.4", "Message far beyond the size limit", hangup=True)
NO_CHUNKING = Answer(502, "5.5.1", "CHUNKING was not announced", hangup=True)
BAD_BDAT = Answer(501, "5.5.4", "Syntax: BDAT count [LAST]", hangup=True)
NULL_CHUNK = Answer(551, "5.7.1", "Null BDAT chunk")
NO_ARGUMENT = Answer(501, "5.5.4", "No argument allowed")

_BDAT = re.compile(rb"([0-9]{1,19})(?:[ \t]+(LAST))?\Z", re.IGNORECASE)


class MessageVerbs(Turns):
    """A conversation that takes messages; whose they are and what becomes of them is the
    :attr:`dialogue`'s affair."""

    def __init__(
        self,
        options: EdgeOptions,
        ended: Callable[[Conversation], None],
        log: FilteringBoundLogger,
    ) -> None:
        super().__init__(options, ended, log)
        self._budget = Budget(options.limits)
        self._chunks: BdatReader | None = None
        self._pace: Pace | None = None

    @property
    def dialogue(self) -> Session:
        """The session of an admitted client."""
        raise NotImplementedError

    async def smtp_DATA(self, arg: str) -> Answer:  # noqa: N802
        """RFC 5321 section 4.1.1.4."""
        answer = NO_ARGUMENT if arg else self.dialogue.refusal("DATA")
        if answer is None:
            answer = await self.dialogue.data()
        early = self.inbox.waiting
        if not answer.positive:
            return closing(answer) if early else answer
        if early and self.options.forbid_unauth_pipelining:
            return EARLY_MESSAGE
        await self.say(answer)
        return await self._receive(DataReader(self.options.content))

    async def _receive(self, reader: DataReader) -> Answer:
        """Take the message that 354 asks for."""
        self._pace = self._new_pace()
        return await self._receive_on(reader, self._pace)

    async def _receive_on(self, reader: DataReader, pace: Pace) -> Answer:
        """Take it to its end; some of it may be there already."""
        try:
            while not (reader.finished or reader.overrun):
                data = await self.some(pace.until)
                pace.took(self.loop.time(), len(data))
                used = reader.feed(data)
                if used < len(data):
                    self.inbox.give_back(data[used:])
        finally:
            if not reader.finished:
                reader.discard()
        return await self._complete(reader.finish()) if reader.finished else FAR_TOO_LARGE

    def hurry(self, deadlines: Deadlines) -> None:
        super().hurry(deadlines)
        if self._pace is not None:
            self._pace.hurry(self.loop.time(), deadlines.grace)

    def _new_pace(self) -> Pace:
        deadlines = self.deadlines
        return Pace(self.loop.time(), deadlines.grace, deadlines.min_data_rate)

    async def _complete(self, content: Content | Answer) -> Answer:
        recipients = self.dialogue.recipients if self.options.dialogue.lmtp else 1
        answer = await self.dialogue.message(content)
        if answer.positive:
            self._budget.restore()
        for _ in range(recipients - 1):  # RFC 2033 section 4.2: one for each, in their order
            await self.say(replace(answer, hangup=False))
        return answer

    async def smtp_BDAT(self, arg: str) -> Answer:  # noqa: N802
        """RFC 3030 section 2."""
        if "CHUNKING" not in self.dialogue.announced:
            return NO_CHUNKING
        match = _BDAT.match(octets(arg))
        if match is None:
            return BAD_BDAT
        size, last = int(match[1]), match[2] is not None
        if not (size or last):
            return NULL_CHUNK
        if size > DRAIN_FACTOR * self.options.content.message_size_limit:
            return closing(TOO_LARGE)
        refusal = self.dialogue.refusal("BDAT") or await self._begin_chunks()
        await self._read_chunk(size, None if refusal else self._chunks)
        return refusal or await self._chunk_taken(size, last)

    async def _begin_chunks(self) -> Answer | None:
        if self._chunks is not None:
            return None
        answer = await self.dialogue.data()
        if not answer.positive:
            return answer
        self._chunks = BdatReader(self.options.content)
        self._pace = self._new_pace()
        return None

    async def _read_chunk(self, size: int, reader: BdatReader | None) -> None:
        """Take a chunk's octets; without a reader they are only passed over."""
        pace = self._pace if reader and self._pace else self._new_pace()
        while size:
            data = await self.some(pace.until, size)
            pace.took(self.loop.time(), len(data))
            size -= len(data)
            if reader is not None:
                reader.feed(data)

    async def _chunk_taken(self, size: int, last: bool) -> Answer:
        reader = self._chunks
        if reader is None:
            raise RuntimeError("a chunk without its reader")
        if last:
            self._chunks = None
            return await self._complete(reader.finish())
        if reader.fault is not None:
            self._drop_chunks()
            return await self.dialogue.message(reader.fault)
        self.dialogue.chunked()
        return Answer(250, "2.0.0", f"{size} octets received")

    def _drop_chunks(self) -> None:
        if self._chunks is not None:
            self._chunks.discard()
            self._chunks = None


def octets(argument: str) -> bytes:
    """The octets of an argument in the form in which aiosmtpd hands them round."""
    return argument.encode("utf-8", "surrogateescape")


def closing(answer: Answer) -> Answer:
    """The same, and nothing after it."""
    return replace(answer, hangup=True)
