"""The host on asyncio and :mod:`milterd.wire`: any octets, any edit, a clean stop.

Connections are read one piece at a time, and a message is judged before the next piece
is read: a slow filter slows its own MTA connection and nothing else.  The numbers of
connections and of mails judged at once are bounded by the options.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import uvloop

from milterd.core.decision import Decision
from milterd.core.mail import Mail
from milterd.host import emit, negotiation
from milterd.host.collect import Collector, plain_macros
from milterd.host.judge import Judge, Surroundings
from milterd.wire import messages as wire
from milterd.wire.constants import STAGE_OF_COMMAND, Stage
from milterd.wire.errors import WireError
from milterd.wire.milter import MilterConnection

_PIECE = 64 * 1024
_WAIT = 0.5
"""Seconds between two looks whether a stop was asked for from a thread or a signal."""


class NativeHost:
    """See :class:`milterd.host.seam.Host`."""

    def __init__(self, judge: Judge, listener: socket.socket, around: Surroundings) -> None:
        self._judge = judge
        self._listener = listener
        self._around = around
        threads = judge.options.threads
        self._pool = ThreadPoolExecutor(threads, "judge") if threads else None
        self._connections: dict[asyncio.Task[None], _Connection] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: tuple[float, bool] | None = None
        self._stopped = asyncio.Event()
        self._ended = asyncio.Event()

    # --- the seam -------------------------------------------------------------------

    def serve(self) -> None:
        uvloop.run(self._serve())

    def stop(self, grace: float, *, sessions: bool = False) -> None:
        self._stop = (grace, sessions)
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has just ended
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._stopped.set()
        self._ended.set()

    # --- connections ----------------------------------------------------------------

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self._stop is not None:
            self._wake()  # told to stop before the loop ran
        accepting = asyncio.create_task(self._accept())
        stopped = asyncio.create_task(self._stopped.wait())
        try:
            await asyncio.wait((accepting, stopped), return_when=asyncio.FIRST_COMPLETED)
            if accepting.done():  # by a fault of ours: better a new process than a deaf one
                accepting.result()
            accepting.cancel()
            self._listener.close()
            await self._drain()
        finally:
            for task in self._connections:
                task.cancel()
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)

    async def _accept(self) -> None:
        """Accept while there is room; more connections wait in the backlog."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        room = asyncio.Semaphore(self._judge.options.connections)
        while True:
            await room.acquire()
            try:
                accepted, _ = await loop.sock_accept(self._listener)
            except OSError as error:  # out of descriptors, say: they come back
                room.release()
                self._around.log.warning(
                    "accept failed", filter=self._judge.filter.name, reason=str(error)
                )
                await asyncio.sleep(_WAIT)
                continue
            connection = _Connection(self._judge, self._around, self._pool, self._ended.set)
            task = asyncio.create_task(connection.run(accepted))
            self._connections[task] = connection
            task.add_done_callback(lambda task: self._forget(task, room))

    def _forget(self, task: asyncio.Task[None], room: asyncio.Semaphore) -> None:
        self._connections.pop(task, None)
        self._ended.set()
        room.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._judge.failure("host", Exception(repr(error)))

    async def _drain(self) -> None:
        """Wait for what :meth:`stop` said, which a second call may shorten."""
        asked: tuple[float, bool] | None = None
        deadline = 0.0
        while True:
            if self._stop is not None and self._stop is not asked:
                asked = self._stop
                deadline = self._around.clock() + asked[0]
            self._ended.clear()
            left = deadline - self._around.clock()
            sessions = asked is not None and asked[1]
            waited_for = any(sessions or each.busy for each in self._connections.values())
            if left <= 0 or not waited_for:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), min(left, _WAIT))


class _Connection:
    """One MTA connection."""

    def __init__(
        self,
        judge: Judge,
        around: Surroundings,
        pool: ThreadPoolExecutor | None,
        on_idle: Callable[[], None],
    ) -> None:
        self._judge = judge
        self._on_idle = on_idle
        self._around = around
        self._pool = pool
        self._collector = Collector(judge.options)
        self._macros: dict[str, bytes] = {}
        self._wire = MilterConnection(
            accept_actions=negotiation.actions(judge.needs),
            accept_protocol=negotiation.protocol(judge.needs),
            macros=negotiation.MACROS,
        )

    @property
    def busy(self) -> bool:
        """Whether a message is in progress."""
        return self._collector.in_message

    async def run(self, accepted: socket.socket) -> None:
        """Talk until the MTA closes, breaks the rules, or says nothing for too long."""
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(_PIECE, loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted)
        transport.set_write_buffer_limits(high=0)  # so that drain() means: all is written
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        try:
            await self._talk(reader, writer)
        except WireError as error:
            self._around.meter.failed("protocol")
            self._around.log.warning(
                "milter protocol", filter=self._judge.filter.name, reason=error.reason
            )
        except TimeoutError:
            self._around.log.info("idle connection closed", filter=self._judge.filter.name)
        except ConnectionError:
            pass  # the MTA is gone, and its message with it: RFC 5321 leaves that to the client
        finally:
            self._collector.forget()
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        patience = self._judge.options.idle_timeout
        while True:
            async with asyncio.timeout(patience):
                data = await reader.read(_PIECE)
            if not data:
                self._wire.eof()
                return
            events = self._wire.receive(data)
            while events:
                for event in events[:-1]:
                    self._note(event)
                if isinstance(events[-1], wire.Quit):
                    return
                await self._take(events[-1], writer)  # the only one that may await a reply
                async with asyncio.timeout(patience):
                    await writer.drain()
                events = self._wire.receive()

    async def _take(self, event: wire.CommandMessage, writer: asyncio.StreamWriter) -> None:
        if isinstance(event, wire.EndOfMessage):
            await self._end(event, writer)
            return
        self._note(event)
        if isinstance(event, wire.Negotiate):
            writer.write(self._wire.negotiate())
            self._collector.leading_space = self._wire.leading_space
        elif self._wire.reply_due:
            writer.write(self._wire.reply(wire.Continue()))

    def _note(self, event: wire.CommandMessage) -> None:
        collector = self._collector
        match event:
            case wire.Macros(command, values):
                stage = STAGE_OF_COMMAND.get(command)
                self._macros = self._chosen(stage, values)
            case wire.Connect(host, family, port, address):
                collector.connected(host, family, address, port, self._taken_macros())
            case wire.Helo(name):
                collector.helo(name, self._taken_macros())
            case wire.MailFrom(address, args):
                collector.sender(address, args, self._taken_macros())
            case wire.RcptTo(address, args):
                collector.recipient(address, args)
            case wire.Header(name, value):
                collector.header(name, value)
            case wire.BodyChunk(octets):
                collector.body(octets)
            case wire.Abort() | wire.QuitNewConnection():
                collector.forget()
                self._on_idle()
            case _:
                pass

    def _chosen(
        self, stage: Stage | None, values: tuple[tuple[bytes, bytes], ...]
    ) -> dict[str, bytes]:
        """Those of the macros that the negotiation asked for; an MTA may send more."""
        names = negotiation.macro_names(stage) if stage is not None else frozenset()
        return {name: value for name, value in plain_macros(values).items() if name in names}

    def _taken_macros(self) -> dict[str, bytes]:
        """The macros that came before this event; each packet goes with one event."""
        macros, self._macros = self._macros, {}
        return macros

    async def _end(self, event: wire.EndOfMessage, writer: asyncio.StreamWriter) -> None:
        collector, judge, started = self._collector, self._judge, self._around.clock()
        if event.octets:
            collector.body(event.octets)
        collector.macros(self._taken_macros())
        mail = judge.collected(collector)
        decision = mail if isinstance(mail, Decision) else await self._judged(mail)
        decision = await self._say(decision, writer)
        judge.record(decision, collector.client, collector.queue_id, started)
        async with asyncio.timeout(judge.options.idle_timeout):
            await writer.drain()
        collector.forget()  # only now is the message over: see `busy`
        self._on_idle()

    async def _judged(self, mail: Mail) -> Decision:
        if self._pool is None:
            return self._judge.judge(mail)
        decision = self._judge.at_once(mail)
        if decision is not None:
            return decision
        work = asyncio.get_running_loop().run_in_executor(self._pool, self._judge.judge, mail)
        try:
            async with asyncio.timeout(self._judge.options.judge_time):
                return await asyncio.shield(work)
        except TimeoutError:  # the thread goes on; nobody can end it but with its process
            return self._judge.late(mail)

    async def _say(self, decision: Decision, writer: asyncio.StreamWriter) -> Decision:
        """Send what answers a message; the decision that was made in the end."""
        leading_space, judge = self._wire.leading_space, self._judge
        agreed, direction = self._wire.agreed_actions, self._collector.direction
        decision = judge.sayable(decision, agreed, direction, leading_space=leading_space)
        edits = emit.said_edits(judge.said(decision))
        try:
            for edit in emit.edit_replies(edits, leading_space=leading_space):
                writer.write(self._wire.reply(edit))
                await writer.drain()
        except OSError as error:  # a spooled body that cannot be read back
            if isinstance(error, ConnectionError):
                raise
            decision = judge.failure("emit", error)
        writer.write(self._wire.reply(emit.final_reply(judge.said(decision))))
        return decision
