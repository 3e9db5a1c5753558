"""A filter in the process of an MTA of ours, which asks it without a socket.

It is shown what it would be shown at its socket, and what it says is what would come over it: the
same judge decides, and the same checks stand before its edits.  What a packet cannot carry, such as
white space before a colon or a field of more than 64 kB, it sees here as it is.
"""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, BinaryIO, cast

from milterd.base import cores
from milterd.base.one_for import one_for
from milterd.core.actions import AddHeader, ChangeHeader, Edit, InsertHeader
from milterd.core.decision import Decision
from milterd.core.filter import Need
from milterd.core.mail import (
    BytesBody,
    Client,
    Direction,
    Envelope,
    Family,
    FileBody,
    Mail,
    Session,
)
from milterd.host import emit, negotiation
from milterd.host.collect import direction_of, is_trusted, normal_address
from milterd.host.judge import SHOWN, CallOff, Judge, Later, Surroundings, words_of
from milterd.wire.convert import EditCollector
from milterd.wire.errors import PeerError
from milterd.wire.limits import Limits
from milterd.wire.messages import Continue, FinalReply

Word = tuple[FinalReply | None, tuple[Edit, ...], str]
"""What a filter says to a mail: its last reply, the edits before it as an MTA hears them, and
its reasons.  Where an MTA would not understand the edits there is no reply, and a fault for its
reasons."""
Then = Callable[[Word], None]
Pools = tuple[ThreadPoolExecutor, ThreadPoolExecutor]
"""For mails that are small, and for large ones."""
Known = dict[object, Any]
"""What filters have made of a message, for those that see it after them; empty for a new one."""

AT_ONCE = 262_144
"""Octets of the largest body that is judged in the event loop: others wait for it meanwhile."""
LARGE = 4
"""Threads for larger ones, which a filter may have in memory: so many at a time, and no more."""
_EDITING = (
    Need.ADD_HEADERS
    | Need.CHANGE_HEADERS
    | Need.CHANGE_BODY
    | Need.CHANGE_SENDER
    | Need.CHANGE_RECIPIENTS
)
_FIELDS = (AddHeader, InsertHeader, ChangeHeader)
_EMPTY = BytesBody()
_WORDS = 400
"""Characters of a filter's reasons that are told."""
_NO_LIMITS = Limits(edits=sys.maxsize, replaced_body=sys.maxsize)
_HEAD = "octets of the header"
_GO_ON: Word = Continue(), (), ""


class Inside:
    """One filter, for all sessions of an event loop."""

    def __init__(self, judge: Judge, around: Surroundings) -> None:
        threads = judge.options.threads
        self._judge, self._around = judge, around
        self._waits = threads > 0
        self._pools = (
            ThreadPoolExecutor(threads or 1, "judge", initializer=cores.roam),
            ThreadPoolExecutor(LARGE, "judge large", initializer=cores.roam),
        )
        self._agreed = negotiation.actions(judge.needs)
        needs = judge.needs
        self.edits = bool(needs & _EDITING)
        """Whether it may change a mail."""
        self._whole = needs & SHOWN == SHOWN
        self._recipients, self._headers = Need.RECIPIENTS in needs, Need.HEADERS in needs
        self._body, self._helo = Need.BODY in needs, Need.HELO in needs
        networks = judge.options.trusted_networks
        self._trusted = functools.lru_cache(1024)(
            lambda family, address: is_trusted(family, address, networks)
        )
        self._place = one_for(networks, judge.options.daemon_names, self._helo)
        self._usual: tuple[Decision | None, Word] = None, _GO_ON
        # Whoever asks may hold on to it longer than the settings do.
        for each in self._pools:
            weakref.finalize(self, each.shutdown, wait=False, cancel_futures=True).atexit = False

    def ask(
        self, mail: Mail, macros: Mapping[str, bytes], known: Known, then: Then
    ) -> tuple[Word | None, CallOff | None]:
        """What it says to a mail whose fields all are for its eyes; or what calls it off, and
        `then` is called once with that, by the running event loop.  `macros` are the MTA's, by
        name without braces.  Never raises for what a filter does."""
        judge, started = self._judge, self._around.clock()
        mail = self._shown(mail, macros, known)
        small = mail.body.size <= AT_ONCE
        decision = judge.too_large(mail, head := _head_size(mail, known))
        if decision is not None:  # on a socket a line ends in LF alone
            folds = sum([each.value.count(b"\r\n") for each in mail.headers])
            decision = judge.too_large(mail, head - folds)
        if decision is None and small:
            decision = judge.at_once(mail) if self._waits else judge.judge(mail)
        if decision is None:
            try:
                mail = _held(mail)
            except OSError as error:
                decision = judge.failure("spool", error)
        if decision is not None:
            return self.word(mail, decision, started), None
        return None, _Asking(self, judge, mail, then, started).begin(self._pools, small)

    def _shown(self, mail: Mail, macros: Mapping[str, bytes], known: Known) -> Mail:
        """The mail as the filter is to see it."""
        session = known.get(self._place)
        if session is None:
            session = known[self._place] = self._session(mail.session, macros)
        if self._whole:
            return Mail(session, mail.envelope, mail.headers, mail.body)
        envelope = mail.envelope
        if not self._recipients:
            envelope = Envelope(envelope.sender, envelope.sender_args, ())
        headers = mail.headers if self._headers else ()
        return Mail(session, envelope, headers, mail.body if self._body else _EMPTY)

    def _session(self, session: Session, macros: Mapping[str, bytes]) -> Session:
        """What milters know of it."""
        told = {name: macros[name] for name in negotiation.all_names() if name in macros}
        client = session.client
        if client.family is Family.INET6:
            client = _plain(client)
        trusted = functools.partial(self._trusted, client.family, client.address)
        direction = direction_of(self._judge.options, told, trusted)
        return Session(client, session.helo if self._helo else b"", direction, told)

    def word(self, mail: Mail, decision: Decision, started: float) -> Word:
        """What a decision comes to.  It is counted, and told by who asks; but in shadow nobody
        else would tell what it is."""
        judge, session = self._judge, mail.session
        usual, word = self._usual
        if decision is not usual:  # another one than to most mails
            decision, word = self._new_word(decision, session.direction)
            if not decision.edits:
                self._usual = decision, word
        if judge.options.shadow:
            queue_id = session.macros.get("i", b"").decode("ascii", "replace")
            judge.record(decision, session.client, queue_id, started)
        else:
            judge.counted(decision, started)
        return word

    def _new_word(self, decision: Decision, direction: Direction) -> tuple[Decision, Word]:
        judge = self._judge
        if decision.edits:
            decision = judge.sayable(decision, self._agreed, direction, leading_space=True)
        try:
            reply, edits = _heard(judge.said(decision))
        except PeerError as error:  # pieces of one body with something else between them, say
            return decision, (None, (), error.reason)
        except OSError as error:  # a new body that cannot be read back
            decision = judge.failure("emit", error)
            reply, edits = _heard(judge.said(decision))
        words = "in shadow" if judge.options.shadow else words_of(decision)
        return decision, (reply, edits, words[:_WORDS])


def _head_size(mail: Mail, known: Known) -> int:
    """Octets of the header, counted once for all who see the same."""
    headers, size = known.get(_HEAD, (None, 0))
    if headers is not mail.headers:
        size = sum([len(each.name) + len(each.value) + 3 for each in mail.headers])
        known[_HEAD] = mail.headers, size
    return cast(int, size)


@functools.lru_cache(maxsize=256)
def _plain(client: Client) -> Client:
    """As a milter is told of it."""
    address = normal_address(client.family, client.address)
    family = Family.INET6 if b":" in address else Family.INET
    return Client(client.name, family, address, client.port)


class _Held:
    """A file that is open as long as anybody may read it, whoever closes it elsewhere."""

    __slots__ = ("_number",)

    def __init__(self, file: BinaryIO) -> None:
        self._number = os.dup(file.fileno())

    def fileno(self) -> int:
        return self._number

    def __del__(self) -> None:
        if hasattr(self, "_number"):
            os.close(self._number)


def _held(mail: Mail) -> Mail:
    """The mail for those who may read it when its session is over already: otherwise its body's
    descriptor could be another mail's by then.  Raises OSError."""
    body = mail.body
    if not isinstance(body, FileBody):
        return mail
    return replace(mail, body=replace(body, file=cast(BinaryIO, _Held(body.file))))


class _Asking:
    """One mail before a filter that has to be waited for."""

    __slots__ = ("_doing", "_filter", "_judge", "_mail", "_over", "_started", "_then")

    def __init__(
        self, filter_: Inside, judge: Judge, mail: Mail, then: Then, started: float
    ) -> None:
        self._filter, self._judge, self._mail, self._then = filter_, judge, mail, then
        self._started = started
        self._over = False
        self._doing: asyncio.Future[Decision] | None = None

    def begin(self, pools: Pools, small: bool) -> CallOff:
        """Ask; what is returned calls it off."""
        judge, mail = self._judge, self._mail
        pool = pools[0] if small else pools[1]
        call_off = judge.begin(mail, lambda come: self._came(come, pool)) if small else None
        if call_off is None:
            self._in_thread(lambda: judge.judge(mail), pool)
        return lambda: self._called_off(call_off)

    def _called_off(self, call_off: CallOff | None) -> None:
        """Nobody wants to hear it any more.  What waits for a thread gets none; a thread goes on
        until it is done."""
        self._over = True
        if self._doing is not None:
            self._doing.cancel()
        elif call_off is not None:
            call_off()

    def _came(self, come: Decision | Later, pool: ThreadPoolExecutor) -> None:
        if isinstance(come, Decision):
            self._say(come)
        elif not self._over:
            self._in_thread(come, pool)

    def _in_thread(self, work: Later, pool: ThreadPoolExecutor) -> None:
        loop = asyncio.get_running_loop()
        late: asyncio.TimerHandle | None = None
        doing = self._doing = loop.run_in_executor(pool, work)
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
            self._then(self._filter.word(self._mail, decision, self._started))


def _heard(said: Decision) -> tuple[FinalReply, tuple[Edit, ...]]:
    """What an MTA would hear, whose limits are its own.  Raises OSError, and PeerError for what it
    would not understand."""
    edits = emit.said_edits(said)
    if edits and not all(map(_is_heard_so, edits)):
        collector = EditCollector(leading_space=True, limits=_NO_LIMITS)
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
