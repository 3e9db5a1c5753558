"""One message on its way through all milters of a chain.

A milter that was shown the message at once (:meth:`Member.begin`) is waited for without a task of
its own: as soon as its verdict is there, the next milter is shown what it left, in the same turn
of the event loop.  Whoever waits for the passage wakes once, when all have spoken.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from milterd.core.actions import Edit
from milterd.core.apply import apply
from milterd.core.decision import Reason, Verdict
from milterd.core.mail import Mail
from smtpgw.chain.concluding import Answer
from smtpgw.chain.content import Content
from smtpgw.chain.results import ChainResult, StageResult
from smtpgw.chain.shared import GO_ON, Log, both


class Passed(Protocol):
    """A milter that a message passes (:class:`~smtpgw.chain.member.Member`), or a filter in this
    process (:class:`~smtpgw.chain.inside.InsideMember`)."""

    name: str
    may_edit: bool
    begun: bool

    @property
    def asked(self) -> bool: ...

    @property
    def answered(self) -> bool:
        """Whether :meth:`take` has what is due already."""
        ...

    def begin(self, content: Content, heard: Callable[[], None] | None = None) -> bool: ...

    def take(self, content: Content, /) -> Answer | None: ...

    def listen(self, heard: Callable[[], None]) -> None: ...

    def dismiss(self) -> None: ...

    def break_off(self) -> None: ...

    async def message(self, content: Content) -> Answer: ...


class Passage:
    """`facts` are the macros of the end of message, `before` what the milters said before it."""

    __slots__ = (
        "_applied",
        "_at",
        "_begun",
        "_content",
        "_end",
        "_found",
        "_last",
        "_listened",
        "_log",
        "_mail",
        "_members",
        "_quarantine",
        "_reasons",
        "_woken",
    )

    def __init__(
        self,
        members: Sequence[Passed],
        mail: Mail,
        facts: Mapping[str, bytes],
        before: StageResult,
        log: Log,
    ) -> None:
        self._members, self._log = members, log
        self._mail = mail
        self._content = Content(mail, facts)
        self._last = GO_ON
        self._reasons: list[Reason] = []
        self._quarantine, self._found = before.quarantine, before.found
        self._applied: list[tuple[str, tuple[Edit, ...]]] = []
        self._at = self._begun = 0
        self._end = len(members)
        self._listened: Passed | None = None
        self._woken: asyncio.Future[None] | None = None

    async def run(self) -> ChainResult:
        """The message through all of them, or up to the one that does not let it go on."""
        while (member := self._go_on()) is not None:
            if member.begun:
                await self._heard_of(member)
            else:
                self._heard(member, await member.message(self._content))
        return self._result()

    def _go_on(self) -> Passed | None:
        """Go on as far as it takes no waiting; whose answer is due then, if anybody's is."""
        members = self._members
        while self._at < self._end:
            member = members[self._at]
            if self._at >= self._begun and self._begin():
                return member
            try:
                answer = member.take(self._content)
            except BaseException:
                member.break_off()
                raise
            if answer is None:
                return member
            self._heard(member, answer)
        return None

    def _begin(self) -> bool:
        """Show the message to the milter whose turn it is, and to those behind it that will see
        the same whatever it answers; whether the first of them waits for its answer."""
        members, content = self._members, self._content
        if content.mail is not self._mail:
            content = self._content = content.edited(self._mail)
        waited_for = False
        for at in range(self._at, self._end):
            member = members[at]
            self._begun = at + 1
            if at == self._at:
                begun = member.begin(content, self._more)
                waited_for = begun and not member.answered
                self._listened = member
            else:
                begun = member.begin(content)
            if member.may_edit or (not begun and member.asked):
                break
        return waited_for

    def _heard(self, member: Passed, answer: Answer) -> None:
        """Take what a milter said to the message."""
        result, edits = answer
        self._last = result
        self._reasons += result.reasons
        self._quarantine = result.quarantine or self._quarantine
        if result.found:
            self._found = both(self._found, result.found)
        self._at += 1
        if result.verdict is not Verdict.CONTINUE:
            for each in self._members[self._at : self._begun]:
                each.dismiss()
            self._at = self._end
        elif edits:
            self._mail = apply(self._mail, edits)
            self._applied.append((member.name, edits))

    async def _heard_of(self, member: Passed) -> None:
        """Until no milter that was begun is to be waited for."""
        self._woken = asyncio.get_running_loop().create_future()
        if self._listened is not member:  # it was not begun with somebody who listens
            self._listen_to(member)
        try:
            await self._woken
        except asyncio.CancelledError:
            if self._at < self._end:
                self._members[self._at].break_off()
            raise

    def _more(self) -> None:
        """A milter has said something, or failed."""
        woken = self._woken
        if woken is None or woken.done():
            return
        try:
            member = self._go_on()
        except Exception as error:  # noqa: BLE001 - it is raised where the passage is waited for
            woken.set_exception(error)
            return
        if member is None or not member.begun:
            woken.set_result(None)
        elif self._listened is not member:
            self._listen_to(member)

    def _listen_to(self, member: Passed) -> None:
        self._listened = member
        member.listen(self._more)

    def _result(self) -> ChainResult:
        mail, last = self._mail, self._last
        verdict = last.verdict
        if verdict is Verdict.CONTINUE and not mail.envelope.recipients:
            # A mail whose every recipient was deleted is discarded.
            self._log.warning("milters deleted every recipient", action="discard")
            self._reasons.append(Reason("chain", "discard", {"stage": "eom", "recipients": "0"}))
            verdict = Verdict.DISCARD
        return ChainResult(
            mail=mail,
            verdict=verdict,
            reply=last.reply,
            hangup=last.hangup,
            quarantine=self._quarantine if verdict is Verdict.CONTINUE else None,
            reasons=tuple(self._reasons),
            edits=tuple(self._applied),
            found=self._found,
        )
