"""What a milter's answers make of the session: its verdicts and faults as results.

The states are those of Postfix's milter8.c.  A milter that accepted the connection
is out for the session, one that refused it or failed gives the same answer to
every later event, one that accepted a message is left alone until the next.
"""

from __future__ import annotations

import functools
from dataclasses import replace

from milterd.core.decision import Reason, Reply, Verdict
from milterd.core.finding import HOLD_QUEUE, Found
from milterd.wire import messages as wire
from milterd.wire.errors import PeerError
from smtpgw.chain import replies
from smtpgw.chain.edits import hold_text
from smtpgw.chain.faults import FaultKind, MilterFault
from smtpgw.chain.options import DefaultAction, MilterOptions
from smtpgw.chain.results import StageResult
from smtpgw.chain.shared import GO_ON, Shared, State

_OFTEN = 8
"""Edits of one mail up to which a result is remembered."""


def _content_with(source: str, stage: str, edits: int, words: str = "") -> StageResult:
    facts = {"stage": stage, "edits": str(edits)} if edits else {"stage": stage}
    if words:
        facts["said"] = words
    return StageResult(reasons=(Reason(source, "edited" if edits else "continue", facts),))


_often_content_with = functools.lru_cache(maxsize=1024)(_content_with)


class Standing:
    """Where one milter stands in one session.  `fixed` is its answer to everything that is
    asked no more, `passed` what it said when it accepted this message."""

    def __init__(self, options: MilterOptions, shared: Shared) -> None:
        self._options, self._shared = options, shared
        self._source = f"milter {options.name}"
        self.name = options.name
        self.state = State.NEW
        self.fixed = GO_ON
        self.passed = GO_ON
        self.went_on = _often_content_with(self._source, "eom", 0)
        """The result of a milter that has nothing to say to the message."""

    @property
    def over(self) -> bool:
        """Whether the milter is asked no more this session, and is to be hung up on."""
        return self.state is State.OUT or self.state is State.FIXED

    @property
    def unasked(self) -> StageResult:
        """What stands in for an answer; why the mail goes on is told with the message."""
        return self.fixed if self.fixed.refused else GO_ON

    def transaction_over(self) -> None:
        """A milter that accepted a message is told of the next."""
        if self.state is State.PASSED:
            self.state = State.OPEN

    def content_with(self, stage: str, edits: int, words: str = "") -> StageResult:
        """The result of a milter that lets the mail go on, and has so many edits that count; its
        reasons are these words."""
        if edits > _OFTEN:
            return _content_with(self._source, stage, edits, words)
        return _often_content_with(self._source, stage, edits, words)

    def judge(self, stage: str, reply: wire.Reply | None) -> StageResult:
        """A milter's reply as a result, and what it makes of the session."""
        early = stage in {"connect", "helo"}
        match reply:
            case None | wire.Continue() | wire.Skip():
                return GO_ON
            case wire.Accept():
                result = StageResult(reasons=(self.reason("accept", stage),))
                if early:
                    self.fixed = result
                else:
                    self.passed = result
                self.state = State.OUT if early else State.PASSED
                return result
            case wire.Discard() if early:
                self._shared.log.warning(
                    "milter discard ignored", milter=self._options.name, stage=stage
                )
                return StageResult(reasons=(self.reason("discard ignored", stage),))
            case wire.Discard():
                self.state = State.PASSED
                found = Found(self._options.name, "discard", "discard")
                if found in self._shared.passing:
                    return self._let_pass(stage, found, early=False)
                reasons = (self.reason("discard", stage),)
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
            one = Found(self._options.name, f"reject {reply}", str(reply))
            if one in self._shared.passing:
                return self._let_pass(stage, one, early=fixed)
            found = (one,)
        reasons = (self.reason(verdict.value, stage, reply=str(reply)),)
        result = StageResult(verdict, reply, reply.code in {421, 521}, reasons, found=found)
        if fixed:
            self.fixed = result
            self.state = State.FIXED
        return result

    def _let_pass(self, stage: str, found: Found, *, early: bool) -> StageResult:
        """A verdict that a postmaster released the mail in spite of; the milter is asked no more,
        since it believes the mail is gone."""
        result = StageResult(reasons=(self.reason("released", stage, text=found.text),))
        if stage == "rcpt":
            return result  # of one recipient: the milter goes on by itself
        if early:
            self.fixed = result
        else:
            self.passed = result
        self.state = State.OUT if early else State.PASSED
        return result

    def failed(self, stage: str, fault: MilterFault) -> StageResult:
        """The failure action, for this event and the rest of the session."""
        action = self._options.action
        self._shared.log.warning(
            "milter failed",
            milter=self._options.name,
            stage=stage,
            fault=str(fault.kind),
            detail=fault.detail,
            action=str(action),
        )
        reason = self.reason(
            "failed", stage, fault=str(fault.kind), detail=fault.detail, action=str(action)
        )
        match action:
            case DefaultAction.ACCEPT:
                self.fixed = StageResult(reasons=(reason,))
            case DefaultAction.QUARANTINE:
                text = hold_text(b"milter %b failed" % self._options.name.encode())
                plain = StageResult(reasons=(reason,))
                self.fixed = self.caught(plain, stage, text, told=False)
            case _:
                reply = replies.UNAVAILABLE[action]
                verdict = Verdict.REJECT if reply.code >= 500 else Verdict.TEMPFAIL
                self.fixed = StageResult(verdict, reply, reply.code == 421, (reason,))
        self.state = State.FIXED
        return self.fixed

    def poison(self) -> StageResult:
        """A message that keeps killing the milter is held, not refused for ever."""
        self._shared.log.warning(
            "milter killed by message", milter=self._options.name, action="hold"
        )
        reasons = (*self.fixed.reasons, self.reason("quarantine", "message", text="poison"))
        text = hold_text(b"milter %b fails on this message" % self._options.name.encode())
        return self.caught(StageResult(reasons=reasons), "message", text, told=False)

    def caught(
        self, result: StageResult, stage: str, text: bytes, *, told: bool = True
    ) -> StageResult:
        """The result with a quarantine, unless the mail was released in spite of this finding."""
        said = text.decode("ascii")
        found = Found.of(self._options.name, said)
        if found in self._shared.passing:
            reason = self.reason("released", stage, text=said)
            return replace(result, reasons=(*result.reasons, reason))
        reasons = result.reasons
        if told:
            reasons = (*reasons, self.reason("quarantine", stage, text=said))
        kept = () if found.filter == HOLD_QUEUE else (found,)
        return replace(result, reasons=reasons, quarantine=text, found=(*result.found, *kept))

    def reason(self, outcome: str, stage: str, **facts: str) -> Reason:
        """Why something of this milter's counts."""
        return Reason(self._source, outcome, {"stage": stage, **facts})
