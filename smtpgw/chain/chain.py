"""Ask each milter in turn, as Postfix's smtpd and cleanup do.

A Chain is one SMTP session's view of its milters.  At each stage the milters are
asked in the configured order until one refuses; each sees the message as those
before it left it.  A milter's edits are applied all together once its verdict is
in, or not at all.  What a milter does wrong never raises: it is the milter's
failure action that answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import monotonic

from milterd.core.decision import Reason, Reply, Verdict
from milterd.core.finding import Found
from milterd.core.mail import Client, Direction, Mail, Session
from milterd.wire import messages as wire
from smtpgw.chain.events import Event, Said
from smtpgw.chain.health import Health
from smtpgw.chain.inside import InsideMember
from smtpgw.chain.macros import client_facts, recipient_facts, sender_facts
from smtpgw.chain.member import PUT_OFF, Member
from smtpgw.chain.opening import open_all
from smtpgw.chain.options import EditLimits, MilterOptions
from smtpgw.chain.passage import Passage
from smtpgw.chain.results import ChainResult, StageResult
from smtpgw.chain.shared import GO_ON, Log, Observer, SessionFacts, Shared, both, merge, wire_limits

_USUAL = EditLimits()
NOTHING: Mapping[str, bytes] = {}


def _unobserved(_milter: str, _stage: str, _seconds: float, _outcome: str) -> None:
    """For those who keep no metrics."""


def concerned(milters: Sequence[MilterOptions], listener: str) -> list[MilterOptions]:
    """Those that see what comes in by this listener."""
    return [each for each in milters if not each.listeners or listener in each.listeners]


class Chain:
    """The milters of one SMTP session.

    `milters` are asked in this order, those of other listeners left out.
    `macros` are the facts of the gateway and the listener, names without braces
    (`j`, `v`, `daemon_name`, `daemon_addr`).  `health` is to be shared by the
    sessions of a process.  `log` is bound by the caller to session and listener.
    `clock` gives seconds and only measures.  Of a mail that a postmaster released,
    `passing` are the findings that do not count.  One method
    runs at a time; others wait for it.
    """

    def __init__(
        self,
        milters: Sequence[MilterOptions],
        *,
        log: Log,
        listener: str = "",
        macros: Mapping[str, bytes] = NOTHING,
        limits: EditLimits | None = None,
        health: Health | None = None,
        clock: Callable[[], float] = monotonic,
        observe: Observer = _unobserved,
        passing: Iterable[Found] = (),
    ) -> None:
        known = dict(macros)
        self._facts = SessionFacts(_connect(Client(), known), macros=known)
        limits = limits or _USUAL
        shared = Shared(
            facts=self._facts,
            limits=limits,
            wire_limits=wire_limits(limits),
            health=health or Health(clock),
            log=log,
            clock=clock,
            observe=observe,
            passing=frozenset(passing),
        )
        self._listener = listener
        self._shared = shared
        self._milters = concerned(milters, listener)
        self._row: list[Member | InsideMember] = []
        self._members: list[Member] = []
        self._passed: list[Member | InsideMember] = []
        self._log = log
        self._direction = Direction.INBOUND
        self._transaction: dict[str, bytes] = {}
        self._quarantine: bytes | None = None
        self._found: tuple[Found, ...] = ()
        self._discarded: tuple[Reason, ...] = ()
        self._said: Said | None = None
        self._lock = asyncio.Lock()
        self._serving: list[Member] = []
        self._begun = False

    async def connect(self, session: Session) -> StageResult:
        """The client connected; milters are reached at once and asked in order.

        `session.macros` are what is known of the client (`client_ptr`,
        `client_connections`) and, from HELO on, of TLS and authentication.
        """
        if not self._milters:
            return GO_ON
        async with self._lock:
            self._serve(session.direction)
            self._learn(client_facts(session.client, session.macros))
            if not self._members:
                return GO_ON
            event = self._facts.connect = _connect(session.client, self._facts.macros)
            await self._open()
            return await self._told(event)

    async def helo(self, name: bytes, macros: Mapping[str, bytes] = NOTHING) -> StageResult:
        """HELO or EHLO, as often as the client sends it; `macros` hold the TLS facts."""
        if not self._milters:
            return GO_ON
        async with self._lock:
            self._serve(self._direction)
            self._learn(macros)
            if not self._members:
                return GO_ON
            event = self._facts.helo = Event("helo", wire.Helo(name), self._facts.macros)
            return await self._told(event)

    async def mail(
        self,
        sender: bytes,
        args: Sequence[bytes] = (),
        macros: Mapping[str, bytes] = NOTHING,
        *,
        direction: Direction | None = None,
    ) -> StageResult:
        """MAIL; the sender without brackets, the ESMTP parameters as sent.

        `macros` hold `i` where the queue id is known, and the auth_ facts.  A
        `direction` other than the session's stands from here on: a milter that
        serves it and has not been asked yet is told of connection and HELO first.
        """
        if not self._milters:
            return GO_ON
        async with self._lock:
            self._end()
            self._serve(self._direction if direction is None else direction)
            self._begun = True
            self._transaction = sender_facts(sender, macros)
            if not self._serving:
                return GO_ON
            await self._open()
            event = self._event("mail", wire.MailFrom(_path(sender), tuple(args)), {})
            result = self._remember(await self._told(event))
            if result.refused:
                self._end()
            return result

    def mail_now(
        self,
        sender: bytes,
        args: Sequence[bytes],
        macros: Mapping[str, bytes],
        direction: Direction,
    ) -> bool:
        """As :meth:`mail` where no milter has to be waited for; if one has, nobody was told."""
        if not self._milters:
            return True
        if self._lock.locked():
            return False
        self._end()
        self._serve(direction)
        self._begun = True
        self._transaction = sender_facts(sender, macros)
        return not self._serving or self._put_off_session(
            self._event("mail", wire.MailFrom(_path(sender), tuple(args)), {})
        )

    def rcpt_now(self, address: bytes, args: Sequence[bytes], macros: Mapping[str, bytes]) -> bool:
        """As :meth:`rcpt`, in the same way."""
        if not self._serving:
            return True
        command = wire.RcptTo(_path(address), tuple(args))
        return self._put_off("rcpt", command, recipient_facts(address, macros))

    def data_now(self) -> bool:
        """As :meth:`data`, in the same way."""
        return not self._serving or self._put_off("data", wire.Data(), {})

    async def rcpt(
        self, address: bytes, args: Sequence[bytes] = (), macros: Mapping[str, bytes] = NOTHING
    ) -> StageResult:
        """RCPT; a refusal is of this recipient only."""
        if not self._serving:
            return GO_ON
        facts = recipient_facts(address, macros)
        return await self._stage("rcpt", wire.RcptTo(_path(address), tuple(args)), facts)

    async def rcpt_rejected(
        self, address: bytes, args: Sequence[bytes] = (), reply: Reply | None = None
    ) -> None:
        """Tell the milters that asked for it of a recipient we refused ourselves.

        As in Postfix, {rcpt_mailer} is then `error` and the other two hold the
        status code and the text; what the milters answer changes nothing.
        """
        async with self._lock:
            if self._discarded:
                return
            facts = {"rcpt_mailer": b"error", "rcpt_addr": address}
            if reply is not None:
                facts["rcpt_host"] = reply.enhanced.encode()
                facts["rcpt_addr"] = reply.text.encode()
            event = self._event("rcpt", wire.RcptTo(_path(address), tuple(args)), facts)
            for member in self._serving:
                if member.hears_rejected and not member.put_off(event):
                    await member.ask(event)

    async def data(self) -> StageResult:
        """DATA, or the first BDAT."""
        if not self._serving:
            return GO_ON
        return await self._stage("data", wire.Data(), {})

    async def unknown(self, line: bytes) -> StageResult:
        """A command line that SMTP does not know."""
        async with self._lock:
            self._serve(self._direction)
            self._begun = True  # a milter may answer as it does to a mail
            event = Event("unknown", wire.Unknown(line), self._facts.macros)
            return await self._each(event)

    async def message(self, mail: Mail, queue_id: str) -> ChainResult:
        """The whole message; ends the transaction whatever comes of it.

        `mail.envelope` holds the accepted recipients only.
        """
        if not self._milters:
            return ChainResult(mail)
        async with self._lock:
            try:
                return await self._message(mail, {**self._transaction, "i": queue_id.encode()})
            finally:
                self._end()

    async def abort(self) -> None:
        """RSET, a new HELO, or the end of a refused transaction."""
        if not self._milters:
            return
        async with self._lock:
            self._end()

    async def close(self) -> None:
        """The session is over."""
        async with self._lock:
            self._end()
            for member in self._row:
                member.close()

    def close_now(self) -> bool:
        """As :meth:`close`, where no milter has to be told and nothing is under way; False where
        nothing has happened."""
        if self._members or self._begun or self._lock.locked():
            return False
        for each in self._row:
            each.close()
        return True

    def _learn(self, macros: Mapping[str, bytes]) -> None:
        """Facts of the session; events keep those they were made with."""
        if macros:
            self._facts.macros = {**self._facts.macros, **macros}

    def _serve(self, direction: Direction) -> None:
        """Whose mail it is decides who is asked."""
        if self._row and direction is self._direction:
            return
        if self._row:
            Member.tell_apart(self._members)
        else:
            self._row = [self._member(each) for each in self._milters]
            self._members = [each for each in self._row if isinstance(each, Member)]
        self._direction, self._said = direction, None
        self._passed = [each for each in self._row if direction in each.options.directions]
        self._serving = [each for each in self._passed if isinstance(each, Member)]

    def _member(self, options: MilterOptions) -> Member | InsideMember:
        if options.inside is not None:
            return InsideMember(options, options.inside, self._shared)
        return Member(options, self._shared)

    async def _open(self) -> None:
        """Reach those that are not connected yet, all at the same time."""
        await open_all(self._serving)

    def _event(self, stage: str, command: wire.CommandMessage, facts: Mapping[str, bytes]) -> Event:
        """An event of the transaction."""
        return Event(stage, command, self._facts.macros, self._transaction, facts)

    async def _stage(
        self, stage: str, command: wire.CommandMessage, facts: Mapping[str, bytes]
    ) -> StageResult:
        """An event between MAIL and the content."""
        if self._put_off(stage, command, facts):
            return GO_ON
        async with self._lock:
            if self._discarded:
                return GO_ON
            return self._remember(await self._each(self._event(stage, command, facts)))

    def _put_off(
        self, stage: str, command: wire.CommandMessage, facts: Mapping[str, bytes]
    ) -> bool:
        """Tell all milters later, which is all they want; whether it will do."""
        if self._lock.locked() or self._discarded:
            return False
        event, said = self._event(stage, command, facts), self._said
        if said is not None and said.whole and len(said.events) < PUT_OFF:
            said.events.append(event)
            return True
        return Member.put_off_all(self._serving, event)

    async def _told(self, event: Event) -> StageResult:
        """CONNECT, HELO or MAIL."""
        return GO_ON if self._put_off_session(event) else await self._each(event)

    def _put_off_session(self, event: Event) -> bool:
        """Tell all milters of it later; whether it will do."""
        self._said = Member.put_off_session(self._serving, event, self._said)
        return self._said is not None

    async def _each(self, event: Event) -> StageResult:
        """Ask in order; the first that does not let the mail go on decides."""
        total = GO_ON
        for member in self._serving:
            if member.put_off(event):
                continue
            total = merge(total, await member.ask(event))
            if total.verdict is not Verdict.CONTINUE:
                break
        return total

    def _remember(self, result: StageResult) -> StageResult:
        """Keep what a stage says of the whole transaction."""
        if result.quarantine is not None:
            self._quarantine = result.quarantine
            self._found = both(self._found, result.found)
        if result.verdict is Verdict.DISCARD:
            self._discarded = result.reasons
        return result

    def _end(self) -> None:
        """ABORT to all that took part, and forget the transaction, if there was anything."""
        if not self._begun:
            return
        self._begun = False
        Member.abort_all(self._members)
        if len(self._members) < len(self._row):
            for each in self._row:
                if isinstance(each, InsideMember):
                    each.over()
        self._transaction, self._quarantine, self._discarded = {}, None, ()
        self._found = ()
        if self._said is not None and not self._said.whole:
            self._said = None

    async def _message(self, mail: Mail, facts: Mapping[str, bytes]) -> ChainResult:
        if self._discarded:
            return ChainResult(mail, Verdict.DISCARD, reasons=self._discarded)
        before = StageResult(quarantine=self._quarantine, found=self._found)
        passage = Passage(self._passed, mail, {**self._facts.macros, **facts}, before, self._log)
        return await passage.run()


def _connect(client: Client, macros: Mapping[str, bytes]) -> Event:
    command = wire.Connect(client.name, client.family, client.port, client.address)
    return Event("connect", command, dict(macros))


def _path(address: bytes) -> bytes:
    return b"<%b>" % address
