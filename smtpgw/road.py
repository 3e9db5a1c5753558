"""The road of a mail through a worker: policy, milters, queue, and the answer.

Here the rooms meet.  Each step of a session asks the policy, then the milters;
a message that all let pass is committed to the queue, and only then is it
answered 250.  Every decision is one line in the log, and every mail counts once
in the metrics.  What goes wrong on our side raises: the edge makes 451 of it,
with a trace id that stands in the log too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from milterd.base import metrics
from milterd.core.decision import Reply
from milterd.core.mail import Direction, Envelope, Mail, Session
from smtpgw import session_macros
from smtpgw.address.params import MailParams, RcptParams
from smtpgw.address.path import Path
from smtpgw.admission import Refusal
from smtpgw.chain.results import StageResult
from smtpgw.cleanup import Arrival, prepare
from smtpgw.edge.content import Content
from smtpgw.edge.road import Answer, Attempt, Connection, Hello, Login, SessionRoad
from smtpgw.footing import FootedRoad, has_footer
from smtpgw.limiting import excepted, limiter, refusal
from smtpgw.message import REFUSALS, Around, Arrived, Transaction, decider, own
from smtpgw.plan import Means, Plan
from smtpgw.policy import relay
from smtpgw.prompt_road import TO_QUEUE, PromptSteps
from smtpgw.queue.store import QueueError
from smtpgw.rates.limits import Excess
from smtpgw.recording import Case, Step
from smtpgw.tables.table import Unavailable

_COUNTS: Mapping[Attempt, str] = {
    "connection": "connect", "auth": "auth", "starttls": "starttls", "newtls": "newtls",
}  # fmt: skip
"""How a session's limiter counts what a client tries."""


class GatewayRoad:
    """A :class:`~smtpgw.edge.road.Road`.  `plans` are by listener, `stressed` those for sessions
    that begin under stress; new ones, after a reload, are for new sessions."""

    def __init__(self, means: Means, plans: Mapping[str, Plan]) -> None:
        self.means = means
        self.plans = plans
        self.stressed: Mapping[str, Plan] = {}

    def session(self, connection: Connection) -> SessionRoad:
        plan = self.plans[connection.listener]
        if connection.stressed:
            plan = self.stressed.get(connection.listener, plan)
        session = GatewaySession(self.means, plan, connection)
        policy = plan.policies[connection.stressed]
        if not has_footer(policy):
            return session
        return FootedRoad(session, policy, self.means.ports, lambda: session.facts)


class GatewaySession(PromptSteps):
    """A :class:`~smtpgw.edge.road.SessionRoad`."""

    def __init__(self, means: Means, plan: Plan, connection: Connection) -> None:
        self._means, self._plan = means, plan
        self._hello = Hello(b"", esmtp=False)
        self._transaction: Transaction | None = None
        self._forwarded: Mapping[str, bytes] = {}
        self._told: Session | None = None
        self._told_of: object = None
        looks = plan.peername_lookup and means.names is not None
        self._naming = means.names.begin(connection.client) if means.names and looks else None
        self._limiter = limiter(
            means.counters, plan.clients, connection.listener, connection.client.address
        )
        self._begin(connection)
        self._means.intake.expect(self)

    def asked(self) -> list[dict[str, object]]:
        """What restrictions have asked for the last command, once (:class:`Admission`)."""
        return self._admission.take()

    async def connect(self) -> Answer | None:
        if self._naming is not None:
            naming, self._naming = self._naming, None
            self._begin(await naming.done(self._connection))
            peer = self._connection.peer
            if peer is not None and peer.reason:
                self._log.info("client name", status=int(peer.status), reason=peer.reason)
        refusal = await self._admission.connect()
        if refusal is not None:
            return self._deny("CONNECT", refusal)
        result = await self._chain.connect(self._session(self._direction()))
        answer = self._stage("CONNECT", result) if _at_once(result) else None
        if answer is None:
            return None
        # RFC 5321 section 4.3.2 knows no other codes in place of a banner.
        code = 554 if answer.code >= 500 else 421
        return replace(answer, code=code, hangup=True)

    async def helo(self, hello: Hello) -> Answer | None:
        self._hello = hello
        await self.reset()
        self._means.intake.expect(self)
        refusal = await self._admission.helo(hello)
        if refusal is not None:
            return self._deny("HELO", refusal)
        result = await self._chain.helo(hello.name, session_macros.of_tls(hello))
        return self._stage("HELO", result) if result.hangup else None

    async def attempt(self, what: Attempt) -> Answer | None:
        if what == "connection":
            client = self._connection.client.address
            self._limiter.exempt |= await excepted(self._plan.clients, client, lambda: self._log)
        count = getattr(self._limiter, _COUNTS[what])
        excess: Excess | None = await count()
        return None if excess is None else self._exceeds(what.upper(), excess)

    async def login(self, login: Login | None) -> Answer | None:
        self._hello = replace(self._hello, login=login)
        self._admission.login(login)
        return None

    async def readmit(self, connection: Connection, login: Login | None) -> Answer | None:
        await self._chain.close()
        # Who may say who its clients are is not counted, as with Postfix.
        self._limiter.exempt = True
        await self._limiter.close()
        if connection.peer is None:  # its name is what it was
            now = self._connection
            client = replace(connection.client, name=now.client.name)
            connection = replace(connection, peer=now.peer, client=client)
        self._begin(connection)
        self._hello = Hello(b"", esmtp=False, tls=self._hello.tls, login=login)
        self._admission.login(login)
        return await self.connect()

    async def forwarded(self, facts: Mapping[str, bytes]) -> Answer | None:
        self._forwarded = facts
        return None

    async def mail(self, sender: Path, params: MailParams) -> Answer | None:
        excess = await self._limiter.message()
        if excess is not None:
            return self._exceeds("MAIL", excess, sender=sender.address)
        try:
            self._means.intake.check(params.size or 0)
        except QueueError as error:
            reply = own(error, self._connection.session)
            return self._refuse("MAIL", "queue", reply, detail=str(error))
        queue_id = self._means.intake.new_id()
        refusal = await self._admission.mail(sender, params, queue_id)
        if refusal is not None:
            return self._deny("MAIL", refusal, sender=sender.address)
        self._transaction = transaction = self._begun(queue_id, sender, params)
        self._means.intake.expect(self)
        result = await self._chain.mail(
            sender.address, params.args, transaction.macros, direction=transaction.direction
        )
        answer = self._stage("MAIL", result)
        if answer is not None:
            self._transaction = None
            self._means.intake.expect_no_more(self)
            self._admission.reset()
        return answer

    async def rcpt(self, recipient: Path, params: RcptParams) -> Answer | None:
        excess = await self._limiter.recipient()
        if excess is not None:
            return self._exceeds("RCPT", excess, recipient=recipient.address)
        refusal = await self._admission.rcpt(recipient)
        if refusal is not None:
            await self._chain.rcpt_rejected(recipient.address, params.args, refusal.reply)
            return self._deny("RCPT", refusal, recipient=recipient.address)
        result = await self._chain.rcpt(recipient.address, params.args, TO_QUEUE)
        answer = self._stage("RCPT", result, recipient=recipient.address)
        if answer is None:
            self._admission.accepted()
        return answer

    async def vrfy(self, recipient: Path) -> Answer | None:
        refusal = await self._admission.vrfy(recipient)
        if refusal is None:
            return None
        return self._deny("VRFY", refusal, recipient=recipient.address)

    async def data(self) -> Answer | None:
        refusal = await self._admission.data()
        if refusal is not None:
            return self._deny("DATA", refusal)
        return self._stage("DATA", await self._chain.data())

    async def etrn(self, node: str, *, below: bool) -> Answer | None:
        refusal = await self._admission.etrn(node)
        if refusal is not None:
            return self._deny("ETRN", refusal)
        try:
            served = self._own and await self._plan.addresses.fast_flush.match(node.encode())
        except Unavailable as error:
            reply = Reply(458, "4.3.0", f"Unable to queue messages for node {node}")
            return self._refuse("ETRN", "tables", reply, detail=str(error))
        if not served:
            reply = Reply(459, "4.7.1", f"Node {node} not allowed: no service for you here")
            return self._refuse("ETRN", "relay", reply)
        if self._means.flush is None:
            return None
        try:
            count = await self._means.flush((node, f".{node}") if below else (node,))
        except (QueueError, OSError) as error:
            reply = Reply(458, "4.3.0", f"Unable to queue messages for node {node}")
            return self._refuse("ETRN", "queue", reply, detail=str(error))
        self._log.info("flush", node=node, below=below, mails=count)
        if not count:
            return Answer(251, "2.0.0", f"OK, no messages waiting for node {node}")
        return Answer(252, "2.0.0", f"OK, pending messages for node {node} started")

    async def unknown(self, line: bytes) -> Answer | None:
        return self._stage("UNKNOWN", await self._chain.unknown(line))

    async def reset(self) -> None:
        self._transaction, self._forwarded = None, {}
        self._means.intake.expect_no_more(self)
        self._admission.reset()
        await self._chain.abort()

    async def close(self) -> None:
        self._means.intake.expect_no_more(self)
        await self._limiter.close()
        if self._naming is not None:
            await self._naming.stop()
        await self._chain.close()

    async def message(self, envelope: Envelope, content: Content) -> Answer:
        transaction, self._transaction = self._transaction, None
        if transaction is None:
            raise RuntimeError("a message without MAIL")
        intake = self._means.intake
        intake.expect(self)
        try:
            around = Around(
                self._means, self._connection, self._hello, self._admission, self._chain,
                self._log, self._forwarded, self._plan.quarantine, self,
            )  # fmt: skip
            self._forwarded = {}
            mail = self._mail(transaction, envelope, content)
            return await Arrived(around, transaction, content).taken(mail)
        finally:
            intake.expect_no_more(self)

    def _mail(self, transaction: Transaction, envelope: Envelope, content: Content) -> Mail:
        return prepare(
            Arrival(
                session=self._session(transaction.direction),
                hello=self._hello,
                envelope=envelope,
                content=content,
                queue_id=transaction.queue_id,
                when=self._means.wall(),
            ),
            self._plan.cleanup,
        )

    # -- what a command comes to -----------------------------------------------------

    def _stage(self, command: str, result: StageResult, **facts: object) -> Answer | None:
        """The answer to a command, from what the milters say to it."""
        if self._transaction is not None:
            self._transaction.reasons += result.reasons
        if not result.refused:
            return None
        reply = result.reply or REFUSALS[result.verdict]
        answer = self._refuse(
            command, decider(result.reasons), reply, hangup=result.hangup, **facts
        )
        return replace(answer, verbatim=answer.verbatim or result.reply is not None)

    def _deny(self, command: str, refusal: Refusal, **facts: object) -> Answer:
        """What the policy refuses, with the parameters and tables that decided it."""
        facts["decided"] = list(refusal.decided)
        if refusal.listed:
            facts["list"] = refusal.listed
        return self._refuse(
            command,
            refusal.source,
            refusal.reply,
            refusal.record.as_dicts() if refusal.record else (),
            hangup=refusal.hangup,
            **facts,
        )

    def _exceeds(self, command: str, excess: Excess, **facts: object) -> Answer:
        """What a client that is over a limit is told."""
        reply, why = refusal(excess, self._connection.listener)
        return self._refuse(command, "limits", reply, hangup=reply.code == 421, **why, **facts)

    def _refuse(
        self,
        command: str,
        source: str,
        reply: Reply,
        steps: Sequence[Step] = (),
        /,
        *,
        hangup: bool = False,
        **facts: object,
    ) -> Answer:
        outcome = "rejected" if reply.code >= 500 else "tempfailed"
        transaction = self._transaction
        sender = transaction.sender.address if transaction else b""
        about = facts.get("recipient")
        case = Case(
            command,
            source,
            outcome,
            sender,
            (about,) if isinstance(about, bytes) else (),
            transaction.queue_id if transaction else "",
            facts,
            steps,
        )
        answer, reference = self._means.recorder.decided(
            self._connection, self._hello, case, Answer.of(reply, hangup=hangup)
        )
        self._log.info(
            "command",
            command=command,
            filter=source,
            outcome=outcome,
            reason=str(reply),
            queue_id=transaction.queue_id if transaction else "",
            helo=self._hello.name,
            reference=reference,
            **{"sender": sender, **facts},
        )
        metrics.refusals(self._connection.listener, command.lower(), outcome).inc()
        return answer

    # -- who is there ----------------------------------------------------------------

    @property
    def _own(self) -> bool:
        """Whether the client is one of ours, who may send anywhere."""
        login = self._hello.login
        return self._admission.own or (login is not None and not login.anonymous)

    def _direction(self) -> Direction:
        return relay.direction(self._own)

    def _session(self, direction: Direction) -> Session:
        """What milters and the queue are told: one for all mails of which it is true."""
        told_of = self._connection, self._hello, direction
        if self._told is None or self._told_of != told_of:
            self._told_of = told_of
            self._told = Session(
                client=self._connection.client,
                helo=self._hello.name,
                direction=direction,
                macros={
                    **session_macros.of_tls(self._hello),
                    **session_macros.of_peer(self._connection),
                },
            )
        return self._told


def _at_once(result: StageResult) -> bool:
    """Whether a refusal at CONNECT takes the banner's place.

    As with Postfix, what is temporary does not: the milter is asked no more, and its
    refusal is the answer to MAIL, which clients understand better.
    """
    return result.hangup or (result.reply is not None and result.reply.code >= 500)
