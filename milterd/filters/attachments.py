"""The attachments filter: refuses, takes out, keeps or marks files that come with mail.

Rules (:mod:`milterd.filters.attachment_rules`) say so by names, declared types, what the content
is, and what is in archives.  What cannot be looked into is no file without faults: the failure
matrix (:mod:`milterd.filters.virus_policy`) says what is done about it.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from milterd.core.actions import AddHeader, ChangeHeader, Edit
from milterd.core.decision import Decision, Reason, Reply, Trace, Tried, Verdict
from milterd.core.filter import Need
from milterd.core.finding import Finding, released
from milterd.core.mail import Mail
from milterd.filters.attachment_look import Looks, Search, Seen
from milterd.filters.attachment_options import OUTCOMES, AttachmentsOptions
from milterd.filters.attachment_rules import Item, RuleAction, failing, load
from milterd.filters.attachment_strip import strip
from milterd.filters.header_rules.read import RuleError, find
from milterd.filters.setup import SetupError
from milterd.filters.virus_policy import Action, Outcome
from milterd.ports.scanner import printable
from milterd.signed.keep import Guard, Wish, keep

STATUS = b"X-Attachment-Status"
FORGED_LIMIT = 100
"""A mail that brings more of these fields is refused, as with the clamav filter."""


class Deed(enum.IntEnum):
    """What is done to the mail in the end, the strictest first."""

    REJECT = 0
    TEMPFAIL = 1
    QUARANTINE = 2
    DISCARD = 3
    STRIP = 4
    MARK = 5
    ACCEPT = 6


_DEEDS = {each: Deed[each.name] for each in RuleAction} | {
    Action.REJECT: Deed.REJECT,
    Action.TEMPFAIL: Deed.TEMPFAIL,
    Action.WAIT: Deed.TEMPFAIL,  # refused in settings: nothing here comes back
    Action.QUARANTINE: Deed.QUARANTINE,
    Action.DISCARD: Deed.DISCARD,
    Action.TAG: Deed.MARK,
    Action.ACCEPT: Deed.ACCEPT,
}


@dataclass(frozen=True, slots=True)
class _Case:
    """Something that a rule or the matrix has a word about."""

    deed: Deed
    name: str
    rule: str
    what: str
    item: Item | None = None
    text: str = ""

    @property
    def finding(self) -> Finding:
        """As quarantine and release know it."""
        return Finding("attachments", self.name, self.what)

    def reason(self) -> Reason:
        """For the log."""
        facts = {"action": self.deed.name.lower(), "rule": self.rule, "detail": self.what}
        return Reason("attachments", self.name, facts)


class AttachmentsFilter:
    """See the module's contract.  Raises :class:`SetupError` for rules that cannot be used."""

    name = "attachments"
    needs = (
        Need.HEADERS | Need.BODY | Need.RECIPIENTS | Need.ADD_HEADERS | Need.CHANGE_HEADERS
        | Need.CHANGE_BODY | Need.QUARANTINE
    )  # fmt: skip

    def __init__(
        self,
        options: AttachmentsOptions,
        looks: Looks,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options, self._looks, self._clock = options, looks, clock
        self.matrix = options.matrix
        try:
            self.rules = load(find(options.rules, options.directory))
        except RuleError as error:
            raise SetupError(self.name, [f"{error.source}: {error.problems[0]}"]) from None

    def gather(self, mail: Mail, trace: Trace | None = None) -> Seen:  # noqa: ARG002  # as others
        """Find the files, and look into them."""
        return Search(self._looks, self.options.reach, self._clock).seen(mail)

    def decide(self, mail: Mail, facts: Seen, trace: Trace | None = None) -> Decision:
        """Do the strictest of what rules and matrix say."""
        if len(mail.values(STATUS)) > FORGED_LIMIT:
            reply = Reply(550, "5.6.0", "Header has too many fields of kinds not allowed here")
            reasons = (Reason(self.name, "too-many-forged-fields"),)
            return Decision(Verdict.REJECT, reply=reply, reasons=reasons)
        cases = [*self._by_rules(mail, facts, trace), *self._by_matrix(mail, facts, trace)]
        passed = released(mail)
        cases = [each for each in cases if each.finding.key not in passed]
        if not cases:
            return Decision(edits=_forged(mail), reasons=(Reason(self.name, "nothing found"),))
        worst = min(cases, key=lambda each: each.deed)
        different = {(each.deed, each.name, each.what): each for each in reversed(cases)}
        told = tuple(each.reason() for each in reversed(list(different.values())))[:20]
        return self._done(mail, facts, worst, cases, told)

    def check(self) -> tuple[str, ...]:
        """What does not do as the rules' examples say."""
        return tuple(failing(self.rules))

    # --- what is wrong ----------------------------------------------------------------

    def _by_rules(self, mail: Mail, facts: Seen, trace: Trace | None) -> Iterator[_Case]:
        direction = mail.session.direction
        for item in facts.items:
            rule = next((each for each in self.rules if each.means(item, direction)), None)
            shown = _shown(item)
            if trace is not None:
                said = f"{rule.name}: {rule.action.value}" if rule else "no rule means it"
                trace(Tried(f"file {shown}", said, _looked(item)))
            if rule is not None and rule.action is not RuleAction.ACCEPT:
                deed = _DEEDS[rule.action]
                if deed is Deed.STRIP and (item.part < 0 or facts.doubts):
                    deed = Deed.REJECT  # in another reading it would still be there
                yield _Case(deed, rule.name, f"rule {rule.name}", shown, item, rule.text.text)

    def _by_matrix(self, mail: Mail, facts: Seen, trace: Trace | None) -> Iterator[_Case]:
        met = {each.trouble: each.why for each in reversed(facts.obstacles)}
        ruled_on = {mark for rule in self.rules for mark in rule.text.marks}
        for outcome in OUTCOMES:
            ruled = self.matrix.of(outcome, mail)
            if trace is not None:
                said = f'{outcome.value}: {ruled.rule} = "{ruled.action.value}"'
                trace(Tried(said, "this is it" if outcome.value in met else "no"))
            deed = _DEEDS[ruled.action]
            if outcome.value in met and not (
                outcome is Outcome.ENCRYPTED and "encrypted" in ruled_on
            ):
                yield _Case(deed, outcome.value, ruled.rule, printable(met[outcome.value]))

    # --- what is done -----------------------------------------------------------------

    def _done(
        self,
        mail: Mail,
        facts: Seen,
        worst: _Case,
        cases: list[_Case],
        reasons: tuple[Reason, ...],
    ) -> Decision:
        match worst.deed:
            case Deed.REJECT:
                return Decision(Verdict.REJECT, reply=_reply(worst, 5), reasons=reasons)
            case Deed.TEMPFAIL:
                return Decision(Verdict.TEMPFAIL, reply=_reply(worst, 4), reasons=reasons)
            case Deed.DISCARD:
                return Decision(Verdict.DISCARD, reasons=reasons)
            case Deed.ACCEPT:
                return Decision(edits=_forged(mail), reasons=reasons)
        edits: tuple[Edit, ...] = (*_forged(mail), _mark(cases))
        if worst.deed is Deed.QUARANTINE:
            return Decision(edits=(*edits, worst.finding.quarantine()), reasons=reasons)
        if worst.deed is Deed.STRIP:
            return self._stripped(mail, facts, cases, edits, reasons)
        return Decision(edits=edits, reasons=reasons)

    def _stripped(
        self,
        mail: Mail,
        facts: Seen,
        cases: list[_Case],
        edits: tuple[Edit, ...],
        reasons: tuple[Reason, ...],
    ) -> Decision:
        those = [each.item for each in cases if each.deed is Deed.STRIP and each.item is not None]
        parts = {each.part for each in those}
        # The note names what the reader knows: the attachment, not the file deep in it.
        named = [each for each in facts.items if each.part in parts and not each.path]
        names = [each.names[0] if each.names else each.declared for each in named]
        options = self.options
        changed = strip(mail, parts, options.reach.parts, options.note, names)
        kept = keep(Guard(mail), [Wish("attachments: strip", changed, options.on_signed)])
        reasons = (*reasons, *kept.reasons)
        if kept.reply is not None:
            return Decision(Verdict.REJECT, reply=kept.reply, reasons=reasons)
        return Decision(edits=(*edits, *kept.edits), reasons=reasons)


def _shown(item: Item) -> str:
    """A file in words that are safe anywhere."""
    own = item.names[0] if item.names else item.declared or "without a name"
    inside = " in an archive" if item.path else ""
    return printable(own) + inside


def _looked(item: Item) -> tuple[tuple[str, str], ...]:
    found = {
        "names": item.names, "declared": (item.declared,), "content": item.kinds,
        "marks": item.marks, "inside": item.path,
    }  # fmt: skip
    return tuple((key, ", ".join(each)) for key, each in found.items() if any(each))


def _reply(case: _Case, kind: int) -> Reply:
    if case.item is None:
        text = f"Attachments cannot be looked into: {case.name.replace('_', ' ')} ({case.what})"
    else:
        text = case.text or f"Attachment not accepted here: {case.what} ({case.name})"
    late = kind == 4 and case.item is None
    return Reply(
        {5: 550, 4: 451}[kind], f"{kind}.7.1", text + (", try again later" if late else "")
    )


def _mark(cases: list[_Case]) -> AddHeader:
    found = dict.fromkeys(f"{each.name} ({each.what})" for each in cases if each.deed < Deed.ACCEPT)
    return AddHeader(STATUS, b" " + "; ".join(found).encode("ascii", "replace")[:900])


def _forged(mail: Mail) -> tuple[Edit, ...]:
    """Deletions of the field that only we may set, from the last one up."""
    return tuple(ChangeHeader(STATUS, at, b"") for at in range(len(mail.values(STATUS)), 0, -1))
