"""Command by command: a line in, what it is answered, the next one.

Most commands are answered from memory.  So a line that comes while the session waits for one is
obeyed at once, where it comes in: no future is set, no task is woken.  A command that has to wait
after all is handed to the session's task, which goes on with it from there; so does one that ends
the dialogue, and whatever is no plain line.

While a command is begun so, the session's task is asyncio's current one: a limit on a step's time
cancels that, and that is who goes on with the step (asyncio documents `_enter_task` and
`_leave_task` for those who run tasks' code themselves).
"""

from __future__ import annotations

import asyncio
import math
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Callable, Coroutine
from typing import Any

from milterd.base.waiting import resumed
from smtpgw.edge import commands
from smtpgw.edge.conversation import TIMEOUT, Conversation
from smtpgw.edge.inbox import AttentionError, DeadlineError, LineTooLongError

Begun = tuple[Coroutine[Any, Any, None], Any] | BaseException
"""A command and what it waits for, or what it has raised."""


class Turns(Conversation):
    """A conversation of commands.  Subclasses give :meth:`obey` and :meth:`too_long`."""

    _begun: Begun | None = None
    _parked: asyncio.Future[None] | None = None
    """What the session's task waits for while it waits for a command, and for nothing else."""
    _aside: Callable[[], Coroutine[Any, Any, None]] | None = None
    """How the session's task goes on, should it wake, with what is done meanwhile where input
    comes in."""

    async def obey(self, line: bytes) -> None:
        """Answer a command.  Raises Goodbye if it was the last one."""
        raise NotImplementedError

    async def too_long(self, error: LineTooLongError) -> None:
        """Answer a line that was skipped."""
        raise NotImplementedError

    async def serve(self) -> None:
        """One command after the other; ends by Goodbye, EndOfInputError or ConnectionError."""
        self._began = self.loop.time()
        while True:
            try:
                line = self.inbox.line(commands.LONGEST)
            except LineTooLongError as error:
                await self.too_long(error)
                self._began = self.loop.time()
                continue
            if line is None:
                await self._no_line()
                await self._park()
                continue
            await self.obey(line)
            self._began = self.loop.time()

    def data_received(self, data: bytes) -> None:
        """Obey what is a command, if one is waited for; keep what is none for who reads next."""
        parked, task = self._parked, self._handler_coroutine
        if parked is None or parked.done() or task is None or asyncio.current_task(self.loop):
            self.inbox.feed(data)
            return
        self.inbox.leave()
        self.inbox.feed(data)
        self._parked, self._waiting = None, False
        self._alarm.clear()
        _enter_task(self.loop, task)
        try:
            self._obey_all()
        finally:
            _leave_task(self.loop, task)
        if parked.done():  # the connection was lost meanwhile
            return
        if self._begun is not None or self.inbox.waiting or self._draining or self._closing:
            parked.set_result(None)
            return
        self.inbox.await_by(parked)
        self._rest(parked)

    def _obey_all(self) -> None:
        """Commands, until one waits or there is no whole one."""
        inbox = self.inbox
        while (line := inbox.whole_line(commands.LONGEST)) is not None:
            step = self.obey(line)
            try:
                awaited = step.send(None)
            except StopIteration:
                self._began = self.loop.time()
                continue
            except BaseException as error:  # noqa: BLE001 - the session's task is to raise it
                self._begun = error
                return
            self._begun = step, awaited
            return

    def _rest(self, waiter: asyncio.Future[None]) -> None:
        """Nothing is to be done until `waiter` is, or until the time for a command is over."""
        self._parked = waiter
        self._since, self._until, self._waiting = self._began, math.inf, True
        self._alarm.set(self._began + self.deadlines.smtpd_timeout)

    async def _park(self) -> None:
        """Wait for a command, with all replies sent (RFC 2920 section 3.2); what was begun on
        meanwhile is ended here."""
        if self._out:
            await self.flush()
        waiter = self.inbox.coming(self.loop)
        self._rest(waiter)
        ended: BaseException | None = None
        try:
            await waiter
        except AttentionError:
            pass
        except DeadlineError:
            self.log.info("timeout")
            self._roused()
            await self.say(TIMEOUT)
        except asyncio.CancelledError as error:
            if self._begun is None:
                raise
            ended = error
        if self._begun is None:
            self._roused()
            await self._go_on_aside()
            return
        begun, self._begun = self._begun, None
        try:
            if isinstance(begun, BaseException):
                raise begun
            await resumed(*begun, ended)
        finally:
            del begun, ended  # what an error leads to must not lead back to it
        self._began = self.loop.time()

    async def _go_on_aside(self) -> None:
        aside, self._aside = self._aside, None
        if aside is not None:
            await aside()
            self._began = self.loop.time()

    def _roused(self) -> None:
        self._parked, self._waiting = None, False
        self._alarm.clear()
