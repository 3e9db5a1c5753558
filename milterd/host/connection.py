"""One MTA connection of the native host: octets in, a mail to the filter, its answer out.

All events that a read brings are taken at once.  A message is judged before more is read: a slow
filter slows its own connection and nothing else.  An answer is one write, unless it brings a long
body; nothing is read while the MTA does not take what it is sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from milterd.base.alarm import Alarm
from milterd.core.actions import Edit, ReplaceBody
from milterd.core.decision import Decision
from milterd.core.mail import BytesBody, Mail
from milterd.host import emit, negotiation
from milterd.host.collect import Collector
from milterd.host.judge import CallOff, Judge, Later, Surroundings
from milterd.wire import messages as wire
from milterd.wire.constants import STAGE_OF_COMMAND
from milterd.wire.errors import WireError
from milterd.wire.milter import Event, Fields, MilterConnection

_AT_ONCE = 256 * 1024
"""Octets of a new body that are written without waiting for room."""
_CONTINUE = wire.Continue()


def _nothing() -> None:
    """Nobody waits for the end of the connection yet."""


class Connection(asyncio.Protocol):
    """Talks until the MTA closes, breaks the rules, or says nothing for too long.

    `on_idle` is called after each message, `on_end` once, at the end of the connection.
    """

    def __init__(
        self,
        judge: Judge,
        around: Surroundings,
        pool: ThreadPoolExecutor | None,
        on_idle: Callable[[], None],
    ) -> None:
        self.on_end: Callable[[], None] = _nothing
        self._judge, self._around, self._pool, self._on_idle = judge, around, pool, on_idle
        self._collector = Collector(judge.options, judge.memory)
        self._macros: dict[str, bytes] = {}
        self._wire = MilterConnection(
            accept_actions=negotiation.actions(judge.needs),
            accept_protocol=negotiation.protocol(judge.needs),
            macros=negotiation.MACROS,
        )
        self._loop = asyncio.get_running_loop()
        self._alarm = Alarm(self._loop, self._idle)
        self._transport: asyncio.Transport | None = None
        self._work: asyncio.Task[None] | None = None
        self._call_off: CallOff | None = None
        self._usual: tuple[Decision | None, bytes] = None, b""
        self._eof = False
        self._room = asyncio.Event()
        self._room.set()

    @property
    def busy(self) -> bool:
        """Whether a message is in progress, or its answer not all written."""
        if self._collector.in_message:
            return True
        return self._transport is not None and self._transport.get_write_buffer_size() > 0

    @property
    def _working(self) -> bool:
        """Whether a message is being judged, or its answer not all written."""
        return self._work is not None or self._call_off is not None

    def abort(self) -> None:
        """Cut the connection, and whatever is in progress."""
        if self._work is not None:
            self._work.cancel()
        if self._call_off is not None:
            self._call_off()
            self._call_off = None
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio calls these --------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._await_more()

    def data_received(self, data: bytes) -> None:
        if self._call_off is not None:
            self._read(False)  # what comes before the answer waits, but for this
        elif self._work is None:
            self._await_more()
        self._guarded(self._take, data)

    def eof_received(self) -> bool:
        self._eof = True
        if not self._working:
            self._guarded(self._wire.eof)
        # Who has said all may still want to hear the answer.
        return self._working

    def connection_lost(self, _exc: Exception | None) -> None:
        # The MTA is gone, and its message with it: RFC 5321 leaves that to the client.
        self._alarm.close()
        self._room.set()
        self._transport = None
        if not self._working:
            self._collector.forget()
        self.on_end()

    def pause_writing(self) -> None:
        self._room.clear()
        self._read(False)

    def resume_writing(self) -> None:
        self._room.set()
        if not self._working:
            self._read(True)

    def _read(self, wanted: bool) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        if wanted and not self._transport.is_reading():
            self._transport.resume_reading()
        elif not wanted and self._transport.is_reading():
            self._transport.pause_reading()

    def _await_more(self) -> None:
        """The MTA has so long for its next word."""
        self._alarm.set(self._loop.time() + self._judge.options.idle_timeout)

    def _idle(self) -> None:
        self._around.log.info("idle connection closed", filter=self._judge.filter.name)
        self.abort()

    def _guarded(self, step: Callable[..., None], *given: Any) -> None:
        """Whatever goes wrong ends this connection, and no other."""
        try:
            step(*given)
        except WireError as error:
            self._around.meter.failed("protocol")
            self._around.log.warning(
                "milter protocol", filter=self._judge.filter.name, reason=error.reason
            )
            self._hang_up()
        except Exception as error:  # noqa: BLE001  # ours: told as such, with its place
            self._judge.failure("host", error)
            self.abort()

    def _hang_up(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # --- events ---------------------------------------------------------------------

    def _take(self, data: bytes = b"") -> None:
        """Take the events that came, to the first message that has to be waited for."""
        while events := self._wire.receive_runs(data):
            data = b""
            for event in events:
                note = _NOTES.get(type(event))
                if note is not None:
                    note(self, event)
            last = events[-1]  # the only one that may await a reply
            if isinstance(last, wire.Quit):
                self._hang_up()
                return
            if not self._wire.reply_due or not self._replied(last) or not self._wire.buffered:
                return

    def _replied(self, event: Event) -> bool:
        """Answer an event that awaits it; whether that was done at once."""
        if isinstance(event, wire.EndOfMessage):
            return self._end(event)
        if isinstance(event, wire.Negotiate):
            self._write(self._wire.negotiate())
            self._collector.leading_space = self._wire.leading_space
        else:
            self._write(self._wire.reply(_CONTINUE))
        return True

    def _write(self, octets: bytes) -> None:
        if self._transport is not None:
            self._transport.write(octets)

    def _note_macros(self, event: wire.Macros) -> None:
        """Those of the macros that the negotiation asked for; an MTA may send more."""
        names = negotiation.macro_names(STAGE_OF_COMMAND.get(event.command))
        self._macros = {
            names[name]: value
            for each, value in event.values
            if (name := each.strip(b"{}")) in names
        }

    def _note_connect(self, event: wire.Connect) -> None:
        macros = self._taken_macros()
        self._collector.connected(event.host, event.family, event.address, event.port, macros)

    def _note_helo(self, event: wire.Helo) -> None:
        self._collector.helo(event.name, self._taken_macros())

    def _note_sender(self, event: wire.MailFrom) -> None:
        self._collector.sender(event.address, event.args, self._taken_macros())

    def _note_recipient(self, event: wire.RcptTo) -> None:
        self._collector.recipient(event.address, event.args)

    def _note_fields(self, event: Fields) -> None:
        self._collector.headers(event.pairs)

    def _note_body(self, event: wire.BodyChunk) -> None:
        self._collector.body(event.octets)

    def _note_over(self, _event: wire.Abort | wire.QuitNewConnection) -> None:
        self._collector.forget()
        self._on_idle()

    def _taken_macros(self) -> dict[str, bytes]:
        """The macros that came before this event; each packet goes with one event."""
        macros, self._macros = self._macros, {}
        return macros

    # --- the end of a message -------------------------------------------------------

    def _end(self, event: wire.EndOfMessage) -> bool:
        """Judge and answer a message; whether that was done at once."""
        collector, judge, started = self._collector, self._judge, self._around.clock()
        if event.octets:
            collector.body(event.octets)
        collector.macros(self._taken_macros())
        mail = judge.collected(collector)
        decision = self._at_once(mail)
        if decision is not None:
            return self._concluded(mail, decision, started)
        if isinstance(mail, Mail):  # as it is where there is no decision
            self._call_off = judge.begin(mail, lambda come: self._came(mail, come, started))
            if self._call_off is not None:
                self._alarm.clear()
                return False
        self._wait_for(mail, self._judge.judge, None, started)
        return False

    def _concluded(self, mail: Mail | Decision, decision: Decision, started: float) -> bool:
        """Answer a message; whether that was done at once."""
        usual, octets = self._usual
        if decision is usual:  # the very one: what it comes to on this connection is known
            self._wire.reply(emit.final_reply(self._judge.said(decision)))
        else:
            decision = self._sayable(decision)
            said = self._judge.said(decision)
            if not _small(said):
                self._wait_for(mail, None, decision, started)
                return False
            octets = self._wire.reply(*self._edits(said), emit.final_reply(said))
            if emit.all_common(said.edits):
                self._usual = decision, octets
        self._write(octets)
        self._over(decision, started)
        return True

    def _came(self, mail: Mail, come: Decision | Later, started: float) -> None:
        """What was begun has come to an end: answer, or go on in a thread."""
        self._call_off = None
        self._guarded(self._go_on, mail, come, started)

    def _go_on(self, mail: Mail, come: Decision | Later, started: float) -> None:
        if not isinstance(come, Decision):
            self._wait_for(mail, lambda _: come(), None, started)
        elif self._concluded(mail, come, started) and self._transport is not None:
            self._resume()

    def _wait_for(
        self,
        mail: Mail | Decision,
        judge: Callable[[Mail], Decision] | None,
        decision: Decision | None,
        started: float,
    ) -> None:
        self._alarm.clear()
        self._read(False)
        self._work = asyncio.create_task(self._waited_for(mail, judge, decision, started))
        self._work.add_done_callback(self._worked)

    def _at_once(self, mail: Mail | Decision) -> Decision | None:
        if isinstance(mail, Decision):
            return mail
        return self._judge.judge(mail) if self._pool is None else self._judge.at_once(mail)

    async def _waited_for(
        self,
        mail: Mail | Decision,
        judge: Callable[[Mail], Decision] | None,
        decision: Decision | None,
        started: float,
    ) -> None:
        """The same for a filter that takes its time, and for a long answer."""
        if judge is not None and isinstance(mail, Mail):
            decision = self._sayable(await self._judged(mail, judge))
        if decision is None:
            return
        try:
            for octets in self._answer(decision):
                self._write(octets)
                async with asyncio.timeout(self._judge.options.idle_timeout):
                    await self._room.wait()
        except TimeoutError:
            self._idle()
        except OSError as error:  # a spooled body that cannot be read back
            decision = self._judge.failure("emit", error)
            self._write(self._wire.reply(emit.final_reply(self._judge.said(decision))))
        self._over(decision, started)

    def _worked(self, work: asyncio.Task[None]) -> None:
        """Go on with what came meanwhile."""
        self._work = None
        if self._transport is None:
            self._collector.forget()
        elif not work.cancelled():
            self._guarded(work.result)
            self._resume()

    def _resume(self) -> None:
        """Go on with what came while a message was judged."""
        self._await_more()
        if self._wire.buffered:
            self._guarded(self._take)
        if not self._working and self._eof:
            self._hang_up()
        elif not self._working and self._room.is_set():
            self._read(True)

    def _over(self, decision: Decision, started: float) -> None:
        collector = self._collector
        self._judge.record(decision, collector.client, collector.queue_id, started)
        collector.forget()
        self._on_idle()

    async def _judged(self, mail: Mail, judge: Callable[[Mail], Decision]) -> Decision:
        work = self._loop.run_in_executor(self._pool, judge, mail)
        try:
            async with asyncio.timeout(self._judge.options.judge_time):
                return await asyncio.shield(work)
        except TimeoutError:  # the thread goes on; nobody can end it but with its process
            return self._judge.late(mail)

    def _sayable(self, decision: Decision) -> Decision:
        if not decision.edits:
            return decision
        agreed, direction = self._wire.agreed_actions, self._collector.direction
        return self._judge.sayable(
            decision, agreed, direction, leading_space=self._wire.leading_space
        )

    def _answer(self, decision: Decision) -> Iterator[bytes]:
        """The octets that answer a message, edits first.  Raises OSError for a spooled body that
        cannot be read back."""
        said = self._judge.said(decision)
        for each in self._edits(said):
            yield self._wire.reply(each)
        yield self._wire.reply(emit.final_reply(said))

    def _edits(self, said: Decision) -> Iterable[wire.EditReply]:
        edits: tuple[Edit, ...] = emit.said_edits(said)
        return emit.edit_replies(edits, leading_space=self._wire.leading_space)


def _small(said: Decision) -> bool:
    """Whether the answer may be written at once, without reading a file."""
    for each in said.edits:
        if isinstance(each, ReplaceBody):
            body = each.body
            if not isinstance(body, BytesBody) or body.size > _AT_ONCE:
                return False
    return True


_NOTES: dict[type, Callable[[Connection, Any], None]] = {
    wire.Macros: Connection._note_macros,
    wire.Connect: Connection._note_connect,
    wire.Helo: Connection._note_helo,
    wire.MailFrom: Connection._note_sender,
    wire.RcptTo: Connection._note_recipient,
    Fields: Connection._note_fields,
    wire.BodyChunk: Connection._note_body,
    wire.Abort: Connection._note_over,
    wire.QuitNewConnection: Connection._note_over,
}
