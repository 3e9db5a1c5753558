"""One milter in one SMTP session: what it has been told, and what it is still asked.

The states are those of Postfix's milter8.c.  A milter that accepted the connection
is out for the session, one that refused it or failed gives the same answer to
every later event, one that accepted a message is left alone until the next.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from milterd.core.actions import Edit
from milterd.core.decision import Reason, Reply, Verdict
from milterd.core.finding import HOLD_QUEUE, MACRO, Found, macro_value
from milterd.core.mail import Mail
from milterd.wire import messages as wire
from milterd.wire.constants import Actions, Protocol
from milterd.wire.constants import Command as Code
from milterd.wire.errors import PeerError
from milterd.wire.mta import MtaConnection
from smtpgw.chain import replies
from smtpgw.chain.client import MilterClient, connect, in_all
from smtpgw.chain.content import Outcome, Showing
from smtpgw.chain.edits import hold_text, review
from smtpgw.chain.faults import FaultKind, MilterFault
from smtpgw.chain.macros import select
from smtpgw.chain.options import DefaultAction, MilterOptions
from smtpgw.chain.results import StageResult
from smtpgw.chain.shared import GO_ON, Shared, State


class Member:
    """One milter in one session.  No method raises for what a milter does."""

    def __init__(self, options: MilterOptions, shared: Shared) -> None:
        self.options = options
        self._shared = shared
        self._client: MilterClient | None = None
        self._state = State.NEW
        self._fixed = GO_ON
        self._passed = GO_ON
        self._told_connect = False
        self._told_helo = 0
        self._dirty = False
        self._noted = 0

    @property
    def name(self) -> str:
        """The milter's name in configuration."""
        return self.options.name

    # --- the connection ---

    async def open(self) -> None:
        """Connect and negotiate, unless that was done; failure is remembered, not raised."""
        if self._state is not State.NEW:
            return
        options, health = self.options, self._shared.health
        if not health.may_try(self.name):
            self._failed("open", MilterFault(FaultKind.PAUSED, "it timed out too often of late"))
            return
        try:
            self._client = await connect(
                options.endpoint,
                MtaConnection(limits=self._shared.wire_limits),
                connecting=options.connect_timeout,
                patience=options.command_timeout,
            )
        except MilterFault as fault:
            if fault.kind is FaultKind.TIMEOUT:
                health.timed_out(self.name)
            else:
                health.answered(self.name)
            self._failed("open", fault)
        else:
            health.answered(self.name)
            self._state = State.OPEN

    def close(self) -> None:
        """QUIT, where the milter still listens."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def abort(self) -> None:
        """The transaction is over: ABORT, where the milter was told of one."""
        if self._dirty and self._client is not None:
            self._client.send_now(wire.Abort())
        self._dirty = False
        if self._state is State.PASSED:
            self._state = State.OPEN

    # --- events before the content ---

    async def catch_up(self, helo: bool = True) -> StageResult:
        """Tell a milter of the connection and the HELO it has not been told of."""
        await self.open()
        facts = self._shared.facts
        if self._state is State.OPEN and not self._told_connect:
            self._told_connect = True
            client = facts.client
            command = wire.Connect(client.name, client.family, client.port, client.address)
            result = await self._ask("connect", Code.CONNECT, command, {})
            if result.verdict is not Verdict.CONTINUE:
                return result
        if helo and facts.helo is not None and self._told_helo != facts.helo_serial:
            self._told_helo = facts.helo_serial
            return await self._ask("helo", Code.HELO, wire.Helo(facts.helo), {})
        return self._unasked()

    async def mail(
        self, sender: bytes, args: tuple[bytes, ...], facts: Mapping[str, bytes]
    ) -> StageResult:
        """MAIL; begins a transaction.  One of our filters hears what it is to pass over."""
        keys = [each.key for each in self._shared.passing if each.milter == self.name and each.key]
        if keys:
            facts = {**facts, MACRO: macro_value(keys)}
        return await self._ask("mail", Code.MAIL, wire.MailFrom(_path(sender), args), facts)

    async def rcpt(
        self, address: bytes, args: tuple[bytes, ...], facts: Mapping[str, bytes]
    ) -> StageResult:
        """RCPT."""
        return await self._ask("rcpt", Code.RCPT, wire.RcptTo(_path(address), args), facts)

    async def rcpt_rejected(
        self, address: bytes, args: tuple[bytes, ...], facts: Mapping[str, bytes]
    ) -> None:
        """RCPT that was refused, for a milter that asked to hear of those."""
        client = self._client
        if client is not None and Protocol.RCPT_REJ in client.connection.agreed_protocol:
            await self.rcpt(address, args, facts)

    async def data(self, facts: Mapping[str, bytes]) -> StageResult:
        """DATA."""
        return await self._ask("data", Code.DATA, wire.Data(), facts)

    async def unknown(self, line: bytes) -> StageResult:
        """A command that SMTP does not know."""
        return await self._ask("unknown", Code.UNKNOWN, wire.Unknown(line), {})

    async def _ask(
        self, stage: str, code: Code, command: wire.CommandMessage, facts: Mapping[str, bytes]
    ) -> StageResult:
        if self._state is not State.OPEN or self._client is None:
            return self._unasked()
        self._dirty = self._dirty or stage in {"mail", "rcpt", "data", "unknown"}
        client, began = self._client, self._shared.clock()
        macros = select(code, client.connection.wanted, self._macros(facts))
        try:
            step = client.event(command, macros, patience=self.options.command_timeout)
            reply = await in_all(self.options.total_timeout, step)
            result = self._with_hold(client, stage, self._judge(stage, reply))
        except MilterFault as fault:
            result = self._failed(stage, fault)
        except BaseException:
            self._failed(stage, MilterFault(FaultKind.CLOSED, "we broke off"))
            raise
        self._note(stage, began, result)
        return result

    def _unasked(self) -> StageResult:
        """What stands in for an answer; why the mail goes on is told with the message."""
        return self._fixed if self._fixed.refused else GO_ON

    # --- the content ---

    async def message(
        self, mail: Mail, facts: Mapping[str, bytes]
    ) -> tuple[StageResult, tuple[Edit, ...]]:
        """Header, body and end of message; the edits to apply if the verdict is CONTINUE."""
        if self._state is not State.OPEN or self._client is None:
            return self._passed if self._state is State.PASSED else self._fixed, ()
        self._dirty = True
        client, began = self._client, self._shared.clock()
        edits: tuple[Edit, ...] = ()
        showing = Showing(
            client,
            mail,
            self._macros(facts),
            patience=self.options.content_timeout,
            limits=self._shared.wire_limits,
        )
        try:
            outcome = await in_all(self.options.total_timeout, showing.run())
            result, edits = self._conclude(outcome)
            result = self._with_hold(client, "message", result)
        except MilterFault as fault:
            result = self._failed("message", fault)
            if fault.kind is FaultKind.CLOSED and self._shared.health.crashed(self.name, mail):
                result = self._poison()
        except BaseException:
            self._failed("message", MilterFault(FaultKind.CLOSED, "we broke off"))
            raise
        self._note("message", began, result)
        return result, edits

    def _conclude(self, outcome: Outcome) -> tuple[StageResult, tuple[Edit, ...]]:
        """What an outcome means; edits count only where the mail goes on."""
        result = self._judge(outcome.stage, outcome.reply)
        if result.verdict is not Verdict.CONTINUE:
            if outcome.edits:
                self._shared.log.info(
                    "milter edits dropped", milter=self.name, verdict=result.verdict.value
                )
            return result, ()
        checked = review(outcome.edits, self._shared.limits)
        reasons = list(result.reasons)
        if checked.edits:
            reasons.append(self._reason("edited", outcome.stage, edits=str(len(checked.edits))))
        elif not reasons:
            reasons.append(self._reason("continue", outcome.stage))
        for each in (*outcome.refused, *checked.refused):
            self._shared.log.warning("milter edit refused", milter=self.name, edit=each)
            reasons.append(self._reason("edit refused", outcome.stage, edit=each))
        result = StageResult(reasons=tuple(reasons))
        if checked.quarantine is not None:
            result = self._caught(result, outcome.stage, checked.quarantine)
        return result, checked.edits

    def _with_hold(self, client: MilterClient, stage: str, result: StageResult) -> StageResult:
        """The result with what the milter let slip before its verdict."""
        for each in client.connection.violations[self._noted :]:
            self._noted += 1
            self._shared.log.warning("milter protocol violation", milter=self.name, what=each)
        hold, client.early_hold = client.early_hold, None
        if hold is None or Actions.QUARANTINE not in client.connection.agreed_actions:
            return result
        return self._caught(result, stage, hold_text(hold.reason))

    def _caught(
        self, result: StageResult, stage: str, text: bytes, *, told: bool = True
    ) -> StageResult:
        """The result with a quarantine, unless the mail was released in spite of this finding."""
        said = text.decode("ascii")
        found = Found.of(self.name, said)
        if found in self._shared.passing:
            reason = self._reason("released", stage, text=said)
            return replace(result, reasons=(*result.reasons, reason))
        reasons = result.reasons
        if told:
            reasons = (*reasons, self._reason("quarantine", stage, text=said))
        kept = () if found.filter == HOLD_QUEUE else (found,)
        return replace(result, reasons=reasons, quarantine=text, found=(*result.found, *kept))

    # --- verdicts ---

    def _judge(self, stage: str, reply: wire.Reply | None) -> StageResult:
        """A milter's reply as a result, and what it makes of the session."""
        early = stage in {"connect", "helo"}
        match reply:
            case None | wire.Continue() | wire.Skip():
                return GO_ON
            case wire.Accept():
                result = StageResult(reasons=(self._reason("accept", stage),))
                if early:
                    self._fixed = result
                else:
                    self._passed = result
                self._settle(State.OUT if early else State.PASSED)
                return result
            case wire.Discard() if early:
                self._shared.log.warning("milter discard ignored", milter=self.name, stage=stage)
                return StageResult(reasons=(self._reason("discard ignored", stage),))
            case wire.Discard():
                self._settle(State.PASSED)
                found = Found(self.name, "discard", "discard")
                if found in self._shared.passing:
                    return self._let_pass(stage, found, early=False)
                reasons = (self._reason("discard", stage),)
                return StageResult(Verdict.DISCARD, reasons=reasons, found=(found,))
            case wire.Reject():
                return self._refuse(stage, replies.REJECT, fixed=early)
            case wire.TempFail():
                return self._refuse(stage, replies.TEMPFAIL, fixed=early)
            case wire.ConnFail():
                return self._refuse(stage, replies.TEMPFAIL, fixed=True)
            case wire.Shutdown():
                return self._refuse(stage, replies.SHUTDOWN, fixed=True)
            case wire.ReplyCode(text=text):
                try:
                    parsed = replies.parse_reply(text)
                except PeerError as error:
                    raise MilterFault(FaultKind.PROTOCOL, error.reason) from error
                return self._refuse(stage, parsed, fixed=early)
            case _:
                what = type(reply).__name__
                raise MilterFault(FaultKind.PROTOCOL, f"{what} is no answer to {stage}")

    def _refuse(self, stage: str, reply: Reply, *, fixed: bool) -> StageResult:
        found: tuple[Found, ...] = ()
        verdict = Verdict.REJECT if reply.code >= 500 else Verdict.TEMPFAIL
        if verdict is Verdict.REJECT:
            one = Found(self.name, f"reject {reply}", str(reply))
            if one in self._shared.passing:
                return self._let_pass(stage, one, early=fixed)
            found = (one,)
        reasons = (self._reason(verdict.value, stage, reply=str(reply)),)
        result = StageResult(verdict, reply, reply.code in {421, 521}, reasons, found=found)
        if fixed:
            self._fixed = result
            self._settle(State.FIXED)
        return result

    def _let_pass(self, stage: str, found: Found, *, early: bool) -> StageResult:
        """A verdict that a postmaster released the mail in spite of; the milter is asked no more,
        since it believes the mail is gone."""
        result = StageResult(reasons=(self._reason("released", stage, text=found.text),))
        if stage == "rcpt":
            return result  # of one recipient: the milter goes on by itself
        if early:
            self._fixed = result
        else:
            self._passed = result
        self._settle(State.OUT if early else State.PASSED)
        return result

    def _settle(self, state: State) -> None:
        """Enter a state; a milter that is asked no more this session is hung up on."""
        self._state = state
        if state in {State.OUT, State.FIXED}:
            self._drop()

    def _failed(self, stage: str, fault: MilterFault) -> StageResult:
        """The failure action, for this event and the rest of the session."""
        action = self.options.action
        self._shared.log.warning(
            "milter failed",
            milter=self.name,
            stage=stage,
            fault=str(fault.kind),
            detail=fault.detail,
            action=str(action),
        )
        reason = self._reason(
            "failed", stage, fault=str(fault.kind), detail=fault.detail, action=str(action)
        )
        match action:
            case DefaultAction.ACCEPT:
                self._fixed = StageResult(reasons=(reason,))
            case DefaultAction.QUARANTINE:
                text = hold_text(b"milter %b failed" % self.name.encode())
                plain = StageResult(reasons=(reason,))
                self._fixed = self._caught(plain, stage, text, told=False)
            case _:
                reply = replies.UNAVAILABLE[action]
                verdict = Verdict.REJECT if reply.code >= 500 else Verdict.TEMPFAIL
                self._fixed = StageResult(verdict, reply, reply.code == 421, (reason,))
        self._settle(State.FIXED)
        return self._fixed

    def _poison(self) -> StageResult:
        """A message that keeps killing the milter is held, not refused for ever."""
        self._shared.log.warning("milter killed by message", milter=self.name, action="hold")
        reasons = (*self._fixed.reasons, self._reason("quarantine", "message", text="poison"))
        text = hold_text(b"milter %b fails on this message" % self.name.encode())
        return self._caught(StageResult(reasons=reasons), "message", text, told=False)

    def _drop(self) -> None:
        """Hang up without QUIT, as Postfix does; nothing is asked of it again."""
        if self._client is not None:
            self._client.abort()
            self._client = None

    def _macros(self, facts: Mapping[str, bytes]) -> Mapping[str, bytes]:
        own = self.options.macro_daemon_name
        named = {"daemon_name": own.encode()} if own else {}
        return {**self._shared.facts.macros, **facts, **named}

    def _reason(self, outcome: str, stage: str, **facts: str) -> Reason:
        return Reason(f"milter {self.name}", outcome, {"stage": stage, **facts})

    def _note(self, stage: str, began: float, result: StageResult) -> None:
        outcome = "failed" if result is self._fixed and self._state is State.FIXED else ""
        seconds = self._shared.clock() - began
        self._shared.observe(self.name, stage, seconds, outcome or result.verdict.value)


def _path(address: bytes) -> bytes:
    return b"<%b>" % address
