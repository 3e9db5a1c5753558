"""A listening socket at work: who is admitted, who is here, and how it all ends."""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from structlog.typing import FilteringBoundLogger

from milterd.base import chance, logs
from milterd.base.deadlines import Deadlines
from smtpgw.edge.conversation import Conversation
from smtpgw.edge.options import EdgeOptions
from smtpgw.edge.peer import connection_of
from smtpgw.edge.prompt import PromptSession
from smtpgw.edge.promptly import PromptSMTP
from smtpgw.edge.protocol import Admit, GatewaySMTP
from smtpgw.edge.proxy import Header
from smtpgw.edge.road import Answer, Note, Road, no_note
from smtpgw.edge.screening import Screen
from smtpgw.edge.session import Session
from smtpgw.edge.stress import Stress
from smtpgw.edge.upstream import NO_HEADER

BUSY = Answer(421, "4.3.2", "Too many connections, try again later", hangup=True)
NO_ROOM = Answer(421, "4.3.2", "Too many files open here, try again later", hangup=True)

_BACKLOG = 1024
"""Connections that may wait to be accepted."""


_KEPT_BACK = 4
"""The part of the process's descriptors, one in so many, that clients do not get: they are for
the queue, for deliveries and for milters, without which no client can be served."""


def new_trace() -> str:
    """An id that joins an answer to its line in the log."""
    return f"{chance.below(2**32):08x}"


class Listener:
    """One listening socket's sessions, in one process."""

    def __init__(
        self,
        options: EdgeOptions,
        road: Road,
        *,
        stressed: EdgeOptions | None = None,
        log: FilteringBoundLogger | None = None,
        trace: Callable[[], str] = new_trace,
        note: Note = no_note,
    ) -> None:
        self.reconfigure(options, stressed)
        self._road = road
        self._note = note
        self.screen: Screen | None = None
        self._log = log or logs.get("edge")
        self._stress = Stress(options.listener, self._log)
        self._trace = trace
        self._server: asyncio.Server | None = None
        self._sessions: dict[Conversation, PromptSession] = {}
        self._turned_away: set[Conversation] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def connections(self) -> int:
        """How many clients are being served."""
        return len(self._sessions)

    @property
    def idle(self) -> bool:
        """Whether no client is here and nothing of a client's is under way."""
        return not (self._sessions or self._turned_away or self._tasks)

    async def start(self, listening: socket.socket) -> None:
        """Accept on a socket that listens already; it is closed with the listener."""
        listening.setblocking(False)
        loop = asyncio.get_running_loop()
        unix = listening.family is socket.AF_UNIX
        make = loop.create_unix_server if unix else loop.create_server
        self._server = await make(self._protocol, sock=listening, backlog=_BACKLOG)

    def _protocol(self) -> GatewaySMTP:
        stressed = self._look(len(self._sessions) + 1)
        options = self._stressed if stressed else self._options
        admit = self._admit(self._trace(), stressed=stressed)
        return PromptSMTP(options, admit, self._gone, self._log)

    def _admit(self, trace: str, *, stressed: bool) -> Admit:
        def admit(
            protocol: GatewaySMTP, transport: asyncio.Transport, header: Header | None = None
        ) -> Session | Answer:
            self._turned_away.discard(protocol)
            options = protocol.options
            connection = connection_of(
                transport, options.listener, trace, header, protocol.pending, stressed=stressed
            )
            protocol.log = bound = self._log.bind(
                listener=options.listener, session=trace, client=connection.client.address
            )
            protocol.connection, protocol.note = connection, self._note
            refusal = self._refusal(transport)
            if refusal is None and header is None and options.upstream is not None:
                refusal = NO_HEADER  # until there is one
            if refusal is not None:
                self._turned_away.add(protocol)
                return refusal
            try:
                road = self._road.session(connection)
            except Exception:  # noqa: BLE001 - ours; it must not leave a client without an answer
                bound.exception("no road for a session", trace=trace)
                self._turned_away.add(protocol)
                return Answer(421, "4.3.0", f"Internal error, reference {trace}", hangup=True)
            session = PromptSession(
                road,
                options,
                spawn=self._spawn,
                new_trace=self._trace,
                log=bound,
                connection=connection,
                processing=self._time_for(options.deadlines.processing),
            )
            self._sessions[protocol] = session
            if self.screen is not None:
                protocol.screened = self.screen.meet(connection)
            return session

        return admit

    def _time_for(self, seconds: float) -> Deadlines:
        """One timer for the steps of all sessions."""
        found = self._processing.get(seconds)
        if found is None:
            found = self._processing[seconds] = Deadlines(seconds)
        return found

    def _refusal(self, transport: asyncio.Transport) -> Answer | None:
        limits = self._options.limits
        if _scarce(transport.get_extra_info("socket")):
            return NO_ROOM
        waiting = len(self._turned_away) if self._options.upstream is not None else 0
        if len(self._sessions) + waiting >= limits.connections:
            return BUSY
        return None

    def _gone(self, protocol: Conversation) -> None:
        self._turned_away.discard(protocol)
        session = self._sessions.pop(protocol, None)
        if session is None:
            return
        if not (protocol.over and session.close_now()):
            self._spawn(session.close())
        self._look(len(self._sessions))

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """A task that is kept until it is done, whatever becomes of its client."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def reconfigure(self, options: EdgeOptions, stressed: EdgeOptions | None = None) -> None:
        """Serve whoever connects from now on by these options, and by those of `stressed` under
        stress; sessions keep theirs."""
        self._options, self._stressed = options, stressed or options
        self._processing: dict[float, Deadlines] = {}

    def _look(self, connections: int) -> bool:
        """Whether there is stress; where it begins, those who are here have to hurry too."""
        before, limits = self._stress.on, self._options.limits
        now = self._stress.look(connections, limits.connections, limits.stress)
        if now and not before:
            for each in self._sessions:
                each.hurry(self._stressed.deadlines)
        return now

    def stop_accepting(self) -> None:
        """Accept nobody more; sessions go on until they end."""
        if self._server is not None:
            self._server.close()

    async def drain(self, patience: float) -> bool:
        """Accept nobody, send the idle away, and let transactions end for `patience` seconds.

        Then connections are dropped, and hand-overs cancelled; what was committed
        by then stays committed.  Returns whether all ended by themselves.
        """
        self.stop_accepting()
        for each in list(self._sessions):
            each.drain()
        in_time = await self._until_idle(patience)
        for protocol in (*self._sessions, *self._turned_away):
            protocol.abort()
        if not in_time:
            await self._until_idle(1.0)
            for task in self._tasks:
                task.cancel()
            await self._until_idle(1.0)
        for deadlines in self._processing.values():
            deadlines.close()
        return in_time

    async def _until_idle(self, patience: float) -> bool:
        """Whether nobody is here any more within `patience` seconds."""
        loop = asyncio.get_running_loop()
        end = loop.time() + patience
        while not self.idle:
            if loop.time() >= end:
                return False
            await asyncio.sleep(0.01)
        return True


def _scarce(accepted: socket.socket | None) -> bool:
    """Whether few descriptors are left: the system gives the lowest that is free."""
    if accepted is None:
        return False
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft != resource.RLIM_INFINITY and accepted.fileno() >= soft - soft // _KEPT_BACK


async def serve(
    listening: socket.socket,
    options: EdgeOptions,
    road: Road,
    *,
    stressed: EdgeOptions | None = None,
    log: FilteringBoundLogger | None = None,
    trace: Callable[[], str] = new_trace,
) -> Listener:
    """Serve SMTP on a listening socket; end it with :meth:`Listener.drain`."""
    listener = Listener(options, road, stressed=stressed, log=log, trace=trace)
    await listener.start(listening)
    return listener
