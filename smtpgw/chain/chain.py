"""Ask each milter in turn, as Postfix's smtpd and cleanup do.

A Chain is one SMTP session's view of its milters.  At each stage the milters are
asked in the configured order until one refuses; each sees the message as those
before it left it.  A milter's edits are applied all together once its verdict is
in, or not at all.  What a milter does wrong never raises: it is the milter's
failure action that answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from time import monotonic

from milterd.core.actions import Edit
from milterd.core.apply import apply
from milterd.core.decision import Reason, Reply, Verdict
from milterd.core.finding import Found
from milterd.core.mail import Direction, Mail, Session
from smtpgw.chain.health import Health
from smtpgw.chain.macros import client_facts, recipient_facts, sender_facts
from smtpgw.chain.member import Member
from smtpgw.chain.options import EditLimits, MilterOptions
from smtpgw.chain.results import ChainResult, StageResult
from smtpgw.chain.shared import GO_ON, Log, Observer, SessionFacts, Shared

Ask = Callable[[Member], Awaitable[StageResult]]
NOTHING: Mapping[str, bytes] = {}


def _unobserved(_milter: str, _stage: str, _seconds: float, _outcome: str) -> None:
    """For those who keep no metrics."""


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
        self._facts = SessionFacts(macros=dict(macros))
        shared = Shared(
            facts=self._facts,
            limits=limits or EditLimits(),
            health=health or Health(clock),
            log=log,
            clock=clock,
            observe=observe,
            passing=frozenset(passing),
        )
        self._listener = listener
        self._members = [
            Member(each, shared)
            for each in milters
            if not each.listeners or listener in each.listeners
        ]
        self._log = log
        self._direction = Direction.INBOUND
        self._transaction: dict[str, bytes] = {}
        self._quarantine: bytes | None = None
        self._found: tuple[Found, ...] = ()
        self._discarded: tuple[Reason, ...] = ()
        self._lock = asyncio.Lock()

    async def connect(self, session: Session) -> StageResult:
        """The client connected; milters are reached at once and asked in order.

        `session.macros` are what is known of the client (`client_ptr`,
        `client_connections`) and, from HELO on, of TLS and authentication.
        """
        if not self._members:
            return GO_ON
        async with self._lock:
            self._direction = session.direction
            self._facts.client = session.client
            self._facts.macros |= client_facts(session.client, session.macros)
            await asyncio.gather(*(each.open() for each in self._serving()))
            return await self._each(lambda member: member.catch_up(helo=False))

    async def helo(self, name: bytes, macros: Mapping[str, bytes] = NOTHING) -> StageResult:
        """HELO or EHLO, as often as the client sends it; `macros` hold the TLS facts."""
        if not self._members:
            return GO_ON
        async with self._lock:
            self._facts.helo = name
            self._facts.helo_serial += 1
            self._facts.macros |= macros
            return await self._each(lambda member: member.catch_up())

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
        if not self._members:
            return GO_ON
        async with self._lock:
            self._end()
            self._direction = direction or self._direction
            self._transaction = sender_facts(sender, macros)
            parameters, facts = tuple(args), self._transaction
            await asyncio.gather(*(each.open() for each in self._serving()))

            async def ask(member: Member) -> StageResult:
                late = await member.catch_up()
                if late.verdict is not Verdict.CONTINUE:
                    return late
                result = await member.mail(sender, parameters, facts)
                return result if result is late else _merge(late, result)

            result = self._remember(await self._each(ask))
            if result.refused:
                self._end()
            return result

    async def rcpt(
        self, address: bytes, args: Sequence[bytes] = (), macros: Mapping[str, bytes] = NOTHING
    ) -> StageResult:
        """RCPT; a refusal is of this recipient only."""
        if not self._members:
            return GO_ON
        async with self._lock:
            if self._discarded:
                return GO_ON
            facts = {**self._transaction, **recipient_facts(address, macros)}
            parameters = tuple(args)
            return self._remember(
                await self._each(lambda member: member.rcpt(address, parameters, facts))
            )

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
            facts = {**self._transaction, "rcpt_mailer": b"error", "rcpt_addr": address}
            if reply is not None:
                facts["rcpt_host"] = reply.enhanced.encode()
                facts["rcpt_addr"] = reply.text.encode()
            for member in self._serving():
                await member.rcpt_rejected(address, tuple(args), facts)

    async def data(self) -> StageResult:
        """DATA, or the first BDAT."""
        if not self._members:
            return GO_ON
        async with self._lock:
            if self._discarded:
                return GO_ON
            return self._remember(await self._each(lambda member: member.data(self._transaction)))

    async def unknown(self, line: bytes) -> StageResult:
        """A command line that SMTP does not know."""
        async with self._lock:
            return await self._each(lambda member: member.unknown(line))

    async def message(self, mail: Mail, queue_id: str) -> ChainResult:
        """The whole message; ends the transaction whatever comes of it.

        `mail.envelope` holds the accepted recipients only.
        """
        if not self._members:
            return ChainResult(mail)
        async with self._lock:
            try:
                return await self._message(mail, {**self._transaction, "i": queue_id.encode()})
            finally:
                self._end()

    async def abort(self) -> None:
        """RSET, a new HELO, or the end of a refused transaction."""
        if not self._members:
            return
        async with self._lock:
            self._end()

    async def close(self) -> None:
        """The session is over."""
        async with self._lock:
            self._end()
            for member in self._members:
                member.close()

    def _serving(self) -> list[Member]:
        return [each for each in self._members if self._direction in each.options.directions]

    async def _each(self, ask: Ask) -> StageResult:
        """Ask in order; the first that does not let the mail go on decides."""
        total = GO_ON
        for member in self._serving():
            total = _merge(total, await ask(member))
            if total.verdict is not Verdict.CONTINUE:
                break
        return total

    def _remember(self, result: StageResult) -> StageResult:
        """Keep what a stage says of the whole transaction."""
        if result.quarantine is not None:
            self._quarantine = result.quarantine
            self._found = _both(self._found, result.found)
        if result.verdict is Verdict.DISCARD:
            self._discarded = result.reasons
        return result

    def _end(self) -> None:
        """ABORT to all that took part, and forget the transaction."""
        for member in self._members:
            member.abort()
        self._transaction, self._quarantine, self._discarded = {}, None, ()
        self._found = ()

    async def _message(self, mail: Mail, facts: Mapping[str, bytes]) -> ChainResult:
        if self._discarded:
            return ChainResult(mail, Verdict.DISCARD, reasons=self._discarded)
        total = StageResult(quarantine=self._quarantine, found=self._found)
        applied: list[tuple[str, tuple[Edit, ...]]] = []
        for member in self._serving():
            result, edits = await member.message(mail, facts)
            total = _merge(total, result)
            if total.verdict is not Verdict.CONTINUE:
                break
            if edits:
                mail = apply(mail, edits)
                applied.append((member.name, edits))
        else:
            total = self._nobody_left(mail, total)
        return ChainResult(
            mail=mail,
            verdict=total.verdict,
            reply=total.reply,
            hangup=total.hangup,
            quarantine=total.quarantine if total.verdict is Verdict.CONTINUE else None,
            reasons=total.reasons,
            edits=tuple(applied),
            found=total.found,
        )

    def _nobody_left(self, mail: Mail, total: StageResult) -> StageResult:
        """A mail whose every recipient was deleted is discarded."""
        if mail.envelope.recipients:
            return total
        self._log.warning("milters deleted every recipient", action="discard")
        reason = Reason("chain", "discard", {"stage": "eom", "recipients": "0"})
        return replace(total, verdict=Verdict.DISCARD, reasons=(*total.reasons, reason))


def _merge(before: StageResult, result: StageResult) -> StageResult:
    """One result of two: the later verdict, the reasons of both, a hold of either."""
    if before is GO_ON:
        return result
    return replace(
        result,
        reasons=(*before.reasons, *result.reasons),
        quarantine=result.quarantine or before.quarantine,
        found=_both(before.found, result.found),
    )


def _both(before: tuple[Found, ...], more: tuple[Found, ...]) -> tuple[Found, ...]:
    """Each once, in the order they came."""
    return tuple(dict.fromkeys((*before, *more))) if more else before
