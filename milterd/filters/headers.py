"""The headers filter: changes header fields as the rules in rule files say.

Rules and their examples are data (see :mod:`milterd.filters.header_rules`).  Rules run
in `gather`, since their patterns have a time limit and time is not pure; what
they came to is the fact that `decide` turns into a decision.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from milterd.core.actions import Edit, ReplaceBody
from milterd.core.decision import Decision, Reason, Reply, Trace, Tried, Verdict
from milterd.core.filter import Need
from milterd.core.mail import Mail
from milterd.filters.header_checks.actions import needs as action_needs
from milterd.filters.header_checks.options import ChecksOptions
from milterd.filters.header_checks.problems import TableError
from milterd.filters.header_checks.spliced import SplicedBody
from milterd.filters.header_rules.compiled import compile_rules
from milterd.filters.header_rules.compiled import needs as needs_of
from milterd.filters.header_rules.examples import check
from milterd.filters.header_rules.outcome import NOTHING, Outcome, RuleResult
from milterd.filters.header_rules.read import RuleError, find, read
from milterd.filters.header_rules.run import Limits, run
from milterd.filters.setup import SetupError
from milterd.filters.standing import MustWait, Standing, StandingOptions, not_now
from milterd.ports.dkim_dns import TextSource
from milterd.signed.keep import Void, none_void

if TYPE_CHECKING:
    from milterd.filters.header_checks.run import CheckSet

_GO_ON = Decision()
AT_ONCE = 65_536
"""Octets of a body that checks look through while other mail waits; more has a thread."""


class OnTimeout(enum.Enum):
    """What to do when a rule's pattern takes too long: pass the rule over, or defer the mail."""

    SKIP = "skip"
    TEMPFAIL = "tempfail"


@dataclass(frozen=True, slots=True)
class HeadersOptions:
    """Settings of the headers filter.

    `rules` names rule sets, which run in that order; they are looked for in
    `directory`, or else among those that come with Gatepost.  `parameters` are
    what `@name@` in rules stands for (`authserv_id`, `hostname`), each one value
    or several.  `match_time` and `mail_time` are seconds for one pattern on one
    field, and for all rules on one mail.  A mail that would need more than
    `edits_limit` edits is refused: nobody writes such a header by accident, and
    each edit costs the MTA a look at the whole header.  `standing` says how signatures are
    checked that a rule would break; None takes all for good.
    """

    rules: tuple[str, ...] = ("submission-privacy", "inbound-hygiene")
    directory: Path | None = None
    parameters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    match_time: float = 0.1
    mail_time: float = 1.0
    on_timeout: OnTimeout = OnTimeout.SKIP
    edits_limit: int = 100
    standing: StandingOptions | None = None
    checks: ChecksOptions = field(default_factory=ChecksOptions)


class HeadersFilter:
    """See the module's contract.

    Rule files are read here, once; raises :class:`SetupError` with all that is
    wrong with them.  `clock` counts seconds, for the limit on a whole mail; `wall` seconds since
    the epoch.  `dns` is asked for keys instead of the name servers of the options.
    """

    name = "headers"

    def __init__(
        self,
        options: HeadersOptions,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        dns: TextSource | None = None,
    ) -> None:
        self.options = options
        standing = options.standing
        self._standing = None if standing is None else Standing(standing, wall, clock, dns)
        self._clock = clock
        self._limits = Limits(options.match_time, options.mail_time)
        self._files, self._rule_sets = [], []
        self.needs = Need.HEADERS | Need.ADD_HEADERS | Need.CHANGE_HEADERS
        problems: list[str] = []
        for name in options.rules:
            try:
                file = read(find(name, options.directory))
                self._rule_sets.append(compile_rules(file, options.parameters))
                self._files.append(file)
                self.needs |= needs_of(file)
            except RuleError as error:
                problems += [f"{error.source}: {each}" for each in error.problems]
        self._checks: CheckSet | None = None
        try:
            self._checks = options.checks.read()
        except TableError as error:
            problems += error.problems
        if problems:
            raise SetupError(self.name, problems)
        if self._checks is not None:
            self.needs |= _check_needs(self._checks)

    def gather(self, mail: Mail, trace: Trace | None = None) -> Outcome:
        """Run the rules for the mail's direction.  Waits for DNS only where a rule would break a
        signature; that wait is no part of the rules' time."""
        if self._standing is None:
            return self._run(mail, none_void, trace)
        told: list[Tried] = []
        try:
            found = self._run(mail, not_now, None if trace is None else told.append)
        except MustWait:
            void = self._standing(mail.with_headers(mail.visible()))
            return self._run(mail, lambda _: void, trace)
        if trace is not None:
            for each in told:
                trace(each)
        return found

    def at_once(self, mail: Mail) -> Outcome | None:
        """What `gather` gives, where nobody has to be waited for; None otherwise."""
        checks = self._checks
        if checks is not None and checks.below_header and mail.body.size > AT_ONCE:
            return None
        try:
            return self._run(mail, none_void if self._standing is None else not_now)
        except MustWait:
            return None

    def _run(self, mail: Mail, void: Void, trace: Trace | None = None) -> Outcome:
        return run(self._rule_sets, mail, self._limits, self._clock, trace, void, self._checks)

    def decide(
        self,
        mail: Mail,
        facts: Outcome,
        trace: Trace | None = None,
    ) -> Decision:
        """Make the rules' edits, unless they took too long or are too many."""
        if trace is not None:
            self._tell(facts, trace)
        if facts is NOTHING:
            return _GO_ON
        reasons = tuple(_reason(each) for each in facts.results)
        timed_out = any(each.timed_out for each in facts.results)
        if timed_out and self.options.on_timeout is OnTimeout.TEMPFAIL:
            reply = Reply(451, "4.3.0", "Header rules took too long, try again later")
            return Decision(Verdict.TEMPFAIL, reply=reply, reasons=reasons)
        limit = self.options.edits_limit
        if len(facts.edits) > limit:
            count = {"edits": str(len(facts.edits)), "limit": str(limit)}
            reply = Reply(550, "5.6.0", "Header has too many fields of kinds not allowed here")
            reasons = (*reasons, Reason(self.name, "too-many-edits", count))
            return Decision(Verdict.REJECT, reply=reply, reasons=reasons)
        if facts.verdict is Verdict.DISCARD:
            return Decision(Verdict.DISCARD, reasons=reasons)
        if facts.verdict is not Verdict.CONTINUE:
            return Decision(facts.verdict, reply=_reply(facts), reasons=reasons)
        edits: tuple[Edit, ...] = facts.edits
        if facts.body:
            edits = (*edits, ReplaceBody(SplicedBody(mail.body, facts.body)))
        return Decision(edits=edits, reasons=reasons)

    def _tell(self, facts: Outcome, trace: Trace) -> None:
        """The settings that the outcome of all rules is held against."""
        late = sum(each.timed_out for each in facts.results)
        trace(Tried(f'on_timeout = "{self.options.on_timeout.value}"', f"{late} rules timed out"))
        count, limit = len(facts.edits), self.options.edits_limit
        found = "over it" if count > limit else "within it"
        trace(Tried(f"edits_limit = {limit}", f"{count} edits: {found}"))

    def check(self) -> tuple[str, ...]:
        """The examples of all rules in use: what does not do what its example says."""
        return tuple(problem for each in self._files for problem in check(each))


def _check_needs(checks: CheckSet) -> Need:
    """What Postfix's tables have to be shown and may change."""
    found = Need(0)
    if checks.below_header:
        found |= Need.BODY
    if checks.edits_body:
        found |= Need.CHANGE_BODY
    for tables in checks.tables.values():
        for word in tables.words:
            found |= action_needs(word)
    return found


def _reply(facts: Outcome) -> Reply:
    """The SMTP reply of a refusal (cleanup(8): 550 for 5.x.y, 451 for 4.x.y)."""
    enhanced, _, text = facts.reply.partition(" ")
    code = 550 if facts.verdict is Verdict.REJECT else 451
    return Reply(code, enhanced, text.strip() or "Message content rejected")


def _reason(result: RuleResult) -> Reason:
    source = f"headers: {result.rule_set}: {result.rule}"
    if result.timed_out:
        return Reason(source, "timed-out")
    facts = {}
    if result.text:
        facts["text"] = result.text
    if not result.outcome:
        facts["fields"] = str(result.changed)
    if result.spared:
        facts["kept-for-signature"] = str(result.spared)
    if result.signatures:
        facts["signature" if result.spared else "breaks-signature"] = result.signatures
    return Reason(source, result.outcome or ("applied" if result.changed else "kept"), facts)
