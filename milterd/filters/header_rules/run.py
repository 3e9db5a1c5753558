"""Running rules over a mail, one after the other, each seeing what the ones before it left.

Most rules name fields that a mail does not have: they are passed over by their names alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from milterd.core.decision import Trace, Tried, Verdict
from milterd.core.finding import Finding
from milterd.core.mail import Mail
from milterd.filters.header_rules.compiled import Rule, RuleSet
from milterd.filters.header_rules.conditions import Case
from milterd.filters.header_rules.lines import difference, lines_of, names_in
from milterd.filters.header_rules.model import RuleAction
from milterd.filters.header_rules.outcome import (
    NOTHING,
    Judgement,
    MailEdit,
    Outcome,
    RuleResult,
    Splice,
)
from milterd.filters.header_rules.shield import Shield
from milterd.filters.header_rules.watched import WatchedWork
from milterd.filters.header_rules.work import Matcher, Timer, Work
from milterd.signed.keep import OnSigned, Void, none_void

if TYPE_CHECKING:
    from milterd.filters.header_checks.run import CheckSet

REFUSED = "5.7.1 Message content rejected"
SIGNED = "5.7.1 Message is signed in a way that does not allow a change this site requires"


@dataclass(frozen=True, slots=True)
class Limits:
    """How long rules may take: seconds for one pattern on one field, and for a mail."""

    match: float = 0.1
    mail: float = 1.0


def run(
    rule_sets: Sequence[RuleSet],
    mail: Mail,
    limits: Limits,
    clock: Callable[[], float],
    trace: Trace | None = None,
    void: Void = none_void,
    checks: CheckSet | None = None,
) -> Outcome:
    """Apply `checks`, then the rules for the mail's direction.  `clock` counts seconds.

    A rule that runs out of time changes nothing; those after it still run while
    the mail's time lasts.  `trace` is told of every rule, in order.  `void` tells
    which signatures are not good anyway.
    """
    names = {each.name.lower() for each in mail.headers if not each.hidden}
    direction = mail.session.direction
    # All of them or none: a set that did something might bring a name that another waits for.
    idle = trace is None and checks is None
    if idle and all(each.passes(direction, names) for each in rule_sets):
        return NOTHING
    timer = Timer(limits.match, clock, clock() + limits.mail)
    running = Run(mail, names, timer, trace, Shield(mail, void, names))
    if checks is not None:
        running.check(checks, clock)
    return running.over(rule_sets)


class Run:
    """All rules on one mail."""

    def __init__(
        self, mail: Mail, names: set[bytes], timer: Timer, trace: Trace | None, shield: Shield
    ) -> None:
        self._mail, self._trace, self._shield, self._timer = mail, trace, shield, timer
        self._lines = lines_of(mail.headers)
        self._names = names
        self._results: list[RuleResult] = []
        self._judgement = Judgement()
        self._body: tuple[Splice, ...] = ()
        self._edited = self._passed = False

    def check(self, checks: CheckSet, clock: Callable[[], float]) -> None:
        """Carry out Postfix's checks before all rules, as cleanup(8) is before all milters."""
        from milterd.filters.header_checks.run import CheckRun

        one = CheckRun(checks, self._timer, clock, self._shield, self._trace)
        self._lines = one.run(self._mail, self._lines)
        self._names = names_in(self._lines)
        self._results, self._judgement = one.results, one.judgement
        self._edited, self._passed, self._body = one.edited, one.passed, tuple(one.splices)

    def over(self, rule_sets: Iterable[RuleSet]) -> Outcome:
        """Run them, up to a verdict or a rule that stops."""
        if self._judgement.over or self._passed:
            return self._outcome()
        quick = self._trace is None
        for rule_set in rule_sets:
            for rule in rule_set.rules:
                if quick and rule.needs_a_name and rule.exact.isdisjoint(self._names):
                    continue
                stop = self._one(rule_set.name, rule)
                if stop == "all":
                    return self._outcome()
                if stop:
                    break
        return self._outcome()

    def _outcome(self) -> Outcome:
        judged = self._judgement
        results = tuple(self._results)
        if judged.over:
            return Outcome((), results, judged.verdict, judged.reply)
        fields: tuple[MailEdit, ...] = ()
        if self._edited:
            fields = tuple(difference(self._mail.headers, self._lines))
        recipients = tuple(each.address for each in self._mail.envelope.recipients)
        return Outcome((*fields, *judged.edits(recipients)), results, body=self._body)

    def _one(self, rule_set: str, rule: Rule) -> str:
        """Run a rule; how much of the others it stops."""
        if rule.direction is not None and rule.direction is not self._mail.session.direction:
            if self._trace is not None:
                direction = self._mail.session.direction.value
                self._trace(Tried(f"{rule_set}: {rule.name}", f"not for {direction} mail"))
            return ""
        if rule.takes_off and self._trace is None and not self._shield.mentioned(rule.exact):
            self._take_off(rule_set, rule)
            return ""
        matcher = Matcher(rule, self._timer)
        kind = Work if self._trace is None else WatchedWork
        work = kind(rule, matcher, self._shield)
        try:
            did = self._applies(rule) and self._apply(rule_set, rule, work)
        except TimeoutError:
            self._results.append(RuleResult(rule_set, rule.name, timed_out=True))
            self._tell(work.tried(f"{rule_set}: {rule.name}", timed_out=True))
            return ""
        if self._judgement.over:
            return "all"
        return rule.stop if did else ""

    def _take_off(self, rule_set: str, rule: Rule) -> None:
        """Let a rule that looks at names alone do what it does, where no signature minds."""
        names, lines = rule.exact, self._lines
        self._lines = [line for line in lines if line.field.name.lower() not in names]
        self._names, self._edited = self._names - names, True
        self._results.append(RuleResult(rule_set, rule.name, len(lines) - len(self._lines)))

    def _applies(self, rule: Rule) -> bool:
        if rule.when is None:
            return True
        fields = [line.field for line in self._lines]
        return rule.when(Case(self._mail, fields, self._timer.search))

    def _apply(self, rule_set: str, rule: Rule, work: Work) -> bool:
        """Let a rule do what it does; whether it did anything."""
        name = f"{rule_set}: {rule.name}"
        if rule.judges:
            if not work.fires(self._lines):
                self._tell(work.tried(name, timed_out=False))
                return False
            outcome, text = self._judge(rule)
            self._results.append(RuleResult(rule_set, rule.name, outcome=outcome, text=text))
            self._tell(Tried(name, f"{outcome}: {text}" if text else outcome))
            return True
        lines = work.apply(self._lines)
        signatures = ", ".join(map(str, work.signatures))
        if self._trace is not None:
            self._tell(work.tried(name, timed_out=False))
        if work.spared and rule.on_signed is OnSigned.REJECT:
            self._judgement.refuse("", SIGNED)
            self._results.append(
                RuleResult(
                    rule_set, rule.name, 0, work.spared, outcome="rejected", signatures=signatures
                )
            )
            return True
        if work.changed:
            self._lines, self._edited = lines, True
            self._names = names_in(lines)
        if rule.on_signed is OnSigned.FORCE:
            self._shield.give_up(work.signatures)
        if work.changed or work.spared:
            self._results.append(
                RuleResult(rule_set, rule.name, work.changed, work.spared, signatures=signatures)
            )
        return work.changed > 0

    def _judge(self, rule: Rule) -> tuple[str, str]:
        """Carry out an action on the whole mail: its outcome and text, for the log."""
        judged, text = self._judgement, rule.text.decode("utf-8")
        match rule.action:
            case RuleAction.REJECT:
                judged.refuse(text, REFUSED)
                return (
                    "deferred" if judged.verdict is Verdict.TEMPFAIL else "rejected",
                    judged.reply,
                )
            case RuleAction.DISCARD:
                judged.verdict = Verdict.DISCARD
                return "discarded", text
            case RuleAction.HOLD:
                judged.hold = Finding("headers", rule.name, text).reason.decode("ascii")
                return "held", text
            case RuleAction.REDIRECT:
                judged.redirect = text
                return "redirected", text
            case RuleAction.STOP:
                return "stopped", text
            case _:
                return "warned", text

    def _tell(self, tried: Tried) -> None:
        if self._trace is not None:
            self._trace(tried)
