"""A filter in the process of an MTA of ours, which asks it without a socket.

It is shown what it would be shown at its socket, and what it says is what would come over it: the
same judge decides, and the same checks stand before its edits.  What a packet cannot carry, such as
white space before a colon or a field of more than 64 kB, it sees here as it is.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

from milterd.core.actions import AddHeader, ChangeHeader, Edit, InsertHeader
from milterd.core.decision import Decision
from milterd.core.filter import Need
from milterd.core.mail import BytesBody, Client, Family, Mail, Session
from milterd.host import emit, negotiation
from milterd.host.collect import direction_of, is_trusted, normal_address
from milterd.host.judge import CallOff, Judge, Later, Surroundings
from milterd.wire.constants import Actions
from milterd.wire.convert import EditCollector
from milterd.wire.messages import FinalReply

Word = tuple[FinalReply, tuple[Edit, ...]]
"""What a filter says to a mail: its last reply, and the edits before it as an MTA hears them."""
Then = Callable[[Word], None]

AT_ONCE = 262_144
"""Octets of the largest body that is judged in the event loop: others wait for it meanwhile."""
_THREADS = 4
"""Threads for larger ones, where a filter has none of its own."""
_EDITING = (
    Need.ADD_HEADERS
    | Need.CHANGE_HEADERS
    | Need.CHANGE_BODY
    | Need.CHANGE_SENDER
    | Need.CHANGE_RECIPIENTS
)
_FIELDS = (AddHeader, InsertHeader, ChangeHeader)
_EMPTY = BytesBody()


class Inside:
    """One filter, for all sessions of an event loop."""

    def __init__(self, judge: Judge, around: Surroundings) -> None:
        threads = judge.options.threads
        self._judge, self._around = judge, around
        self._waits = threads > 0
        self._pool = ThreadPoolExecutor(threads or _THREADS, "judge")
        self._agreed = negotiation.actions(judge.needs)
        # Whoever asks may hold on to it longer than the settings do.
        weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True).atexit = False

    @property
    def edits(self) -> bool:
        """Whether it may change a mail."""
        return bool(self._judge.needs & _EDITING)

    def ask(
        self, mail: Mail, macros: Mapping[str, bytes], then: Then
    ) -> tuple[Word | None, CallOff | None]:
        """What it says to a mail whose fields all are for its eyes; or what calls it off, and
        `then` is called once with that, by the running event loop.  `macros` are the MTA's, by
        name without braces.  Never raises for what a filter does."""
        return _Asking(self._judge, self._around, self._agreed, then).begin(
            self._shown(mail, macros), self._pool, self._waits
        )

    def _shown(self, mail: Mail, macros: Mapping[str, bytes]) -> Mail:
        """The mail as the filter is to see it."""
        needs, options = self._judge.needs, self._judge.options
        told = {name: macros[name] for name in negotiation.all_names() if name in macros}
        client = mail.session.client
        if client.family is Family.INET6:
            client = _plain(client)
        networks = options.trusted_networks
        trusted = functools.partial(is_trusted, client.family, client.address, networks)
        direction = direction_of(options, told, trusted)
        helo = mail.session.helo if Need.HELO in needs else b""
        envelope = mail.envelope
        if Need.RECIPIENTS not in needs and envelope.recipients:
            envelope = type(envelope)(envelope.sender, envelope.sender_args, ())
        return Mail(
            Session(client, helo, direction, told),
            envelope,
            mail.headers if Need.HEADERS in needs else (),
            mail.body if Need.BODY in needs else _EMPTY,
        )


@functools.lru_cache(maxsize=256)
def _plain(client: Client) -> Client:
    """As a milter is told of it."""
    address = normal_address(client.family, client.address)
    family = Family.INET6 if b":" in address else Family.INET
    return Client(client.name, family, address, client.port)


class _Asking:
    """One mail before one filter."""

    __slots__ = ("_agreed", "_around", "_judge", "_mail", "_over", "_started", "_then")

    def __init__(self, judge: Judge, around: Surroundings, agreed: Actions, then: Then) -> None:
        self._judge, self._around, self._agreed, self._then = judge, around, agreed, then
        self._started = around.clock()
        self._over = False

    def begin(
        self, mail: Mail, pool: ThreadPoolExecutor, waits: bool
    ) -> tuple[Word | None, CallOff | None]:
        """See :meth:`Inside.ask`."""
        self._mail, judge = mail, self._judge
        small = mail.body.size <= AT_ONCE
        decision = judge.too_large(mail)
        if decision is None and small:
            decision = judge.at_once(mail) if waits else judge.judge(mail)
        if decision is not None:
            return self._word(decision), None
        call_off = judge.begin(mail, lambda come: self._came(come, pool)) if small else None
        if call_off is None:
            self._in_thread(lambda: judge.judge(mail), pool)
            return None, self._end
        return None, lambda: self._called_off(call_off)

    def _end(self) -> None:
        """Nobody wants to hear it any more; a thread goes on until it is done."""
        self._over = True

    def _called_off(self, call_off: CallOff) -> None:
        self._over = True
        call_off()

    def _came(self, come: Decision | Later, pool: ThreadPoolExecutor) -> None:
        if isinstance(come, Decision):
            self._say(come)
        elif not self._over:
            self._in_thread(come, pool)

    def _in_thread(self, work: Later, pool: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        late: asyncio.TimerHandle | None = None
        doing = loop.run_in_executor(pool, work)
        if self._judge.options.judge_time is not None:
            late = loop.call_later(self._judge.options.judge_time, self._late)

        def done(doing: asyncio.Future[Decision]) -> None:
            if late is not None:
                late.cancel()
            if not doing.cancelled():
                self._say(doing.result())

        doing.add_done_callback(done)

    def _late(self) -> None:
        """The thread goes on; nobody can end it but with its process."""
        self._say(self._judge.late(self._mail))

    def _say(self, decision: Decision) -> None:
        if not self._over:
            self._over = True
            self._then(self._word(decision))

    def _word(self, decision: Decision) -> Word:
        judge, session = self._judge, self._mail.session
        if decision.edits:
            decision = judge.sayable(decision, self._agreed, session.direction, leading_space=True)
        try:
            word = _heard(judge.said(decision))
        except OSError as error:  # a new body that cannot be read back
            decision = judge.failure("emit", error)
            word = _heard(judge.said(decision))
        queue_id = session.macros.get("i", b"").decode("ascii", "replace")
        judge.record(decision, session.client, queue_id, self._started)
        return word


def _heard(said: Decision) -> Word:
    """What an MTA would hear.  Raises OSError."""
    edits = emit.said_edits(said)
    if edits and not all(map(_is_heard_so, edits)):
        collector = EditCollector(leading_space=True)
        for reply in emit.edit_replies(edits, leading_space=True):
            collector.take(reply)
        edits = collector.edits()
    return emit.final_reply(said), edits


def _is_heard_so(edit: Edit) -> bool:
    """Whether it is the same on either side of a socket: line ends become CRLF on the way."""
    if not isinstance(edit, _FIELDS):
        return False
    value = edit.value
    return b"\n" not in value or value.count(b"\n") == value.count(b"\r\n")
