"""The host on Sendmail's libmilter, by pymilter's low-level module `milter`.

One filter a process: libmilter's state is global, and a second `milter.main` fails.

**The socket.**  libmilter insists on opening its socket itself.  We let it open one on
a private scratch address of the same family, find that descriptor, and dup2 our own
listening socket over it; then the scratch address is removed.  So the supervisor owns
all sockets: their modes, stale ones, LISTEN_FDS, several processes on one socket, and a
socket that outlives a crashed process.  The families must agree: libmilter checks the
peer address of an accepted connection against the family it was configured with.

**Stopping.**  libmilter's own answer to SIGTERM takes about 4.6 s and tells open sessions
nothing.  It runs in a thread here, so that signals reach Python's main thread; to stop,
a dead socket is put over the listening descriptor, messages in progress are awaited,
and the caller ends the process, threads and all (`os._exit`).

**Threads.**  Callbacks of one connection come one after the other, but on any thread.
The context object therefore holds only a :class:`_Connection`, bound to no thread.

**Clients on one connection.**  At QUIT_NC, which Postfix and Sendmail never send, pymilter
forgets its context, and CONNECT comes next with a new one but no negotiation.  libmilter has
no function that tells what is agreed: the next client is taken to have what the last
negotiation agreed to.  libmilter itself still refuses an edit that this connection may not make.

**Macros.**  libmilter keeps those of MAIL until others come for that stage.  Postfix and
Sendmail send some with every MAIL, so that none outlives its message.

**Text.**  pymilter hands over octets where we need them, but HELO, host name and header
names as UTF-8: octets that are not make the callback fail before it reaches us, which
`sys.excepthook` logs; the policy CONTINUE keeps the session alive.  Edits go the other
way as UTF-8 only: others are :class:`~milterd.host.emit.UnsayableError`, never altered.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import milter

from milterd.core.decision import Decision, Verdict
from milterd.core.mail import Family
from milterd.host import calls, descriptors, emit, negotiation
from milterd.host.collect import Collector
from milterd.host.judge import Judge, Surroundings
from milterd.wire.constants import Actions, Protocol, Stage

_SILENT = int(
    Protocol.NR_CONN
    | Protocol.NR_HELO
    | Protocol.NR_MAIL
    | Protocol.NR_RCPT
    | Protocol.NR_HDR
    | Protocol.NR_BODY
)
SETTLING = 0.25
"""Seconds from the end of the last message's callback to an exit: libmilter writes the
final reply after the callback has returned, and tells nobody when that is done."""

_RETURN_CODES = {
    Verdict.CONTINUE: milter.CONTINUE,
    Verdict.ACCEPT: milter.ACCEPT,
    Verdict.REJECT: milter.REJECT,
    Verdict.TEMPFAIL: milter.TEMPFAIL,
    Verdict.DISCARD: milter.DISCARD,
}
_FAMILIES = {
    socket.AF_INET: Family.INET,
    socket.AF_INET6: Family.INET6,
    socket.AF_UNIX: Family.UNIX,
}


class _Connection:
    """What we keep in libmilter's context: one MTA connection."""

    def __init__(self, collector: Collector, agreed: tuple[Actions, Protocol]) -> None:
        self.collector = collector
        self.actions, self.protocol = agreed
        collector.leading_space = Protocol.HDR_LEADSPC in self.protocol
        self.silent = int(self.protocol) & _SILENT
        """The callbacks to which no reply is given, as bits of the protocol."""
        self.usual: Decision | None = None
        """What was said last, where a filter may give the same object again; said by `calls`."""
        self.calls: tuple[calls.Call, ...] = ()


class LibmilterHost:
    """See :class:`milterd.host.seam.Host`; one a process."""

    def __init__(self, judge: Judge, listener: socket.socket, around: Surroundings) -> None:
        self._judge = judge
        self._listener = listener
        self._around = around
        self._actions = negotiation.actions(judge.needs)
        self._protocol = negotiation.protocol(judge.needs)
        self._agreed = Actions(0), Protocol(0)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._connections: set[_Connection] = set()
        self._busy: set[_Connection] = set()
        self._settled_at = 0.0
        self._stop: tuple[float, bool] | None = None
        self._descriptor = -1
        self._address: object = None
        self._may_begin = threading.Event()
        self._ended = False

    # --- the seam -------------------------------------------------------------------

    def serve(self) -> None:
        self._register()
        self._take_socket()
        threading.Thread(target=self._main, name="libmilter", daemon=True).start()
        self._may_begin.set()
        with self._changed:
            while self._stop is None:
                self._changed.wait(0.5)  # signal handlers run between two waits
        if not self._ended:
            self._leave_socket()
            self._drain()

    def stop(self, grace: float, *, sessions: bool = False) -> None:
        with self._changed:  # an RLock: the handler may have interrupted its owner
            self._stop = (grace, sessions)
            self._changed.notify_all()

    def _main(self) -> None:
        """libmilter's own loop.  It ends by itself only when it cannot go on."""
        # The C library blocks all signals in a thread while it makes another.  Until the
        # main thread is out of that, a SIGTERM would go to libmilter's signal thread.
        self._may_begin.wait()
        try:
            milter.main()
        except milter.error:
            self._around.log.exception("libmilter ended", filter=self._judge.filter.name)
        self._ended = True
        self.stop(0.0)

    def _drain(self) -> None:
        """Wait for what :meth:`stop` said, which a second call may shorten."""
        asked: tuple[float, bool] | None = None
        deadline = 0.0
        with self._changed:
            while self._stop is not None:
                if self._stop is not asked:
                    asked = self._stop
                    deadline = self._around.clock() + asked[0]
                now = self._around.clock()
                waited_for: Collection[object] = self._busy
                if asked[1]:
                    waited_for = self._connections or descriptors.accepted(self._address)
                until = deadline if waited_for else min(deadline, self._settled_at)
                if now >= until:
                    return
                self._changed.wait(min(until - now, 0.5))

    # --- the socket -----------------------------------------------------------------

    def _take_socket(self) -> None:
        """Put our listening socket in the place of the one libmilter opens."""
        self._listener.setblocking(False)  # siblings may win the race for a connection
        with tempfile.TemporaryDirectory(prefix="milterd-") as scratch:
            milter.setconn(descriptors.scratch_address(self._listener.family, scratch))
            before = descriptors.open_sockets()
            milter.opensocket(False)
            opened = descriptors.open_sockets() - before
            with contextlib.suppress(FileNotFoundError):
                (Path(scratch) / "s").unlink()
        if len(opened) != 1:
            raise RuntimeError(f"libmilter opened {len(opened)} sockets where one was expected")
        self._descriptor = opened.pop()[0]
        self._address = self._listener.getsockname()
        os.dup2(self._listener.fileno(), self._descriptor, inheritable=False)
        self._listener.close()

    def _leave_socket(self) -> None:
        """Stop accepting: put a socket nobody connects to over the listening one."""
        dead = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        dead.setblocking(False)
        dead.bind(b"")  # Linux gives it an abstract name of its own, see unix(7)
        dead.listen(1)
        os.dup2(dead.fileno(), self._descriptor, inheritable=False)
        dead.close()

    # --- callbacks ------------------------------------------------------------------

    def _register(self) -> None:
        sys.excepthook = self._lost_callback
        milter.set_exception_policy(milter.CONTINUE)
        milter.set_flags(int(self._actions))
        milter.settimeout(int(self._judge.options.idle_timeout))
        milter.set_connect_callback(self._callback(self._on_connect, Protocol.NR_CONN))
        milter.set_helo_callback(self._callback(self._on_helo, Protocol.NR_HELO))
        milter.set_envfrom_callback(self._callback(self._on_sender, Protocol.NR_MAIL))
        milter.set_envrcpt_callback(self._callback(self._on_recipient, Protocol.NR_RCPT))
        milter.set_header_callback(self._header_callback())
        milter.set_body_callback(self._callback(self._on_body, Protocol.NR_BODY))
        milter.set_eom_callback(self._on_end)
        milter.set_abort_callback(self._callback(self._on_abort, Protocol(0)))
        milter.set_close_callback(self._on_close)
        milter.register(self._judge.filter.name, negotiate=self._on_negotiate)

    def _callback(self, take: Callable[..., None], no_reply: Protocol) -> Callable[..., int]:
        """A callback that keeps its failure for the end of the message."""
        bit, silent, loud = int(no_reply), int(milter.NOREPLY), int(milter.CONTINUE)

        def callback(context: Any, *values: Any) -> int:
            connection = context.getpriv() or self._connection(context)
            try:
                take(connection, context, *values)
            except Exception as error:  # noqa: BLE001  # nothing may be raised into libmilter
                connection.collector.fail(error)
            return silent if bit & connection.silent else loud

        return callback

    def _header_callback(self) -> Callable[..., int]:
        """The one that is called most: as the others, in fewer steps."""
        bit, silent, loud = int(Protocol.NR_HDR), int(milter.NOREPLY), int(milter.CONTINUE)

        def callback(context: Any, name: str, value: bytes) -> int:
            connection = context.getpriv() or self._connection(context)
            collector = connection.collector
            try:
                collector.header(name.encode(), value)
            except Exception as error:  # noqa: BLE001  # nothing may be raised into libmilter
                collector.fail(error)
            return silent if bit & connection.silent else loud

        return callback

    def _connection(self, context: Any) -> _Connection:
        """The connection of a context; a context is new, and not negotiated, after QUIT_NC."""
        connection = context.getpriv()
        if isinstance(connection, _Connection):
            return connection
        return self._connected(context, self._agreed)

    def _connected(self, context: Any, agreed: tuple[Actions, Protocol]) -> _Connection:
        connection = _Connection(Collector(self._judge.options, self._judge.memory), agreed)
        context.setpriv(connection)
        with self._changed:
            self._connections.add(connection)
        return connection

    def _on_negotiate(self, context: Any, options: list[int]) -> int:
        actions = self._actions & Actions(options[0])
        protocol = self._protocol & Protocol(options[1])
        self._agreed = actions, protocol
        self._connected(context, self._agreed)
        options[:] = [int(actions), int(protocol), 0, 0]
        if Actions.SETSYMLIST in actions:
            for stage, names in negotiation.MACROS.items():
                context.setsymlist(int(stage), " ".join(names))
        return int(milter.CONTINUE)

    def _on_connect(
        self, connection: _Connection, context: Any, name: str, family: int, address: Any
    ) -> None:
        host, port = _host_and_port(address)
        kind = _FAMILIES.get(socket.AddressFamily(family), Family.UNKNOWN) if family else None
        connection.collector.connected(
            name.encode(), kind or Family.UNKNOWN, host, port, _macros(context, Stage.CONNECT)
        )

    def _on_helo(self, connection: _Connection, context: Any, name: str) -> None:
        connection.collector.helo(name.encode(), _macros(context, Stage.HELO))

    def _on_sender(self, connection: _Connection, context: Any, *argv: bytes) -> None:
        self._busy.add(connection)
        macros = _macros(context, Stage.MAIL)
        connection.collector.sender(argv[0], tuple(argv[1:]), macros)

    def _on_recipient(self, connection: _Connection, _context: Any, *argv: bytes) -> None:
        connection.collector.recipient(argv[0], tuple(argv[1:]))

    def _on_body(self, connection: _Connection, _context: Any, octets: bytes) -> None:
        connection.collector.body(octets)

    def _on_abort(self, connection: _Connection, _context: Any) -> None:
        connection.collector.forget()
        self._idle(connection)

    def _on_close(self, context: Any) -> int:
        connection = context.getpriv()
        context.setpriv(None)
        if isinstance(connection, _Connection):
            connection.collector.forget()
            with self._changed:
                self._connections.discard(connection)
            self._idle(connection)
        return int(milter.CONTINUE)

    def _idle(self, connection: _Connection) -> None:
        self._busy.discard(connection)
        self._settled_at = self._around.clock() + SETTLING
        # Nobody else is woken by every mail; who stops us looks at the busy ones after this is set.
        if self._stop is not None:
            with self._changed:
                self._changed.notify_all()

    # --- the end of a message -------------------------------------------------------

    def _on_end(self, context: Any) -> int:
        connection, started = self._connection(context), self._around.clock()
        judge, collector = self._judge, connection.collector
        try:
            collector.macros(_macros(context, Stage.END_OF_MESSAGE))
            mail = judge.collected(collector)
            decision = mail if isinstance(mail, Decision) else judge.judge(mail)
            decision = self._say(connection, context, decision)
            judge.record(decision, collector.client, collector.queue_id, started)
            return int(_RETURN_CODES[judge.said(decision).verdict])
        except Exception as error:  # noqa: BLE001  # nothing may be raised into libmilter
            judge.failure("host", error)
            return int(milter.TEMPFAIL)
        finally:
            collector.forget()
            self._idle(connection)

    def _say(self, connection: _Connection, context: Any, decision: Decision) -> Decision:
        """Make the calls of a decision; the decision that was made in the end."""
        if decision is not connection.usual:
            return self._say_anew(connection, context, decision)
        try:
            for method, words in connection.calls:
                getattr(context, method)(*words)
        except Exception as error:  # noqa: BLE001  # answered as our failure, with a trace id
            return self._reply(context, self._judge.failure("emit", error))
        return decision

    def _say_anew(self, connection: _Connection, context: Any, asked: Decision) -> Decision:
        judge, leading_space = self._judge, connection.collector.leading_space
        direction = connection.collector.direction
        decision = judge.sayable(asked, connection.actions, direction, leading_space=leading_space)
        made: list[calls.Call] = []
        try:
            calls.check_text(decision)
            edits = emit.said_edits(judge.said(decision))
            keep = decision is asked and emit.all_common(edits)
            for edit in emit.edit_replies(edits, leading_space=leading_space):
                method, words = calls.of(edit)
                getattr(context, method)(*words)
                if keep:
                    made.append((method, words))
        except Exception as error:  # noqa: BLE001  # answered as our failure, with a trace id
            return self._reply(context, judge.failure("emit", error))
        if keep and decision.reply is None:
            connection.usual, connection.calls = decision, tuple(made)
        return self._reply(context, decision)

    def _reply(self, context: Any, decision: Decision) -> Decision:
        """Say the words of a refusal, if it has any."""
        if self._judge.options.shadow:
            return decision
        reply = emit.usable_reply(decision)
        if decision.verdict in (Verdict.REJECT, Verdict.TEMPFAIL) and reply is not None:
            text = emit.reply_text(reply).replace("%", "%%")  # see smfi_setreply
            context.setreply(str(reply.code), reply.enhanced, text)
        return decision

    def _lost_callback(
        self, kind: type[BaseException], error: BaseException, _trace: TracebackType | None
    ) -> None:
        """Where pymilter reports what it could not hand over (and Python its own end)."""
        self._around.meter.failed("protocol")
        self._around.log.error(
            "callback lost", filter=self._judge.filter.name, error=f"{kind.__name__}: {error}"
        )


def _macros(context: Any, stage: Stage) -> Mapping[str, bytes]:
    """The macros of a stage that the MTA has set."""
    found: dict[str, bytes] = {}
    for name, plain in _NAMES[stage]:
        try:
            value = context.getsymval(name)
        except UnicodeDecodeError as error:
            found[plain] = error.object  # the octets pymilter could not decode
        else:
            if value is not None:
                found[plain] = value.encode()
    return found


_NAMES = {
    stage: tuple((name, name.strip("{}")) for name in negotiation.read_macros(stage))
    for stage in Stage
}
"""The macros of each stage, as they are on the wire and without braces."""


def _host_and_port(address: Any) -> tuple[bytes, int]:
    """pymilter's host address: a path, a tuple that begins with address and port, or None."""
    if isinstance(address, str):
        return address.encode(), 0
    return (address[0].encode(), address[1]) if address else (b"", 0)
