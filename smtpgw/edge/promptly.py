"""The connection of a client that does the usual: one command at a time, then a message.

What :class:`~smtpgw.edge.prompt.PromptSession` answers at once is answered in the callback that
brought it, the message is read there, and the answer to it is sent where the hand-over ends.  The
session's task sleeps meanwhile.  Anything else wakes it, and it goes on from where things stand:
more than one command at a time, what is refused, a deadline, an end of input, our own end.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from smtpgw.edge import commands
from smtpgw.edge.content import Content
from smtpgw.edge.conversation import Goodbye
from smtpgw.edge.data import DataReader, whole
from smtpgw.edge.pace import Pace
from smtpgw.edge.prompt import PromptSession
from smtpgw.edge.protocol import BYE, GatewaySMTP
from smtpgw.edge.road import Answer
from smtpgw.edge.session import GO_AHEAD

Step = Callable[[], Coroutine[Any, Any, Answer]]

_VERBS = frozenset({"MAIL", "RCPT", "DATA", "QUIT"})


class PromptSMTP(GatewaySMTP):
    """The same conversation, in fewer steps."""

    _able: PromptSession | None = None
    """The session, where the settings and the client let it be prompt."""
    _coming = False
    """Whether a message comes in now."""
    _incoming: DataReader | None = None
    """What has come of it, where that was not all."""
    _due: Pace
    _handed = False
    """Whether a message waits for its answer."""
    _answer: Answer | None = None
    """What became of it, where the session's task is to say so."""
    _told: asyncio.Future[Answer] | None = None

    async def serve(self) -> None:
        dialogue, said = self.dialogue, self.options.dialogue
        special = said.command_filter or said.lmtp or _VERBS & (said.forbidden | said.noop)
        if isinstance(dialogue, PromptSession) and self.screened is None and not special:
            self._able = dialogue
        try:
            await super().serve()
        finally:
            self._give_up()

    def data_received(self, data: bytes) -> None:
        parked = self._parked
        if parked is None or parked.done():
            super().data_received(data)
        elif self._coming:
            self._take(data)
        elif self._handed:
            self.inbox.feed(data)  # which wakes the task: it is said after the answer
        elif self._able is None or not self._promptly(self._able, data):
            super().data_received(data)

    def _promptly(self, session: PromptSession, line: bytes) -> bool:
        """Answer a command, if it is one line and can be answered at once."""
        if len(line) > commands.SHORT or self._out or self._blocked or self._closing:
            return False
        if self.inbox.unread or self._draining or self._budget.delay:
            return False
        if line == b"QUIT\r\n":
            self._sent_now(BYE)
            self._begun = Goodbye()  # which the session's task is to raise
            self._wake()
            return True
        verb = line[:4]
        try:
            if verb == b"RCPT":
                answer = session.rcpt_now(line)
            elif verb == b"MAIL":
                answer = session.mail_now(line)
            else:
                answer = session.data_now() if line == b"DATA\r\n" else None
        except Exception:  # noqa: BLE001 - the whole way meets it again, and has an answer for it
            return False
        if answer is None:
            return False
        now = self._sent_now(answer)
        if answer is GO_AHEAD:
            self._begin_message(now)
            return True
        if verb == b"MAIL":
            self._budget.spend("MAIL", answer)
        self._since = now
        self._alarm.set(now + self.deadlines.smtpd_timeout)
        return True

    def _sent_now(self, answer: Answer) -> float:
        """Send an answer; the time, from which the client may take as long as it may."""
        if self._wire is not None:
            self._wire.write(answer.octets or answer.encode())
        self._began = now = self.loop.time()
        return now

    def _begin_message(self, now: float) -> None:
        """What comes from now on is a message."""
        deadlines = self.deadlines
        pace = self._pace = self._due = Pace(now, deadlines.grace, deadlines.min_data_rate)
        self._coming = True
        self._await_more(now, pace)

    def _await_more(self, since: float, pace: Pace) -> None:
        self._since, self._until = since, pace.until
        due = since + self.deadlines.smtpd_timeout
        self._alarm.set(due if due < pace.until else pace.until)

    def _take(self, data: bytes) -> None:
        """Octets of a message."""
        try:
            found = self._read(data)
        except Exception as error:  # noqa: BLE001 - ours; the session's task is to say so
            self._hand_to_task(partial(_failed, error))
            return
        if found is None:
            now, pace = self.loop.time(), self._due
            pace.took(now, len(data))
            self._await_more(now, pace)
            if self._incoming is not None and self._incoming.overrun:
                self._wake()
            return
        content, used = found
        self._coming, self._incoming = False, None
        if used < len(data):  # first: the answer may come at once
            self.inbox.feed(data[used:])
        self._complete_now(content)

    def _read(self, data: bytes) -> tuple[Content | Answer, int] | None:
        """The message, and how much of `data` belongs to it; None where there is more to come."""
        reader = self._incoming
        if reader is None:
            found = whole(data, self.options.content)
            if found is not None:
                return found
            reader = self._incoming = DataReader(self.options.content)
        used = reader.feed(data)
        return (reader.finish(), used) if reader.finished else None

    def _complete_now(self, content: Content | Answer) -> None:
        """The message is there: hand it over, or have its refusal said."""
        self._waiting = False
        self._alarm.clear()
        if isinstance(content, Answer) or self._able is None:
            self._hand_to_task(partial(self._complete, content))
            return
        self._handed = True
        self._able.hand_over(content, self._answered)

    def _answered(self, answer: Answer | None) -> None:
        """What becomes of the message is known."""
        self._handed = False
        if answer is None:
            self.abort()
            return
        told, parked = self._told, self._parked
        if told is not None:
            if not told.done():
                told.set_result(answer)
            return
        if self._closing or parked is None or parked.done():
            self._answer = answer
            return
        if self._blocked or not answer.positive or answer.hangup:
            self._answer = answer
            self._wake()
            return
        self._until, self._waiting = math.inf, True
        self._budget.restore()
        now = self._since = self._sent_now(answer)
        self._alarm.set(now + self.deadlines.smtpd_timeout)

    async def _until_answered(self) -> Answer:
        """The same for the session's task, where that has woken."""
        answer, self._answer = self._answer, None
        if answer is None:
            self._told = self.loop.create_future()
            try:
                answer = await self._told
            finally:
                self._told = None
        if answer.positive:
            self._budget.restore()
        return answer

    async def _received(self) -> Answer:
        """The rest of a message for the session's task."""
        reader, self._incoming = self._incoming, None
        self._coming = False
        return await self._receive_on(reader or DataReader(self.options.content), self._due)

    def _hand_to_task(self, step: Step) -> None:
        self._discard()
        self._set_aside(step)
        self._wake()

    async def _go_on_aside(self) -> None:
        """Take over the message that is under way, if there is one."""
        if self._coming:
            self._set_aside(self._received)
        elif self._handed or self._answer is not None:
            self._set_aside(self._until_answered)
        await super()._go_on_aside()

    def _set_aside(self, step: Step) -> None:
        """What the session's task is to do about DATA, should it wake."""
        self._aside = partial(self._go_on, step)

    async def _go_on(self, step: Step) -> None:
        await self._carry_out("DATA", step())

    def _wake(self) -> None:
        if self._parked is not None and not self._parked.done():
            self._parked.set_result(None)

    def _give_up(self) -> None:
        """The dialogue is over, whatever was under way."""
        self._able = self._aside = None
        self._discard()

    def _discard(self) -> None:
        reader, self._incoming = self._incoming, None
        self._coming = False
        if reader is not None:
            reader.discard()


async def _failed(error: Exception) -> Answer:
    raise error
