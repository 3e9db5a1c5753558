"""One milter in one SMTP session: what it has been told, and what it is still asked.

A milter that answers nothing before the end of message is told of everything else together with
it, or once the transaction is over without one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from milterd.core.decision import Verdict
from milterd.core.finding import MACRO, macro_value
from milterd.wire import messages as wire
from milterd.wire.states import CommandType
from smtpgw.chain.client import MilterClient
from smtpgw.chain.concluding import Answer, conclude
from smtpgw.chain.content import Content
from smtpgw.chain.events import Event, Said
from smtpgw.chain.faults import FaultKind, MilterFault
from smtpgw.chain.link import ABORT, Link
from smtpgw.chain.options import MilterOptions
from smtpgw.chain.results import StageResult
from smtpgw.chain.shared import GO_ON, Shared, State, merge
from smtpgw.chain.showing import Outcome, Showing

PUT_OFF = 128
"""Events that a milter is told of later, at most."""
_SESSION = frozenset[CommandType]({wire.Connect, wire.Helo, wire.MailFrom})
_BROKEN_OFF = MilterFault(FaultKind.CLOSED, "we broke off")


class Member(Link):
    """One milter in one session.  No method raises for what a milter does."""

    def __init__(self, options: MilterOptions, shared: Shared) -> None:
        super().__init__(options, shared)
        self._told_connect = False
        self._told_helo: Event | None = None
        self.begun = False
        """Whether it was shown the message at once, and its verdict is not taken yet."""
        self._began = 0.0
        self._dirty = self._ended = self._hidden = False

    answered = False
    """A milter behind a socket never has answered when it has just been asked."""

    @staticmethod
    def abort_all(members: Sequence[Member]) -> None:
        """The transaction is over: ABORT to those who were told of one."""
        for each in members:
            if each._dirty or each.begun or each._standing.state is State.PASSED:
                each._abort()

    def _abort(self) -> None:
        client = self._client
        if self._dirty and client is not None:
            if self._quiet and (self._ended or client.connection.awaiting):
                self._owed = True  # nobody is in a hurry to hear it who has the whole message
            else:
                self._apart()
                self._later.append(ABORT)
                self._tell_now(client)
        self._dirty = self._ended = False
        if self.begun:
            self.dismiss()
        if self._standing.state is State.PASSED:
            self._standing.transaction_over()

    # --- events before the content ---

    def put_off(self, event: Event) -> bool:
        """Tell the milter of an event later, which is all it wants; whether it will do."""
        session = event.kind in _SESSION
        if self._hidden and session:
            self._look_at_hidden()
        if not self._can_wait():
            return False
        self._apart()
        if len(self._later) >= PUT_OFF:
            return False
        self._later += self._due(event)
        self._dirty = self._dirty or not session or event.kind is wire.MailFrom
        return True

    def _can_wait(self) -> bool:
        client = self._client
        return (
            self._quiet
            and client is not None
            and client.fault is None
            and self._standing.state is State.OPEN
        )

    @staticmethod
    def put_off_session(members: Sequence[Member], event: Event, said: Said | None) -> Said | None:
        """The same for CONNECT, HELO or MAIL and all milters; what they share from then on, which
        is `said` if they shared it up to now.  None where it will not do for one of them: nobody
        is told then."""
        if said is None or not said.whole or len(said.events) >= PUT_OFF:
            for each in members:
                if each._hidden:
                    each._look_at_hidden()
                if not each._can_wait() or each._shared.passing or len(each._later) >= PUT_OFF:
                    return None
            said = Said()
            for each in members:
                knows = each._told_connect and each._told_helo is each._shared.facts.helo
                if each._said is not None or not knows:
                    each._tell_first(event.kind)
                each._said = said
        said.events.append(event)
        for each in members:
            if event.kind is wire.MailFrom:
                each._dirty = True
            elif event.kind is wire.Helo:
                each._told_helo = event
            else:
                each._told_connect = True
        return said

    @staticmethod
    def tell_apart(members: Sequence[Member]) -> None:
        """From now on each is told what it alone is to hear."""
        for each in members:
            each._apart()

    def _tell_first(self, kind: CommandType) -> None:
        """What the milter is to hear before such an event, if anything is due, and before all
        that it hears with others from then on."""
        self._apart()
        if kind is not wire.Connect:
            self._later += self._session_due(helo=kind is wire.MailFrom)

    @staticmethod
    def put_off_all(members: Sequence[Member], event: Event) -> bool:
        """The same for RCPT or DATA, where they do not share what they are told."""
        if not all(each._can_wait() for each in members):
            return False
        for each in members:
            each._apart()
            if len(each._later) >= PUT_OFF:
                return False
        for each in members:
            each._later.append(event)
            each._dirty = True
        return True

    def _due(self, event: Event) -> list[Event]:
        """The event, and before it the connection and HELO, where the milter has not been told."""
        if event.kind not in _SESSION:
            return [event]
        if event.kind is wire.MailFrom:
            said = self._with_keys(event) if self._shared.passing else event
            return [*self._session_due(helo=True), said]
        return self._session_due(helo=event.kind is wire.Helo)

    def _session_due(self, *, helo: bool) -> list[Event]:
        facts = self._shared.facts
        due: list[Event] = []
        if not self._told_connect:
            self._told_connect = True
            due.append(facts.connect)
        if helo and self._told_helo is not facts.helo:
            self._told_helo = facts.helo
            due += [facts.helo] if facts.helo is not None else ()
        return due

    def _with_keys(self, event: Event) -> Event:
        """MAIL as one of our filters hears it that is to pass something over."""
        passing = self._shared.passing
        keys = [each.key for each in passing if each.milter == self.options.name and each.key]
        return event.with_facts({MACRO: macro_value(keys)}) if keys else event

    async def ask(self, event: Event) -> StageResult:
        """Tell it of an event now, and of what it should have been told before."""
        if event.kind in _SESSION:
            await self.open()
        if not self.asked:
            return self._standing.unasked
        total = GO_ON
        for each in self._due(event):
            result = await self._ask(each)
            # Why a connection goes on is told with the message.
            if each.kind is not wire.Connect or result.verdict is not Verdict.CONTINUE:
                total = merge(total, result)
            if result.verdict is not Verdict.CONTINUE:
                break
        return total

    async def _ask(self, event: Event) -> StageResult:
        if not self.asked or self._client is None:
            return self._standing.unasked
        client, began = self._client, self._shared.clock()
        patience = self.options.command_timeout
        client.begin(self.options.total_timeout)
        try:
            client.check()
            self._tell(client)
            self._dirty = self._dirty or event.kind not in (wire.Connect, wire.Helo)
            unsent = event.kind in client.connection.unsent
            client.add(event.kind, b"" if unsent else event.octets(self._hearing))
            reply = await client.heard(patience)
            result = self._standing.judge(event.stage, reply)
            if client.early_hold is not None or client.connection.violated != self._noted:
                result = self._with_hold(client, event.stage, result)
        except MilterFault as fault:
            result = self._standing.failed(event.stage, fault)
        except BaseException:
            self._standing.failed(event.stage, _BROKEN_OFF)
            self._drop()
            raise
        self._note(event.stage, began, result)
        return result

    # --- the content ---

    def begin(self, content: Content, heard: Callable[[], None] | None = None) -> bool:
        """Show the message to a milter that answers nothing but its end, and that can take it at
        once; whether that was done.  :meth:`take` gets the answer; `heard` is as in
        :meth:`listen`."""
        client, options = self._client, self.options
        if client is None or not (content.small and self._quiet) or client.fault is not None:
            return False
        if self._standing.state is not State.OPEN:
            return False
        self._dirty = True
        self._began = self._shared.clock()
        times = options.content_timeout, options.total_timeout
        try:
            kinds, told = self._told()
            more, frames = content.whole(self._hearing)
            client.show(times, heard, kinds + more, told, frames)
        except BaseException:
            self.break_off()
            raise
        self.begun = True
        return True

    def break_off(self) -> None:
        """Nobody will take the milter's answer: it is asked no more."""
        self._standing.failed("message", _BROKEN_OFF)
        self._drop()

    def dismiss(self) -> None:
        """The message was begun, and its answer does not matter any more: another milter has
        refused it, and this one is to be as if it had not been asked."""
        if self.begun and self._client is not None:
            self._client.dismiss()
            self._words.forget()
            self._hidden = True
        self.begun = False

    def _look_at_hidden(self) -> None:
        """A milter that failed over such a message, or still judges it, is connected to anew."""
        self._hidden = False
        if self._client is not None and not self._client.usable:
            self._drop()
            self._standing.state = State.NEW
            self._told_connect, self._told_helo = False, None

    def take(self, content: Content) -> Answer | None:
        """What the milter says to the message, if that is known: it is not to be asked, or was
        shown it by :meth:`begin` and has answered."""
        standing, client = self._standing, self._client
        if client is None or standing.state is not State.OPEN:
            return standing.passed if standing.state is State.PASSED else standing.fixed, ()
        if not self.begun:
            return None
        try:
            outcome = self._words.outcome()
            if outcome is None:
                return None
            self.begun, client.listener = False, None
            return self._concluded(client, outcome)
        except MilterFault as fault:
            self.begun, client.listener = False, None
            return self._failed_over(content, fault)

    def listen(self, heard: Callable[[], None]) -> None:
        """Have `heard` called, once or more often, when :meth:`take` may have what is due."""
        if self._client is not None:
            self._client.listen(self.options.content_timeout, heard)

    async def message(self, content: Content) -> Answer:
        """Show header, body and end of message as the milter answers; what it says to them."""
        client = self._client
        if client is None:
            return self._standing.fixed, ()
        self._dirty = True
        self._began = self._shared.clock()
        client.begin(self.options.total_timeout)
        try:
            client.check()
            self._tell(client)
            showing = Showing(client, content, self._hearing, self.options.content_timeout)
            return self._concluded(client, await showing.run(self._words))
        except MilterFault as fault:
            return self._failed_over(content, fault)
        except BaseException:
            self.break_off()
            raise

    def _concluded(self, client: MilterClient, outcome: Outcome) -> Answer:
        result, edits = conclude(self._standing, self._shared, outcome)
        if client.early_hold is not None or client.connection.violated != self._noted:
            result = self._with_hold(client, "message", result)
        self._ended = outcome.stage == "eom"
        self._note("message", self._began, result)
        return result, edits

    def _failed_over(self, content: Content, fault: MilterFault) -> Answer:
        result = self._standing.failed("message", fault)
        crashed = self._shared.health.crashed
        if fault.kind is FaultKind.CLOSED and crashed(self.name, content.mail):
            result = self._standing.poison()
        self._note("message", self._began, result)
        return result, ()

    def _drop(self) -> None:
        super()._drop()
        self.begun = False
