"""Carrying out checks on a mail, line after line, as cleanup(8) does (cleanup_message.c).

A REJECT, a DISCARD, a PASS and a REDIRECT end the checks; everything else goes on with the next
line.  What is found is bounded: only so many results are told one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from milterd.core.decision import Trace, Tried, Verdict
from milterd.core.finding import HOLD_QUEUE, Finding
from milterd.core.mail import HeaderField, Mail
from milterd.filters.header_checks.actions import LOGGING, Action
from milterd.filters.header_checks.spliced import SplicedBody
from milterd.filters.header_checks.tables import Checks, Hit
from milterd.filters.header_checks.walk import Bounds, Kind, Seen, Walk, field_text, header_name
from milterd.filters.header_rules.lines import Line
from milterd.filters.header_rules.outcome import Judgement, RuleResult, Splice
from milterd.filters.header_rules.shield import Shield
from milterd.filters.header_rules.work import Timer
from milterd.patterns.matching import Subject
from milterd.signed.keep import OnSigned
from milterd.signed.signature import Signature

BODY = "body"
"""What stands for a place in results that are about all changes to the body."""
LOOK_UP = 128
"""Lines after which the clock is looked at, whatever the tables do."""
TOLD = 50
"""Results of one mail that are told one by one."""
SHOWN = 200
"""Octets of a line that a result shows, as Postfix logs them."""
REJECTED = "5.7.1 message content rejected"
TOO_DEEP = "5.6.0 MIME nesting exceeds safety limit"
SIGNED = "5.7.1 message is signed in a way that does not allow a change this site requires"
_ADDRESS = re.compile(rb"[^\x00-\x20\x7f<>]+@[^\x00-\x20\x7f<>]*\Z")


@dataclass(frozen=True, slots=True)
class CheckSet:
    """The tables for each kind of line, and what bounds them.

    `body_checks_size_limit` is octets of each part's body that are looked at, 0 for all.
    """

    tables: Mapping[Kind, Checks]
    bounds: Bounds = field(default_factory=Bounds)
    body_checks_size_limit: int = 51_200
    on_signed: OnSigned = OnSigned.SKIP

    @property
    def below_header(self) -> bool:
        """Whether anything but the mail's own header is looked at."""
        return any(self.tables[each] for each in (Kind.MIME, Kind.NESTED, Kind.BODY))

    @property
    def edits_body(self) -> bool:
        """Whether anything below the mail's own header may change."""
        return any(self.tables[each].edits for each in (Kind.MIME, Kind.NESTED, Kind.BODY))


class CheckRun:
    """All checks on one mail.  `passed` tells that PASS has let the mail through."""

    def __init__(
        self,
        checks: CheckSet,
        timer: Timer,
        clock: Callable[[], float],
        shield: Shield,
        trace: Trace | None,
    ) -> None:
        self._checks, self._timer, self._clock = checks, timer, clock
        self._shield, self._trace = shield, trace
        self.judgement = Judgement()
        self.results: list[RuleResult] = []
        self.splices: list[Splice] = []
        self.edited = self.passed = False
        self._over = False
        self._counts: dict[tuple[str, str], RuleResult] = {}

    def run(self, mail: Mail, lines: list[Line]) -> list[Line]:
        """The header after the checks; what else came of them is in this object."""
        walk = Walk(self._checks.bounds)
        done: list[Line] = []
        for at, line in enumerate(lines):
            text = field_text(line.field, self._checks.bounds)
            hit = self._look(walk.field(line.field.name, text), text)
            done += [line] if hit is None else self._field(hit, lines, at, done)
        if self._checks.below_header and not self._over:
            self._body(walk, mail)
        header = any(self._checks.tables[each] for each in Kind if each is not Kind.BODY)
        if walk.too_deep and header and not self.judgement.over:
            self.judgement.refuse(TOO_DEEP, "")
            self._tell(Hit("mime_nesting_limit", Action("", b"")), "rejected", TOO_DEEP)
        self.results += self._counts.values()
        return done

    def _body(self, walk: Walk, mail: Mail) -> None:
        for number, seen in enumerate(walk.body(mail.body)):
            if number % LOOK_UP == 0 and self._is_late():
                break
            self._below(seen)
            if self._over:
                break
        if not self.splices or self.judgement.over:
            return
        found = self._shield.broken_body(SplicedBody(mail.body, tuple(self.splices)))
        if found and self._spared(BODY, found):
            self.splices.clear()
            self._counts = {key: each for key, each in self._counts.items() if key[1] != BODY}

    def _field(self, hit: Hit, lines: list[Line], at: int, done: list[Line]) -> list[Line]:
        """What becomes of a field of the mail's own header, under those that are done."""
        line, word = lines[at], hit.action.word
        new = [line]
        if word in ("IGNORE", "STRIP"):
            new = []
        elif word in ("PREPEND", "REPLACE"):
            field = _field_of(hit.action.text)
            if field is None:
                self._tell(hit, "no-usable-text", _shown(hit.action.text))
            elif word == "PREPEND":
                new = [Line(None, field), line]
            elif field.raw != line.field.raw:
                new = [line._replace(field=field)]
        if new == [line]:
            return new
        sure = self._checks.on_signed is not OnSigned.FORCE
        found = self._shield.meets(line, new, lambda: [*done, *new, *lines[at + 1 :]], sure=sure)
        if found and self._spared(hit.place, found):
            return [line]
        self.edited = True
        self._count(hit.place, "changed", RuleResult("checks", hit.place, changed=1))
        return new

    def _below(self, seen: Seen) -> None:
        limit = self._checks.body_checks_size_limit
        if seen.kind is Kind.BODY and limit and seen.depth >= limit:
            return
        hit = self._look(seen.kind, seen.text)
        if hit is None:
            return
        word, said = hit.action.word, hit.action.text
        if word in ("IGNORE", "STRIP"):
            splice = Splice(seen.start, seen.end, b"")
        elif word in ("PREPEND", "REPLACE"):
            # A body line that is replaced goes on where the one that came does.
            end = b"\r\n" if seen.whole or word == "PREPEND" else b""
            new = said + end if seen.kind is Kind.BODY else _part_field(said)
            splice = Splice(seen.start, seen.start if word == "PREPEND" else seen.end, new)
        else:
            return
        if word in ("PREPEND", "REPLACE") and not (said and splice.octets):
            self._tell(hit, "no-usable-text", _shown(said))
        else:
            self._count(hit.place, BODY, RuleResult("checks", hit.place, changed=1))
            self._splice(splice)

    def _splice(self, new: Splice) -> None:
        last = self.splices[-1] if self.splices else None
        if last is not None and last.end == new.start:
            self.splices[-1] = Splice(last.start, new.end, last.octets + new.octets)
        else:
            self.splices.append(new)

    def _look(self, kind: Kind, text: bytes) -> Hit | None:
        """Ask the tables of that kind, and carry out what is not about the line itself."""
        tables = self._checks.tables[kind]
        if self._over or not text or not tables:
            return None
        try:
            hit = tables.find(Subject(text, self._clock, self._timer.left()))
        except TimeoutError:
            self._late(kind)
            return None
        if hit is None:
            return None
        if self._trace is not None:
            self._trace(Tried(hit.place, hit.action.word, ((kind.value, _shown(text)),)))
        self._mail(hit, text)
        return hit

    def _late(self, kind: Kind) -> None:
        self._count(kind.value, "", RuleResult(kind.value, "lookup", timed_out=True))
        self._is_late()

    def _is_late(self) -> bool:
        """Whether the mail's time is over: then no further line is looked at."""
        try:
            self._timer.left()
        except TimeoutError:
            self._count("mail_time", "", RuleResult("checks", "mail_time", timed_out=True))
            self._over = True
        return self._over

    def _mail(self, hit: Hit, line: bytes) -> None:
        word, text = hit.action.word, _clean(hit.action.text)
        judged = self.judgement
        if word == "REJECT":
            self._reject(hit, text)
        elif word == "DISCARD":
            judged.verdict, self._over = Verdict.DISCARD, True
            self._tell(hit, "discarded", text)
        elif word == "PASS":
            self._over = self.passed = True
            self._tell(hit, "passed", text)
        elif word == "HOLD" and judged.hold is None:
            why = text or f"{hit.place}: {_shown(line)}"
            judged.hold = Finding(HOLD_QUEUE, "header_checks", why).reason.decode("ascii")
            self._tell(hit, "held", text)
        elif word in ("REDIRECT", "BCC"):
            self._send(hit, word)
        elif word == "FILTER":
            self._tell(hit, "filter-ignored", text)
        elif word in LOGGING or word == "STRIP":
            outcome = {"WARN": "warned", "INFO": "noted", "STRIP": "stripped"}[word]
            self._tell(hit, outcome, f"{text}: {_shown(line)}" if text else _shown(line))
        elif word not in _QUIET:
            self._tell(hit, "unknown-action", _shown(word.encode()))

    def _reject(self, hit: Hit, text: str) -> None:
        first, _, rest = text.partition(" ")
        if _OTHER_CLASS.fullmatch(first):
            text = f"4{first[1:]} {rest}"  # as cleanup(8) makes a code of class 2 temporary
        self.judgement.refuse(text, REJECTED)
        self._over = True
        deferred = self.judgement.verdict is Verdict.TEMPFAIL
        self._tell(hit, "deferred" if deferred else "rejected", self.judgement.reply)

    def _send(self, hit: Hit, word: str) -> None:
        if _ADDRESS.match(hit.action.text) is None:
            self._tell(hit, "not-an-address", _shown(hit.action.text))
            return
        address = hit.action.text.decode("utf-8", "surrogateescape")
        if word == "BCC":
            self.judgement.copies.append(address)
            self._tell(hit, "copied", _shown(hit.action.text))
        else:
            self.judgement.redirect, self._over = address, True
            self._tell(hit, "redirected", _shown(hit.action.text))

    def _spared(self, place: str, signatures: tuple[Signature, ...]) -> bool:
        """What becomes of a change that breaks these: whether it is left out."""
        names = ", ".join(map(str, signatures))
        match self._checks.on_signed:
            case OnSigned.FORCE:
                self._shield.give_up(signatures)
                return False
            case OnSigned.REJECT:
                self.judgement.refuse(SIGNED, "")
                self._over = True
                self._tell(Hit(place, Action("", b"")), "rejected", SIGNED)
            case OnSigned.SKIP:
                spared = RuleResult("checks", place, spared=1, signatures=names)
                self._count(place, "spared", spared)
        return True

    def _count(self, place: str, what: str, one: RuleResult) -> None:
        known = self._counts.get((place, what))
        if known is not None:
            one = replace(
                one, changed=known.changed + one.changed, spared=known.spared + one.spared
            )
        self._counts[place, what] = one

    def _tell(self, hit: Hit, outcome: str, text: str) -> None:
        if len(self.results) < TOLD:
            self.results.append(RuleResult("checks", hit.place, outcome=outcome, text=text))


_QUIET = frozenset({"DUNNO", "OK", "IGNORE", "PREPEND", "REPLACE", "HOLD"})
_OTHER_CLASS = re.compile(r"[236-9]\.\d{1,3}\.\d{1,3}")


def _field_of(text: bytes) -> HeaderField | None:
    """The field that a text is, None if it begins with no name: folds as in cleanup_out.c."""
    name = header_name(text)
    if name is None:
        return None
    value = text[len(name) :].lstrip(b" \t")[1:].translate(None, b"\r\0")
    return HeaderField(name, _folds(value))


def _part_field(text: bytes) -> bytes:
    """The same for a part's header, with its line end; nothing if it begins with no name."""
    return b"" if header_name(text) is None else _folds(text) + b"\r\n"


def _folds(text: bytes) -> bytes:
    first, *rest = text.split(b"\n")
    lines = (each if each[:1] in (b" ", b"\t") else b"\t" + each for each in rest)
    return b"\r\n".join((first, *lines))


_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


def _clean(text: bytes) -> str:
    """A text as it may stand in a reply, a log line or a reason."""
    return _CONTROLS.sub(" ", text.decode("utf-8", "replace")).strip()


def _shown(text: bytes) -> str:
    return _clean(text[:SHOWN])
