"""A filter of ours in this process, in a chain's row: it is asked about each message, and of
nothing else, without a socket between.

What it says counts as what a milter says at the end of a message, by the same rules; and its own
reasons, which a socket has no words for, stand with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from milterd.base.alarm import Alarm
from milterd.core.actions import AddHeader, ChangeHeader, Edit, InsertHeader, ReplaceBody
from milterd.core.finding import MACRO, macro_value
from milterd.core.mail import Mail
from milterd.wire.messages import Continue
from smtpgw.chain.concluding import Answer, conclude
from smtpgw.chain.content import Content
from smtpgw.chain.faults import FaultKind, MilterFault
from smtpgw.chain.options import EditLimits, Filter, MilterOptions, Word
from smtpgw.chain.shared import GO_ON, Shared, State
from smtpgw.chain.showing import Outcome
from smtpgw.chain.standing import Standing

_FIELDS = (AddHeader, InsertHeader, ChangeHeader)


class InsideMember:
    """One such filter in one SMTP session.  No method raises for what the filter does."""

    def __init__(self, options: MilterOptions, filter_: Filter, shared: Shared) -> None:
        self.options, self.name = options, options.name
        self.may_edit = filter_.edits
        self.begun = False
        """Whether it was asked about the message, and what it says is not taken yet."""
        self._filter, self._shared = filter_, shared
        self._standing = Standing(options, shared)
        self._standing.state = State.OPEN
        self._began = 0.0
        self._word: Word | None = None
        self._fault: MilterFault | None = None
        self._call_off: Callable[[], None] | None = None
        self._alarm: Alarm | None = None
        self._heard: Callable[[], None] = _nobody

    @property
    def asked(self) -> bool:
        """Whether it is asked about this message."""
        return self._standing.state is State.OPEN

    @property
    def answered(self) -> bool:
        """Whether :meth:`take` has what is due."""
        return self._word is not None or self._fault is not None

    def over(self) -> None:
        """The transaction is over: a new one finds it as if nothing had been."""
        if self.begun:
            self.dismiss()
        if self._standing.state is not State.OPEN:
            self._standing.state = State.OPEN
            self._standing.fixed = self._standing.passed = GO_ON

    def close(self) -> None:
        """The session is over."""
        self.over()
        if self._alarm is not None:
            self._alarm.close()

    # --- the message ---

    def begin(self, content: Content, heard: Callable[[], None] | None = None) -> bool:
        """Ask it; whether it is asked at all."""
        if self._standing.state is not State.OPEN:
            return False
        self._began = self._shared.clock()
        self._heard = heard or _nobody
        self.begun = True
        mail, (facts, known) = self._shown(content), self._facts(content)
        self._word, self._call_off = self._filter.ask(mail, facts, known, self._come)
        if self._word is None:
            self._wait()
        return True

    def _shown(self, content: Content) -> Mail:
        """What milters see: the mail but for our own trace, and the envelope that the client
        gave."""
        mail, envelope = content.mail, content.envelope
        return Mail(mail.session, envelope, content.shown, mail.body)

    def _facts(self, content: Content) -> tuple[Mapping[str, bytes], dict[object, Any]]:
        """The macros, and what is known by them."""
        own, passing = self.options.macro_daemon_name, self._shared.passing
        if not own and not passing:
            return content.facts, content.known
        facts = dict(content.facts)
        if own and "daemon_name" in facts:
            facts["daemon_name"] = own.encode()
        keys = [each.key for each in passing if each.milter == self.name and each.key]
        if keys:
            facts[MACRO] = macro_value(keys)
        return facts, {}

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        if self._alarm is None:
            self._alarm = Alarm(loop, self._late)
        self._alarm.set(loop.time() + self._patience)

    @property
    def _patience(self) -> float:
        return min(self.options.content_timeout, self.options.total_timeout)

    def _come(self, word: Word) -> None:
        self._word, self._call_off = word, None
        if self._alarm is not None:
            self._alarm.clear()
        self._heard()

    def _late(self) -> None:
        self._called_off()
        self._fault = MilterFault(FaultKind.TIMEOUT, f"no verdict within {self._patience:g} s")
        self._heard()

    def _called_off(self) -> None:
        call_off, self._call_off = self._call_off, None
        if call_off is not None:
            call_off()
        if self._alarm is not None:
            self._alarm.clear()

    def take(self, _content: Content) -> Answer | None:
        """What it says to the message, if that is known."""
        standing = self._standing
        if standing.state is not State.OPEN:
            return standing.passed if standing.state is State.PASSED else standing.fixed, ()
        if not self.answered:
            return None
        word, fault = self._word, self._fault
        self._word = self._fault = None
        self.begun, self._heard = False, _nobody
        try:
            answer = self._concluded(word, fault)
        except MilterFault as error:
            answer = standing.failed("message", error), ()
        self._note(answer)
        return answer

    def _concluded(self, word: Word | None, fault: MilterFault | None) -> Answer:
        """Raises MilterFault."""
        if word is None:
            raise fault or MilterFault(FaultKind.CLOSED, "nothing was said")
        reply, edits, words = word
        if reply is None:
            raise MilterFault(FaultKind.PROTOCOL, words)
        if not edits and type(reply) is Continue:
            return self._standing.content_with("eom", 0, words), ()
        _within(edits, self._shared.limits)
        return conclude(self._standing, self._shared, Outcome(reply, "eom", edits, words=words))

    def _note(self, answer: Answer) -> None:
        shared, state = self._shared, self._standing.state
        outcome = "failed" if state is State.FIXED else answer[0].verdict.value
        shared.observe(self.name, "message", shared.clock() - self._began, outcome)

    def listen(self, heard: Callable[[], None]) -> None:
        """Have `heard` called when :meth:`take` has what is due."""
        self._heard = heard

    def dismiss(self) -> None:
        """What it would say does not matter any more."""
        self._called_off()
        self._word = self._fault = None
        self.begun, self._heard = False, _nobody

    def break_off(self) -> None:
        """Nobody will take its answer."""
        self.dismiss()

    async def message(self, content: Content) -> Answer:
        """Not asked: what stands for its answer."""
        return self.take(content) or (self._standing.fixed, ())


def _within(edits: Sequence[Edit], limits: EditLimits) -> None:
    """Raises MilterFault for more edits than a milter may ask for."""
    octets = 0
    for each in edits:
        if isinstance(each, _FIELDS):
            octets += len(each.name) + len(each.value)
        elif isinstance(each, ReplaceBody) and each.body.size > limits.body_size:
            raise MilterFault(FaultKind.PROTOCOL, f"new body over {limits.body_size} octets")
    if len(edits) > limits.count:
        raise MilterFault(FaultKind.PROTOCOL, f"more than {limits.count} edits")
    if octets > limits.octets:
        raise MilterFault(FaultKind.PROTOCOL, f"edits over {limits.octets} octets")


def _nobody() -> None:
    """Nobody waits."""
