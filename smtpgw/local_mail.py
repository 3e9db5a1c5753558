"""The road of a mail that was handed in on this machine: milters, queue, and what to do else.

There is no client to be told no.  As with Postfix's cleanup(8), a milter sees the mail as if
localhost [127.0.0.1] had sent it; what it refuses for good is bounced, what it refuses for now
waits in the drop directory.  A refusal of a single recipient cannot be told to anybody and
counts as one for now; what waits longer than mail may live in the queue is bounced.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from structlog.typing import FilteringBoundLogger

from milterd.base import metrics
from milterd.core.decision import Reason, Verdict
from milterd.core.mail import Client, Direction, Envelope, Family, Mail, Session
from smtpgw.chain import telling
from smtpgw.chain.chain import Chain
from smtpgw.chain.health import Health
from smtpgw.chain.options import EditLimits, MilterOptions
from smtpgw.chain.results import ChainResult
from smtpgw.cleanup import Arrival, CleanupOptions, prepare_local
from smtpgw.edge.content import Content
from smtpgw.edge.options import ContentOptions
from smtpgw.edge.road import Hello
from smtpgw.intake import Intake
from smtpgw.quarantine import entry
from smtpgw.quarantine.entry import QuarantineOptions
from smtpgw.queue.store import QueueError

_LOCALHOST = Client(b"localhost", Family.INET, b"127.0.0.1")
_SESSION = Session(client=_LOCALHOST, helo=b"localhost", direction=Direction.ORIGINATING)
_HELLO = Hello(b"localhost", esmtp=True)
LISTENER = "pickup"
"""What stands in log and metrics where other mail has its listener."""


@dataclass(frozen=True, slots=True)
class LocalPlan:
    """What the settings say about local mail; `lifetime` is seconds."""

    content: ContentOptions
    cleanup: CleanupOptions
    milters: tuple[MilterOptions, ...] = ()
    macros: Mapping[str, bytes] = field(default_factory=dict)
    limits: EditLimits = field(default_factory=EditLimits)
    lifetime: float = 432_000.0
    quarantine: QuarantineOptions | None = None


@dataclass(frozen=True, slots=True)
class Handed:
    """A mail that was handed in by the file `name`: by whom, and when (wall seconds)."""

    name: str
    uid: int
    login: str
    arrived: float
    envelope: Envelope
    content: Content


class Fate(enum.Enum):
    """What became of it: QUEUED and DISCARDED are done, LATER is to be tried again."""

    QUEUED = "queued"
    HELD = "held"
    QUARANTINED = "quarantined"
    DISCARDED = "discarded"
    BOUNCED = "rejected"
    LATER = "tempfailed"


@dataclass(frozen=True, slots=True)
class LocalMeans:
    """`wall` is seconds since the epoch, `clock` only measures."""

    intake: Intake
    health: Health
    log: FilteringBoundLogger
    wall: Callable[[], float]
    clock: Callable[[], float]


class LocalRoad:
    """Takes local mail into the queue.  `plan` may be changed between mails."""

    def __init__(self, means: LocalMeans, plan: LocalPlan) -> None:
        self._means, self.plan = means, plan

    async def take(self, handed: Handed, waited: float) -> Fate:
        """Queue it, if the milters let it; never raises QueueError.  `waited` is how many
        seconds it was tried for."""
        intake, plan = self._means.intake, self.plan
        now = self._means.wall()
        try:
            intake.check(handed.content.size)
        except QueueError as error:
            return self._tell(handed, "", Fate.LATER, str(error), ())
        queue_id = intake.new_id()
        arrival = Arrival(_SESSION, _HELLO, handed.envelope, handed.content, queue_id, now)
        mail = prepare_local(arrival, plan.cleanup, uid=handed.uid, arrived=handed.arrived)
        by = Reason("pickup", "accepted", {"uid": str(handed.uid), "login": handed.login})
        try:
            mail, rewritten = await intake.headers(mail)
        except QueueError as error:
            return self._tell(handed, queue_id, Fate.LATER, str(error), (by,))
        result = await self._ask(mail, queue_id) if plan.milters else ChainResult(mail)
        result = replace(result, reasons=(by, *rewritten, *result.reasons))
        if result.found and result.verdict is Verdict.CONTINUE and plan.quarantine is not None:
            return await self._keep(handed, queue_id, mail, result, plan.quarantine)
        return await self._conclude(handed, queue_id, result, waited)

    async def _keep(
        self,
        handed: Handed,
        queue_id: str,
        mail: Mail,
        result: ChainResult,
        options: QuarantineOptions,
    ) -> Fate:
        caught = entry.caught(options, result.found, mail, listener=LISTENER)
        try:
            await self._means.intake.keep(
                mail, caught, queue_id=queue_id, decision=result.reasons, handed=handed.name
            )
        except QueueError as error:
            return self._tell(handed, queue_id, Fate.LATER, str(error), result.reasons)
        metrics.QUARANTINE.labels("kept").inc()
        words = "; ".join(each.text for each in result.found)
        return self._tell(handed, queue_id, Fate.QUARANTINED, words, result.reasons)

    async def _conclude(
        self, handed: Handed, queue_id: str, result: ChainResult, waited: float
    ) -> Fate:
        late = waited > self.plan.lifetime
        words = str(result.reply) if result.reply else "refused by a milter"
        match result.verdict:
            case Verdict.DISCARD:
                return self._tell(handed, queue_id, Fate.DISCARDED, "", result.reasons)
            case Verdict.TEMPFAIL if not late:
                return self._tell(handed, queue_id, Fate.LATER, words, result.reasons)
            case Verdict.TEMPFAIL:
                words = f"not taken for too long: {words}"
            case Verdict.REJECT:
                pass
            case _:
                words = ""
        hold = None
        if result.quarantine is not None and not words:
            hold = result.quarantine.decode("utf-8", "backslashreplace")
        try:
            rewritten = await self._means.intake.accept(
                result.mail,
                queue_id=queue_id,
                decision=result.reasons,
                hold=hold,
                handed=handed.name,
                doomed=words,
            )
        except QueueError as error:
            return self._tell(handed, queue_id, Fate.LATER, str(error), result.reasons)
        fate = Fate.BOUNCED if words else Fate.QUEUED if hold is None else Fate.HELD
        reasons = (*result.reasons, *rewritten)
        return self._tell(handed, queue_id, fate, words or hold or "", reasons)

    def _tell(
        self, handed: Handed, queue_id: str, fate: Fate, words: str, reasons: tuple[Reason, ...]
    ) -> Fate:
        log = self._means.log.bind(listener=LISTENER, queue_id=queue_id)
        for each in reasons:
            log.info("decision", filter=each.source, outcome=each.outcome, reason=dict(each.facts))
        log.info(
            "message",
            outcome=fate.value,
            file=handed.name,
            reason=words,
            uid=handed.uid,
            sender=handed.envelope.sender,
            recipients=[each.address for each in handed.envelope.recipients],
            size=handed.content.size,
        )
        metrics.mails("smtpgw", LISTENER, fate.value).inc()
        return fate

    # -- milters -----------------------------------------------------------------------

    async def _ask(self, mail: Mail, queue_id: str) -> ChainResult:
        chain = Chain(
            self.plan.milters,
            log=self._means.log.bind(listener=LISTENER),
            macros=self.plan.macros,
            limits=self.plan.limits,
            health=self._means.health,
            clock=self._means.clock,
        )
        reasons: list[Reason] = []
        try:
            macros = {"i": queue_id.encode()}
            async for stage in telling.stages(chain, _SESSION, mail.envelope, macros):
                reasons += stage.reasons
                if stage.refused:
                    break
            else:
                result = await chain.message(mail, queue_id)
                return replace(result, reasons=(*reasons, *result.reasons))
        finally:
            await chain.close()
        return ChainResult(mail, stage.verdict, stage.reply, reasons=tuple(reasons))
