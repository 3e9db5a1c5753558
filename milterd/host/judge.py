"""Asking a filter: whatever happens in it, there is a decision, a log line and a count.

Our own failure is temporary for the sender (451 4.3.0) and says nothing but a trace
id, which stands in the log with the failure itself.  A filter's own faults are treated as its
options say, and so by default.

A filter in shadow is asked, logged and counted like any other; the MTA is told to go on.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from milterd.core.actions import AddHeader, Edit, Quarantine
from milterd.core.decision import Decision, Reason, Reply, Verdict
from milterd.core.filter import Beginning, Filter, Foreseeing, Need, Prompt
from milterd.core.finding import AWAITED, Finding
from milterd.core.mail import Client, Direction, Mail
from milterd.host import emit, negotiation
from milterd.host.collect import Collector, TooLargeError, over_header, over_size
from milterd.host.memory import Memory
from milterd.host.options import Fault, OnFailure, Options
from milterd.wire.constants import Actions

_GO_ON = Decision()
Later = Callable[[], Decision]
"""Work for a thread."""
CallOff = Callable[[], None]


def _nothing() -> None:
    """There is nothing to call off."""


class Log(Protocol):
    """The part of a structlog logger that a host uses."""

    def info(self, event: str, **facts: Any) -> Any: ...
    def warning(self, event: str, **facts: Any) -> Any: ...
    def error(self, event: str, **facts: Any) -> Any: ...
    def exception(self, event: str, **facts: Any) -> Any: ...


class Meter(Protocol):
    """Where decisions and failures are counted."""

    def decided(self, outcome: str, seconds: float) -> None:
        """One decision, and the time from the end of the message to it."""
        ...

    def failed(self, kind: str) -> None:
        """One failure of ours: `filter`, `emit`, `spool`, `protocol`."""
        ...


class NoMeter:
    """Counts nothing."""

    def decided(self, outcome: str, seconds: float) -> None:
        pass

    def failed(self, kind: str) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a host is handed besides the filter: nothing is reached for behind its back.

    `clock` gives seconds from any origin, monotonic; `trace_id` short ids that are
    unlikely to repeat within the time logs are kept.
    """

    log: Log
    trace_id: Callable[[], str]
    meter: Meter = field(default_factory=NoMeter)
    clock: Callable[[], float] = time.monotonic


NOT_JUDGED = b"X-Not-Judged"
NOT_JUDGED_YET = f"{AWAITED}not-judged"
"""The rule of a mail that is held until the filter can judge it (see milterd.core.finding)."""
"""The field of a mail that goes on, or is held, though a filter did not judge it."""
SHOWN = Need.HELO | Need.RECIPIENTS | Need.HEADERS | Need.BODY
"""What a filter in shadow still needs: to be shown what it looks at, and to change nothing."""


class Judge:
    """One filter with the host's options: collected messages in, decisions out."""

    def __init__(self, filter_: Filter[Any], options: Options, surroundings: Surroundings) -> None:
        self.filter = filter_
        self.options = options
        self.memory = Memory(options.memory_total)  # of all its connections
        wanted = filter_.needs | options.needs
        self.needs = wanted & SHOWN if options.shadow else wanted
        self._with = surroundings
        level = getattr(surroundings.log, "is_enabled_for", None)
        self._tells = level is None or level(logging.INFO)
        self._prompt = filter_ if isinstance(filter_, Prompt) else None
        self._mode = {"shadow": True} if options.shadow else {}
        self._foreseeing = filter_ if isinstance(filter_, Foreseeing) else None
        self._beginning = filter_ if isinstance(filter_, Beginning) else None

    def collected(self, collector: Collector) -> Mail | Decision:
        """The mail to judge, or the decision where it could not be collected."""
        try:
            return collector.mail()
        except TooLargeError as error:
            return self._oversize(str(error), collector.direction)
        except Exception as error:  # noqa: BLE001  # the collector kept it for us: answered as ours
            return self.failure("spool", error)

    def judge(self, mail: Mail) -> Decision:
        """Ask the filter.  May block as long as its `gather` does; never raises."""
        try:
            if self._foreseeing is not None:
                return self._foreseen(mail, self._foreseeing)
            return self.filter.decide(mail, self.filter.gather(mail))
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a filter's fault must not end its process
            return self.failure("filter", error, self._on_error(mail.session.direction))

    def too_large(self, mail: Mail, head: int) -> Decision | None:
        """The decision about a mail beyond the limits, which the filter is not shown; None for
        any other.  `head` are the octets of its header, as they are counted on a socket."""
        envelope, limit = mail.envelope, self.options.header_limit
        # As on a socket, where addresses stand in brackets.
        head += len(envelope.sender) + 2 + sum(map(len, envelope.sender_args))
        for each in envelope.recipients:
            head += len(each.address) + 2 + sum(map(len, each.args))
        if head > limit:
            return self._oversize(over_header(limit), mail.session.direction)
        limit = self.options.size_limit
        if mail.body.size and head + mail.body.size > limit:
            return self._oversize(over_size(limit), mail.session.direction)
        return None

    def _foreseen(self, mail: Mail, filter_: Foreseeing) -> Decision:
        """The decision, made by the usual facts while the filter waits for them."""
        usual, early = filter_.usual, list[Decision]()

        def decide() -> None:
            # A fault is raised again where this decision turns out to be the one.
            with contextlib.suppress(Exception):
                early[:] = early or [self.filter.decide(mail, usual)]

        facts = filter_.gather_while(mail, decide)
        return early[0] if early and facts == usual else self.filter.decide(mail, facts)

    def at_once(self, mail: Mail) -> Decision | None:
        """The decision of a filter that need not wait for it; None where :meth:`judge` has to be
        called.  Never raises."""
        if self._prompt is None:
            return None
        try:
            facts = self._prompt.at_once(mail)
            return None if facts is None else self.filter.decide(mail, facts)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # as in judge
            return self.failure("filter", error, self._on_error(mail.session.direction))

    def begin(self, mail: Mail, then: Callable[[Decision | Later], None]) -> CallOff | None:
        """Ask a filter that waits without a thread; what is returned calls it off.  `then` is
        called once, in the running event loop: with the decision, or with work for a thread that
        makes it.  None where nothing was begun, and :meth:`judge` has to be called.  Never raises,
        nor does that work."""
        if self._beginning is None:
            return None
        early = list[Decision]()

        def came(facts: Any) -> None:
            if callable(facts):
                then(lambda: self._made(mail, facts))
            elif early and self._foreseeing is not None and facts == self._foreseeing.usual:
                then(early[0])
            else:
                then(self._made(mail, lambda: facts))

        try:
            call_off = self._beginning.begin(mail, came)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # as in judge
            decision = self.failure("filter", error, self._on_error(mail.session.direction))
            asyncio.get_running_loop().call_soon(then, decision)
            return _nothing
        if call_off is not None and self._foreseeing is not None:
            with contextlib.suppress(Exception):  # raised again where this decision is needed
                early.append(self.filter.decide(mail, self._foreseeing.usual))
        return call_off

    def _made(self, mail: Mail, gathered: Callable[[], Any]) -> Decision:
        """The decision by what was gathered.  Never raises."""
        try:
            return self.filter.decide(mail, gathered())
        except (Exception, SystemExit) as error:  # noqa: BLE001  # as in judge
            return self.failure("filter", error, self._on_error(mail.session.direction))

    def late(self, mail: Mail) -> Decision:
        """The decision about a mail that the filter has not judged in its time."""
        error = TimeoutError(f"no decision within {self.options.judge_time} s")
        return self.failure("filter", error, self._on_error(mail.session.direction))

    def _on_error(self, direction: Direction) -> OnFailure:
        return self.options.action(Fault.ERROR, direction)

    def sayable(
        self, decision: Decision, agreed: Actions, direction: Direction, *, leading_space: bool
    ) -> Decision:
        """The decision, or what takes its place where it cannot be said as it is.

        In shadow nothing is agreed to but what is shown; there it is held against what the
        filter would ask for.
        """
        if self.options.shadow:
            agreed = negotiation.actions(self.filter.needs | self.options.needs)
        if not decision.edits:
            return decision
        # What takes its place may be no easier to say to this MTA; the last word always is.
        for last in (False, True):
            try:
                emit.check(decision, agreed, leading_space=leading_space)
            except emit.UnsayableError as error:
                policy = OnFailure.TEMPFAIL if last else self._on_error(direction)
                decision = self.failure("emit", error, policy)
            else:
                break
        return decision

    def said(self, decision: Decision) -> Decision:
        """What the MTA is told: the decision, or in shadow to go on."""
        return _GO_ON if self.options.shadow else decision

    def failure(
        self, kind: str, error: BaseException, policy: OnFailure = OnFailure.TEMPFAIL
    ) -> Decision:
        """451 4.3.0 with a trace id, unless the policy differs; the log has the id too, with what
        happened, and where."""
        trace = self._with.trace_id()
        self._with.meter.failed(kind)
        self._with.log.error(
            "failure",
            filter=self.filter.name,
            kind=kind,
            trace=trace,
            at=place_of(error, str(getattr(self.filter, "file", ""))),
            exc_info=error,
            **self._mode,
        )
        facts = {"trace": trace, "error": type(error).__name__}
        reasons = (Reason("host", f"{kind} failed", facts),)
        text = f"Internal error, trace id {trace}"
        replies = (Reply(554, "5.3.0", text), Reply(451, "4.3.0", text))
        return self._unjudged(policy, "error", replies, reasons)

    def _unjudged(
        self,
        policy: OnFailure,
        word: str,
        replies: tuple[Reply, Reply],
        reasons: tuple[Reason, ...],
    ) -> Decision:
        """The decision for a mail that the filter has not judged; `replies` are those of a
        refusal for good and of one for now."""
        match policy:
            case OnFailure.ACCEPT:
                return Decision(reasons=reasons)
            case OnFailure.REJECT:
                return Decision(Verdict.REJECT, reply=replies[0], reasons=reasons)
            case OnFailure.TEMPFAIL:
                return Decision(Verdict.TEMPFAIL, reply=replies[1], reasons=reasons)
        said = f"{self.filter.name}: {word}".encode("ascii", "replace")
        edits: list[Edit] = [AddHeader(NOT_JUDGED, b" " + said)]
        if policy is OnFailure.HOLD:
            text = f"{word}; held until it is judged"
            edits.append(Finding(self.filter.name, NOT_JUDGED_YET, text).quarantine())
        elif policy is OnFailure.QUARANTINE:
            edits.append(Quarantine(b"not judged by " + said))
        return Decision(edits=tuple(edits), reasons=reasons)

    def record(self, decision: Decision, client: Client, queue_id: str, started: float) -> None:
        """The one log line of a decision, and its count."""
        seconds = self._with.clock() - started
        outcome = outcome_of(decision)
        self._with.meter.decided(outcome, seconds)
        if not self._tells:
            return
        self._with.log.info(
            "decision",
            filter=self.filter.name,
            client=_shown(client),
            queue_id=queue_id,
            outcome=outcome,
            reason=words_of(decision),
            ms=round(seconds * 1000, 1),
            **self._mode,
        )

    def counted(self, decision: Decision, started: float) -> None:
        """Its count alone, for who tells of it himself."""
        self._with.meter.decided(outcome_of(decision), self._with.clock() - started)

    def now(self) -> float:
        """The clock, for :meth:`record`."""
        return self._with.clock()

    def _oversize(self, why: str, direction: Direction) -> Decision:
        reasons = (Reason("host", "oversize", {"limit": why}),)
        text = "Message too large for content filter"
        replies = (Reply(552, "5.3.4", text), Reply(452, "4.3.4", text))
        policy = self.options.action(Fault.TOO_LARGE, direction)
        if policy is OnFailure.ACCEPT:
            return Decision(Verdict.ACCEPT, reasons=reasons)
        return self._unjudged(policy, "too large", replies, reasons)


def place_of(error: BaseException, file: str = "") -> str:
    """`FILE:LINE` of a fault: the last line of `file` that took part in it, or where it was
    raised; empty where nothing was."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [each for each in frames if each.filename == file] or frames
    return f"{own[-1].filename}:{own[-1].lineno}" if own else ""


def outcome_of(decision: Decision) -> str:
    """The verdict as the log and the metrics name it; `edit` is a mail let go on changed."""
    goes_on = decision.verdict in (Verdict.CONTINUE, Verdict.ACCEPT)
    return "edit" if goes_on and decision.edits else decision.verdict.value


def _shown(client: Client) -> str:
    name = client.name.decode("utf-8", "replace")
    address = client.address.decode("utf-8", "replace")
    return f"{name}[{address}]" if address and name != f"[{address}]" else name


def words_of(decision: Decision) -> str:
    """Its reasons, in a line."""
    return "; ".join([_reason(each) for each in decision.reasons])


def _reason(reason: Reason) -> str:
    facts = " ".join([f"{name}={value}" for name, value in reason.facts.items()])
    return f"{reason.source}: {reason.outcome}" + (f" ({facts})" if facts else "")
