"""Asking a filter: whatever happens in it, there is a decision, a log line and a count.

Our own failure is temporary for the sender (451 4.3.0) and says nothing but a trace
id, which stands in the log with the failure itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from milterd.core.decision import Decision, Reason, Reply, Verdict
from milterd.core.filter import Filter
from milterd.core.mail import Client, Mail
from milterd.host.collect import Collector, TooLargeError
from milterd.host.options import Options, Oversize


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


class Judge:
    """One filter with the host's options: collected messages in, decisions out."""

    def __init__(self, filter_: Filter[Any], options: Options, surroundings: Surroundings) -> None:
        self.filter = filter_
        self.options = options
        self._with = surroundings

    def collected(self, collector: Collector) -> Mail | Decision:
        """The mail to judge, or the decision where it could not be collected."""
        try:
            return collector.mail()
        except TooLargeError as error:
            return self._oversize(str(error))
        except Exception as error:  # noqa: BLE001  # the collector kept it for us: answered as ours
            return self.failure("spool", error)

    def judge(self, mail: Mail) -> Decision:
        """Ask the filter.  May block as long as its `gather` does; never raises."""
        try:
            return self.filter.decide(mail, self.filter.gather(mail))
        except Exception as error:  # noqa: BLE001  # a filter's fault must not end its process
            return self.failure("filter", error)

    def failure(self, kind: str, error: Exception) -> Decision:
        """451 4.3.0 with a trace id; the log has it too, with what happened."""
        trace = self._with.trace_id()
        self._with.meter.failed(kind)
        self._with.log.error(
            "failure", filter=self.filter.name, kind=kind, trace=trace, exc_info=error
        )
        reply = Reply(451, "4.3.0", f"Internal error, trace id {trace}")
        reason = Reason("host", f"{kind} failed", {"trace": trace, "error": type(error).__name__})
        return Decision(Verdict.TEMPFAIL, reply=reply, reasons=(reason,))

    def record(self, decision: Decision, client: Client, queue_id: str, started: float) -> None:
        """The one log line of a decision, and its count."""
        seconds = self._with.clock() - started
        outcome = outcome_of(decision)
        self._with.meter.decided(outcome, seconds)
        self._with.log.info(
            "decision",
            filter=self.filter.name,
            client=_shown(client),
            queue_id=queue_id,
            outcome=outcome,
            reason="; ".join(map(_reason, decision.reasons)),
            ms=round(seconds * 1000, 1),
        )

    def now(self) -> float:
        """The clock, for :meth:`record`."""
        return self._with.clock()

    def _oversize(self, why: str) -> Decision:
        reason = (Reason("host", "oversize", {"limit": why}),)
        match self.options.oversize:
            case Oversize.ACCEPT:
                return Decision(Verdict.ACCEPT, reasons=reason)
            case Oversize.TEMPFAIL:
                reply = Reply(452, "4.3.4", "Message too large for content filter")
                return Decision(Verdict.TEMPFAIL, reply=reply, reasons=reason)
            case Oversize.REJECT:
                reply = Reply(552, "5.3.4", "Message too large for content filter")
                return Decision(Verdict.REJECT, reply=reply, reasons=reason)


def outcome_of(decision: Decision) -> str:
    """The verdict as the log and the metrics name it; `edit` is a mail let go on changed."""
    goes_on = decision.verdict in (Verdict.CONTINUE, Verdict.ACCEPT)
    return "edit" if goes_on and decision.edits else decision.verdict.value


def _shown(client: Client) -> str:
    name, address = (each.decode("utf-8", "replace") for each in (client.name, client.address))
    return f"{name}[{address}]" if address and name != f"[{address}]" else name


def _reason(reason: Reason) -> str:
    facts = " ".join(f"{name}={value}" for name, value in reason.facts.items())
    return f"{reason.source}: {reason.outcome}" + (f" ({facts})" if facts else "")
