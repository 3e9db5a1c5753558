"""What becomes of a message that has arrived: the last list, the milters, the queue, the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from structlog.typing import FilteringBoundLogger

from milterd.base import metrics
from milterd.base.log_json import tell_each
from milterd.core.decision import Reason, Reply, Verdict
from milterd.core.mail import Direction, Mail
from smtpgw import acting, session_macros
from smtpgw.address.params import MailParams
from smtpgw.address.path import Path
from smtpgw.admission import Admission
from smtpgw.chain.chain import Chain
from smtpgw.chain.results import ChainResult
from smtpgw.edge.content import Content
from smtpgw.edge.road import Answer, Connection, Hello
from smtpgw.intake import LookupFailed
from smtpgw.plan import Means
from smtpgw.policy.record import NO_ACTIONS, Actions, Record
from smtpgw.quarantine import entry
from smtpgw.quarantine.entry import QuarantineOptions
from smtpgw.queue.custody import QuarantineFull
from smtpgw.queue.store import QueueError
from smtpgw.reasons import told
from smtpgw.recording import Case

REFUSALS = {
    Verdict.REJECT: Reply(550, "5.7.1", "Command rejected"),
    Verdict.TEMPFAIL: Reply(451, "4.7.1", "Service unavailable - try again later"),
}
"""What a milter's refusal says that has no words of its own."""


@dataclass(slots=True)
class Transaction:
    """From MAIL on."""

    queue_id: str
    sender: Path
    params: MailParams
    direction: Direction
    reasons: list[Reason] = field(default_factory=list)
    rewritten: tuple[Reason, ...] = ()
    actions: Actions = NO_ACTIONS
    records: Sequence[Record] = ()
    macros: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(slots=True)  # there is one for each mail, and to freeze it costs as much as a call each
class Around:
    """The session that the message came in by; `forwarded` is what XFORWARD said of it.  Its mail
    is expected in the queue by the name of `who`."""

    means: Means
    connection: Connection
    hello: Hello
    admission: Admission
    chain: Chain
    log: FilteringBoundLogger
    forwarded: Mapping[str, bytes]
    quarantine: QuarantineOptions | None = None
    who: object = None


class Arrived:
    """One message."""

    def __init__(self, around: Around, transaction: Transaction, content: Content) -> None:
        self._around, self.transaction, self._content = around, transaction, content
        self._ours = False
        self._shown: Mail | None = None

    async def taken(self, mail: Mail) -> Answer:
        """The answer; if it is positive, the mail is committed, or discarded on purpose."""
        transaction = self.transaction
        result: ChainResult | None = None
        try:
            result = await self._ask(mail)
            answer, outcome = await self._conclude(result)
        except QueueError as error:
            await self._around.chain.abort()
            source = "rewrite" if isinstance(error, LookupFailed) else "queue"
            transaction.reasons.append(Reason(source, "failed", {"detail": str(error)}))
            answer, outcome = Answer.of(own(error, transaction.queue_id)), "failed"
        result = result or ChainResult(mail)
        if outcome != "queued" or result.reply is not None:
            return self._account(result, answer, outcome)
        # What is not for the client's ears need not keep it waiting.
        asyncio.get_running_loop().call_soon(self._account, result, answer, outcome)
        return answer

    async def _ask(self, mail: Mail) -> ChainResult:
        """What the last list and the milters say to the mail, whose header is rewritten before
        they sign it."""
        judged = await self._judged(mail)
        if judged is not None:
            return judged
        mail = acting.with_fields(mail, self.transaction.actions)
        authenticated = self._around.hello.login is not None
        mail, self.transaction.rewritten = await self._around.means.intake.headers(
            mail, self._around.connection.client, authenticated=authenticated
        )
        began = self._around.means.clock()
        self._shown = mail
        result = await self._around.chain.message(mail, self.transaction.queue_id)
        metrics.stage("chain").observe(self._around.means.clock() - began)
        self.transaction.reasons += result.reasons
        return result

    async def _judged(self, mail: Mail) -> ChainResult | None:
        """What the restrictions say to the message, if that is the end of it."""
        admission = self._around.admission
        refusal = await admission.end_of_data(self._content.size)
        self.transaction.actions = admission.actions
        self.transaction.records = admission.records
        admission.reset()
        self.transaction.reasons += acting.told(self.transaction.actions)
        if refusal is not None:
            self._ours = True
            await self._around.chain.abort()
            self.transaction.reasons.append(acting.refused(refusal))
            if refusal.record is not None:
                self.transaction.records = [*self.transaction.records, refusal.record]
            verdict = Verdict.REJECT if refusal.reply.code >= 500 else Verdict.TEMPFAIL
            return ChainResult(mail, verdict, refusal.reply, hangup=refusal.hangup)
        if self.transaction.actions.discard:
            await self._around.chain.abort()
            return ChainResult(mail, Verdict.DISCARD)
        return None

    async def _conclude(self, result: ChainResult) -> tuple[Answer, str]:
        """The answer for the client, and the word for it in log and metrics."""
        queue_id = self.transaction.queue_id
        match result.verdict:
            case Verdict.REJECT | Verdict.TEMPFAIL:
                reply = result.reply or REFUSALS[result.verdict]
                outcome = "rejected" if reply.code >= 500 else "tempfailed"
                return Answer.of(reply, hangup=result.hangup), outcome
            case Verdict.DISCARD:
                return Answer(250, "2.0.0", f"Ok: queued as {queue_id}"), "discarded"
            case _:
                return await self._queue(result)

    async def _queue(self, result: ChainResult) -> tuple[Answer, str]:
        if result.found and self._around.quarantine is not None:
            return await self._keep(result, self._around.quarantine)
        actions = self.transaction.actions
        hold = actions.hold or None
        if result.quarantine is not None:
            hold = result.quarantine.decode("utf-8", "backslashreplace")
        began, intake = self._around.means.clock(), self._around.means.intake
        intake.expect_no_more(self._around.who)
        self.transaction.rewritten += await intake.accept(
            acting.addressed(result.mail, actions),
            queue_id=self.transaction.queue_id,
            decision=(*self.transaction.rewritten, *self.transaction.reasons),
            hold=hold,
            filtered=acting.filtered(actions),
        )
        metrics.stage("queue").observe(self._around.means.clock() - began)
        answer = Answer(250, "2.0.0", f"Ok: queued as {self.transaction.queue_id}", result.hangup)
        return answer, "held" if hold is not None else "queued"

    async def _keep(self, result: ChainResult, options: QuarantineOptions) -> tuple[Answer, str]:
        """The mail as its milters were shown it: what they change, they change when it is
        released."""
        transaction, connection = self.transaction, self._around.connection
        mail = self._shown or result.mail
        caught = entry.caught(
            options,
            result.found,
            mail,
            listener=connection.listener,
            macros={**session_macros.of_listener(connection), **transaction.macros},
            actions=transaction.actions,
        )
        try:
            await self._around.means.intake.keep(
                mail,
                caught,
                queue_id=transaction.queue_id,
                decision=(*transaction.rewritten, *transaction.reasons),
            )
        except QuarantineFull:
            metrics.QUARANTINE.labels("full").inc()
            raise
        metrics.QUARANTINE.labels("kept").inc()
        return Answer(250, "2.0.0", f"Ok: queued as {transaction.queue_id}", result.hangup), (
            "quarantined"
        )

    def _account(self, result: ChainResult, answer: Answer, outcome: str) -> Answer:
        """The log's lines, the metrics' count and the record for one message; its answer."""
        transaction = self.transaction
        those = tuple([each.address for each in result.mail.envelope.recipients])
        case = Case(
            "message",
            decider(transaction.reasons),
            outcome,
            transaction.sender.address,
            those,
            transaction.queue_id,
            {"size": self._content.size, "notes": self._content.notes},
            records=transaction.records,
            reasons=(*transaction.rewritten, *transaction.reasons),
        )
        answer, reference = self._around.means.recorder.decided(
            self._around.connection, self._around.hello, case, answer
        )
        if result.reply is not None and not self._ours:
            answer = replace(answer, verbatim=True)  # a milter's words stay as they are
        log, queue_id = self._around.log, transaction.queue_id
        if case.reasons:
            tell_each(log, "decision", [told(each) for each in case.reasons], queue_id=queue_id)
        metrics.mails("smtpgw", self._around.connection.listener, outcome).inc()
        log.info(
            "message",
            queue_id=queue_id,
            outcome=outcome,
            filter=case.source,
            reason=f"{answer.code} {answer.enhanced} {answer.text}".replace("\n", " "),
            sender=transaction.sender.address,
            recipients=list(those),
            size=self._content.size,
            edits={name: len(edits) for name, edits in result.edits},
            notes=self._content.notes,
            reference=reference,
            **({"forwarded": dict(self._around.forwarded)} if self._around.forwarded else {}),
        )
        return answer


def own(error: QueueError, reference: str) -> Reply:
    """The queue's failure for the client: no internals, and what to look for in the log."""
    return Reply(error.code, error.enhanced, f"{error.answer}, reference {reference}")


def decider(reasons: Sequence[Reason]) -> str:
    """Whose word was the last one."""
    return reasons[-1].source if reasons else "gateway"
