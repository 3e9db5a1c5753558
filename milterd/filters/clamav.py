"""The clamav filter: every mail goes through clamd, and each answer has its action.

What clamd can say, or fail to say, is a fact of its own (:mod:`milterd.ports.scanner`), and what is
done about it stands in the failure matrix (:mod:`milterd.filters.virus_policy`); nothing but a
clean scan is ever treated as clean.  On the way the fields that only a scanner may set
(X-Virus-Scanned, X-Virus-Status) are taken off when they came with the mail.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from milterd.core.actions import AddHeader, ChangeHeader, Edit
from milterd.core.decision import Decision, Reason, Reply, Trace, Tried, Verdict
from milterd.core.filter import Need
from milterd.core.finding import Finding, released
from milterd.core.mail import Direction, Mail
from milterd.filters.virus_policy import (
    AWAITED,
    WAITABLE,
    Action,
    Actions,
    Exempt,
    Matrix,
    Outcome,
    Ruled,
    Signatures,
    finding,
)
from milterd.filters.virus_words import filled, words
from milterd.ports.beyond import Beyond
from milterd.ports.clamds import BeginningScanner, Rest, Watch
from milterd.ports.scanner import (
    Clean,
    Infected,
    Meanwhile,
    Passed,
    ScanFact,
    Scanner,
    Skipped,
    Trouble,
    Unavailable,
    printable,
)
from milterd.ports.thorough import MemoryOptions, ReadingOptions
from milterd.signed.keep import own_marks

SCANNED = b"X-Virus-Scanned"
STATUS = b"X-Virus-Status"
_OWN = frozenset({SCANNED.lower(), STATUS.lower()})
_CLEAN = Reason("clamav", "clean")
BETWEEN = 1.0
"""Seconds between two scans of a mail that waits."""
FIELDS_AT_ONCE = 500
"""A mail with more fields is not looked at in an event loop, which would have to wait."""
FORGED_LIMIT = 100
"""A mail that brings more of these fields is refused: nobody does so by accident, and each
deletion costs the MTA a look at the whole header."""

_RECIPIENTS_TOLD = 20
"""Recipients of a quarantined mail that the log names."""


@dataclass(frozen=True, slots=True)
class ClamavOptions:
    """Settings of the clamav filter.

    `clamd` are `unix:PATH` or `inet:PORT@HOST`, in the order they are asked; `timeout` is in
    seconds and bounds a whole scan, `retry` is the longest rest of a clamd that fails;
    `max_size`, in octets, should not be above clamd's MaxFileSize
    and StreamMaxLength, above which clamd passes over a file as if it were clean.
    Of limits reached inside a mail clamd tells only with `AlertExceedsMax yes`, and
    of encrypted archives only with `AlertEncrypted yes` (clamd.conf(5)).

    `infected`, `unscannable`, `too_large` and `unavailable` are the actions for all mail,
    `others` those of outcomes that differ from these; `directions` and `domains` have what
    differs there.  By default a mail that cannot be looked into (encrypted, a limit reached, an
    error of clamd) waits at the sender: nothing passes unseen, and nothing is
    lost while a postmaster looks.  One that is too large will be so for ever,
    and is refused.  `header` adds X-Virus-Scanned to what was scanned; `hostname`
    is named in it.  A mail whose action is WAIT is scanned again and again for `wait_time`
    seconds before it is put off.  `texts` are replies of one's own for outcomes, with
    @SIGNATURE@, @OUTCOME@ and @DETAIL@ in them.
    """

    clamd: tuple[str, ...] = ("unix:/run/clamav/clamd.ctl",)
    timeout: float = 120.0
    retry: float = 60.0
    wait_time: float = 150.0
    max_size: int = 26_214_400
    memory_limit: int = 4_194_304
    infected: Action = Action.REJECT
    unscannable: Action = Action.TEMPFAIL
    too_large: Action = Action.REJECT
    unavailable: Action = Action.TEMPFAIL
    others: Actions = field(default_factory=dict)
    directions: Mapping[Direction, Actions] = field(default_factory=dict)
    domains: Mapping[bytes, Actions] = field(default_factory=dict)
    classes: tuple[tuple[str, Outcome], ...] = ()
    ignored: tuple[str, ...] = ()
    exempt: Exempt = field(default_factory=Exempt)
    readings: ReadingOptions = field(default_factory=ReadingOptions)
    memory: MemoryOptions = field(default_factory=MemoryOptions)
    texts: Mapping[Outcome, str] = field(default_factory=dict)
    oldest: float = 259_200.0
    header: bool = True
    hostname: str = "localhost"

    @property
    def matrix(self) -> Matrix:
        """What is done about each outcome."""
        general = {
            Outcome.INFECTED: self.infected,
            Outcome.UNSCANNABLE: self.unscannable,
            Outcome.TOO_LARGE: self.too_large,
            Outcome.UNAVAILABLE: self.unavailable,
        }
        return Matrix(general | dict(self.others), self.directions, self.domains)


@dataclass(frozen=True, slots=True)
class _Case:
    """What is not clean, in words: the action and its rule, the text for the sender, and what log
    and header say."""

    outcome: Outcome
    ruled: Ruled
    detail: str
    text: str
    finding: Finding

    @property
    def word(self) -> str:
        """The outcome as log and header have it."""
        return self.outcome.value.replace("_", "-")

    def reply(self, code: int) -> Reply:
        """The refusal, for good (5) or for now (4)."""
        if self.outcome is Outcome.TOO_LARGE:
            return Reply({5: 552, 4: 452}[code], f"{code}.3.4", self.text)
        plain = {5: 554 if self.outcome in _DOWN else 550, 4: 451}[code]
        return Reply(plain, f"{code}.7.1", self.text)


class ClamavFilter:
    """See the module's contract.  `scanner` is asked once for each mail that need not wait,
    `watch` told of it; `clock` and `pause` are for those that wait.  `beyond` is asked about one
    that was released from quarantine in spite of a finding."""

    name = "clamav"
    usual = Clean()
    needs = (
        Need.HEADERS | Need.BODY | Need.RECIPIENTS | Need.ADD_HEADERS | Need.CHANGE_HEADERS
        | Need.QUARANTINE
    )  # fmt: skip

    def __init__(
        self,
        options: ClamavOptions,
        scanner: Scanner,
        watch: Watch | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        beyond: Beyond | None = None,
    ) -> None:
        self.options = options
        self._clock, self._pause = clock, pause
        self._watch, self._beyond = watch, beyond
        self.matrix = options.matrix
        self._signatures = Signatures(options.classes, options.ignored)
        self._scanner = scanner
        self._beginning = scanner.begin if isinstance(scanner, BeginningScanner) else None
        self._mark = _mark(options)
        self._plain = Decision(edits=self._mark, reasons=(_CLEAN,))

    def gather(self, mail: Mail, trace: Trace | None = None) -> ScanFact:
        """Have the whole message scanned, unless it is exempt."""
        return self._gather(mail, trace, None)

    def gather_while(self, mail: Mail, meanwhile: Meanwhile) -> ScanFact:
        """The same, with work for the time in which the scanner has the mail."""
        return self._gather(mail, None, meanwhile)

    def begin(
        self, mail: Mail, then: Callable[[ScanFact | Rest], None]
    ) -> Callable[[], None] | None:
        """The same in an event loop: see :class:`milterd.core.filter.Beginning`."""
        if self._beginning is None or len(mail.headers) > FIELDS_AT_ONCE:
            return None
        if self.options.exempt.of(mail):
            return None
        if self._watch is not None:
            self._watch.poke()

        def came(fact: ScanFact | Rest) -> None:
            if isinstance(fact, Clean):
                then(fact)
            else:
                then(lambda: self._settled(mail, fact() if callable(fact) else fact))

        return self._beginning(mail, came)

    def _settled(self, mail: Mail, fact: ScanFact) -> ScanFact:
        """What is known of a mail in the end, once waited for, and held against its release."""
        if isinstance(fact, Clean):  # nothing to wait for, and nothing to let pass
            return fact
        fact = self._waited(mail, fact)
        return self._released(mail, fact) if released(mail) else fact

    def _gather(self, mail: Mail, trace: Trace | None, meanwhile: Meanwhile | None) -> ScanFact:
        if self._watch is not None and trace is None:  # for live mail only
            self._watch.poke()
        fact = self.options.exempt.of(mail) or self._scanner.scan(mail, meanwhile=meanwhile)
        if trace is None:
            return self._settled(mail, fact)
        return self._released(mail, fact) if released(mail) else fact

    def _waited(self, mail: Mail, fact: ScanFact) -> ScanFact:
        """The first answer of a clamd, or its absence when the time for that is over."""
        end: float | None = None
        while (outcome := self._signatures.of(fact)) in WAITABLE:
            if self.matrix.of(outcome, mail).action is not Action.WAIT:
                break
            now = self._clock()
            end = now + self.options.wait_time if end is None else end
            if now >= end:
                break
            self._pause(min(BETWEEN, end - now))
            fact = self._scanner.scan(mail)
        return fact

    def _released(self, mail: Mail, fact: ScanFact) -> ScanFact:
        """What there is in a mail beyond what a postmaster let pass."""
        keys = released(mail)

        def known(found: ScanFact) -> bool:
            outcome = self._signatures.of(found)
            if outcome is None:
                return True
            if AWAITED.key in keys and self.matrix.of(outcome, mail).action is Action.HOLD:
                return True
            return finding(outcome, found).key in keys

        if not known(fact) or not isinstance(fact, Trouble):
            return fact
        other = self._beyond.scan(mail, fact, known) if self._beyond is not None else Clean()
        return Passed(fact) if isinstance(other, Clean) else other

    def decide(self, mail: Mail, facts: ScanFact, trace: Trace | None = None) -> Decision:
        """Turn the scanner's answer into the configured action."""
        outcome = None if isinstance(facts, Clean) else self._signatures.of(facts)
        if trace is not None:
            self._tell(mail, outcome, trace)
        forged = _forged(mail)
        if len(forged) > FORGED_LIMIT:
            return self._flooded(mail)
        if outcome is None:
            return self._clean(mail, facts, forged)
        case = self._case(mail, outcome, facts)
        action = case.ruled.action
        said = {"action": action.value, "rule": case.ruled.rule, "detail": case.detail}
        if action in _KEEPING:
            said |= {"finding": case.finding.key, "recipients": _recipients(mail)}
        reasons = (Reason(self.name, case.word, said),)
        match action:
            case Action.REJECT:
                return Decision(Verdict.REJECT, reply=case.reply(5), reasons=reasons)
            case Action.TEMPFAIL | Action.WAIT:
                return Decision(Verdict.TEMPFAIL, reply=case.reply(4), reasons=reasons)
            case Action.DISCARD:
                return Decision(Verdict.DISCARD, reasons=reasons)
        return Decision(edits=self._passing(mail, case), reasons=reasons)

    def check(self) -> tuple[str, ...]:
        """Whether each clamd can be reached, and works with signatures that are not old: the
        problems found, none when all is well."""
        if self._watch is not None:
            return tuple(self._watch.troubles())
        answer = self._scanner.version()
        if isinstance(answer, Unavailable):
            those = ", ".join(self.options.clamd)
            return (f"clamd at {those}: {answer.why} ({printable(answer.text)})",)
        return ()

    def _tell(self, mail: Mail, outcome: Outcome | None, trace: Trace) -> None:
        """Each setting that an answer of the scanner is held against."""
        brought = _forged_count(mail)
        found = "over it" if brought > FORGED_LIMIT else "within it"
        trace(Tried(f"at most {FORGED_LIMIT} scanner fields in a mail", f"{brought}: {found}"))
        if brought > FORGED_LIMIT:
            return
        trace(Tried("clean goes on", "this is it" if outcome is None else "no"))
        for each in Outcome:
            ruled = self.matrix.of(each, mail)
            said = f'{ruled.rule} = "{ruled.action.value}"'
            own = ruled.rule.rpartition(".")[2] == each.value
            shown = said if own else f"{each.value}: {said}"
            trace(Tried(shown, "this is it" if each is outcome else "no"))

    def _flooded(self, mail: Mail) -> Decision:
        facts = {"fields": str(_forged_count(mail)), "limit": str(FORGED_LIMIT)}
        reply = Reply(550, "5.6.0", "Header has too many fields of kinds not allowed here")
        reasons = (Reason(self.name, "too-many-forged-fields", facts),)
        return Decision(Verdict.REJECT, reply=reply, reasons=reasons)

    def _clean(self, mail: Mail, facts: ScanFact, forged: tuple[ChangeHeader, ...]) -> Decision:
        """Scanned and clean, or not scanned because the settings say so."""
        reason = _CLEAN
        match facts:
            case Clean():
                pass
            case Skipped(why):
                return Decision(edits=forged, reasons=(Reason(self.name, "exempt", {"for": why}),))
            case Passed(found):
                return self._let_pass(found, list(forged))
            case Infected(signature):
                reason = Reason(self.name, "clean", {"ignored": printable(signature)})
        # A mark that says nothing new is not worth a signature; a forged one is not spared.
        kept = own_marks(mail, self.name, forged, self._mark)
        if reason is _CLEAN and kept.edits is self._mark and not kept.reasons:
            return self._plain  # the same object for most mails, which a host knows again
        return Decision(edits=kept.edits, reasons=(reason, *kept.reasons))

    def _let_pass(self, found: Trouble, edits: list[Edit]) -> Decision:
        """Released from quarantine in spite of this: as if it were not there."""
        outcome = self._signatures.of(found)
        if outcome is None:
            raise TypeError(f"{found} is no trouble")
        seen = () if outcome.unseen else self._mark
        reason = Reason(self.name, "released", {"finding": finding(outcome, found).key})
        return Decision(edits=(*edits, *seen), reasons=(reason,))

    def _passing(self, mail: Mail, case: _Case) -> tuple[Edit, ...]:
        """The edits of a mail that goes on, or waits in the hold queue."""
        edits: list[Edit] = list(_forged(mail))
        if not case.outcome.unseen:
            edits += self._mark
        status = f"{case.word} ({case.detail})"
        if case.ruled.action is not Action.ACCEPT:
            edits.append(AddHeader(STATUS, b" " + status.encode("ascii")))
        if case.ruled.action in _KEEPING:
            edits.append(case.finding.quarantine())
        return tuple(edits)

    def _case(self, mail: Mail, outcome: Outcome, facts: ScanFact) -> _Case:
        ruled = self.matrix.of(outcome, mail)
        detail, text = words(facts)
        if outcome in _DOWN and ruled.action is not Action.REJECT:
            text += ", try again later"
        own = self.options.texts.get(outcome)
        if own is not None:
            signature = printable(facts.signature) if isinstance(facts, Infected) else ""
            text = filled(own, signature=signature, outcome=outcome.value, detail=detail)
        elif isinstance(facts, Infected) and ruled.action is Action.TEMPFAIL:
            text = text.replace("refused:", "refused for now:")
        found = AWAITED if ruled.action is Action.HOLD else finding(outcome, facts)
        return _Case(outcome, ruled, detail, text, found)


_KEEPING = frozenset({Action.HOLD, Action.QUARANTINE})
_DOWN = frozenset({Outcome.UNAVAILABLE, Outcome.TOO_SLOW})


def _recipients(mail: Mail) -> str:
    """Who was to get it, for the log: the first of them, and how many more there are."""
    those = [each.address.decode("utf-8", "backslashreplace") for each in mail.envelope.recipients]
    more = len(those) - _RECIPIENTS_TOLD
    return " ".join(those[:_RECIPIENTS_TOLD]) + (f" and {more} more" if more > 0 else "")


def _mark(options: ClamavOptions) -> tuple[AddHeader, ...]:
    """What is put into mail that was scanned."""
    if not options.header:
        return ()
    value = f" clamav at {printable(options.hostname)}"
    return (AddHeader(SCANNED, value.encode("ascii")),)


def _forged_count(mail: Mail) -> int:
    return len(_forged(mail))


def _forged(mail: Mail) -> tuple[ChangeHeader, ...]:
    """Deletions of every scanner field the mail came with, highest index first."""
    if _OWN.isdisjoint([each.name.lower() for each in mail.headers]):
        return ()
    edits: list[ChangeHeader] = []
    for name in (SCANNED, STATUS):
        count = len(mail.values(name))
        edits += [ChangeHeader(name, index, b"") for index in range(count, 0, -1)]
    return tuple(edits)
