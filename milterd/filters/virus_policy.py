"""What is done about each thing that a scanner can find, or fail to do, for whose mail.

The failure matrix: an outcome and a direction, or a domain of ours, give one action.  Nothing but
a clean scan is clean, and each outcome has an action whatever is configured, so that no mail goes
on because a case was forgotten.
"""

from __future__ import annotations

import enum
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from milterd.core import finding as findings
from milterd.core.finding import Finding
from milterd.core.mail import Direction, Mail
from milterd.ports.scanner import (
    Infected,
    ScanFact,
    Skipped,
    TooLarge,
    Unavailable,
    Unscannable,
)


class Action(enum.Enum):
    """What to do with a mail that is not known to be clean."""

    REJECT = "reject"
    TEMPFAIL = "tempfail"
    WAIT = "wait"
    HOLD = "hold"
    DISCARD = "discard"
    QUARANTINE = "quarantine"
    TAG = "tag"
    ACCEPT = "accept"


STRICTEST = (
    Action.REJECT, Action.TEMPFAIL, Action.WAIT, Action.HOLD, Action.QUARANTINE, Action.DISCARD,
    Action.TAG, Action.ACCEPT,
)  # fmt: skip
"""Whose word counts where recipients of several domains have several actions."""

PASSING = frozenset({Action.TAG, Action.ACCEPT})
"""Actions by which a mail goes on to its recipients."""


class Outcome(enum.Enum):
    """What a scan came to, if it was not clean.  The first five are about what was found, the
    others about a mail that nobody has looked into."""

    INFECTED = "infected"
    PHISHING = "phishing"
    PUA = "pua"
    HEURISTIC = "heuristic"
    ENCRYPTED = "encrypted"
    UNSCANNABLE = "unscannable"
    TOO_LARGE = "too_large"
    TOO_SLOW = "too_slow"
    UNAVAILABLE = "unavailable"

    @property
    def unseen(self) -> bool:
        """Whether the mail was not looked into, or not wholly."""
        return self in _UNSEEN


_UNSEEN = frozenset({
    Outcome.ENCRYPTED, Outcome.UNSCANNABLE, Outcome.TOO_LARGE, Outcome.TOO_SLOW,
    Outcome.UNAVAILABLE,
})  # fmt: skip

WAITABLE = frozenset({Outcome.UNAVAILABLE, Outcome.TOO_SLOW})
"""Outcomes that another try may change: only these can be waited for, or held until then."""
AWAITED = Finding("clamav", f"{findings.AWAITED}not-scanned", "held until a scanner answers")
"""What a mail is held for that is to be scanned later."""

LIKE: Mapping[Outcome, Outcome] = MappingProxyType({
    Outcome.PHISHING: Outcome.INFECTED,
    Outcome.PUA: Outcome.INFECTED,
    Outcome.HEURISTIC: Outcome.INFECTED,
    Outcome.ENCRYPTED: Outcome.UNSCANNABLE,
    Outcome.TOO_SLOW: Outcome.UNAVAILABLE,
})  # fmt: skip
"""Whose action counts for an outcome that has none of its own."""

CLASSES: tuple[tuple[str, Outcome], ...] = (
    ("PUA.*", Outcome.PUA),
    ("Heuristics.Phishing.*", Outcome.PHISHING),
    ("Phishing.*", Outcome.PHISHING),
    ("*.Phishing.*", Outcome.PHISHING),
    ("Heuristics.Encrypted.*", Outcome.ENCRYPTED),
    ("Heuristics.*", Outcome.HEURISTIC),
)
"""Names of signatures by class, the first that fits; what fits none is infected."""

Actions = Mapping[Outcome, Action]


@dataclass(frozen=True, slots=True)
class Ruled:
    """An action, and the setting that says so."""

    action: Action
    rule: str


@dataclass(frozen=True, slots=True)
class Matrix:
    """`outcomes` are those that a filter may come to; `general` has an action for INFECTED,
    UNSCANNABLE, TOO_LARGE and UNAVAILABLE at least, as far as they are among them;
    `directions` and `domains` have what differs.  A domain is one of a recipient of inbound
    mail, or of the sender of our own."""

    general: Actions
    directions: Mapping[Direction, Actions] = field(default_factory=dict)
    domains: Mapping[bytes, Actions] = field(default_factory=dict)
    outcomes: tuple[Outcome, ...] = tuple(Outcome)

    def of(self, outcome: Outcome, mail: Mail) -> Ruled:
        """The action for a mail.  Where its domains have several, the strictest."""
        direction = mail.session.direction
        found = {self.ruled(outcome, direction, each) for each in _domains(mail)}
        ruled = found or {self.ruled(outcome, direction)}
        return min(ruled, key=lambda each: (STRICTEST.index(each.action), each.rule))

    def ruled(self, outcome: Outcome, direction: Direction, domain: bytes = b"") -> Ruled:
        """What the nearest table says that says anything: the domain's, the direction's, the one
        for all mail."""
        tables = (
            (f"domain.{domain.decode('ascii', 'replace')}.", self.domains.get(domain, {})),
            (f"{direction.value}.", self.directions.get(direction, {})),
            ("", self.general),
        )
        for place, own in tables:
            for each in (outcome, LIKE.get(outcome, outcome)):
                if each in own:
                    return Ruled(own[each], f"{place}{each.value}")
        raise LookupError(f"no action for {outcome.value}")

    def table(self) -> list[tuple[str, ...]]:
        """The matrix for people: a row of titles, then each outcome with its actions, in general
        and for domains."""
        rows = [("mail that is", *(each.value for each in Direction))]
        for domain in (b"", *self.domains):
            shown = f" ({domain.decode('ascii', 'replace')})" if domain else ""
            for outcome in self.outcomes:
                cells = [self.ruled(outcome, each, domain).action for each in Direction]
                marks = (_marked(outcome, each) for each in cells)
                rows.append((f"{outcome.value}{shown}", *marks))
        return rows


def _marked(outcome: Outcome, action: Action) -> str:
    """An action; with a mark where mail goes on that nobody has looked into."""
    return f"{action.value} (unseen)" if outcome.unseen and action in PASSING else action.value


def _domains(mail: Mail) -> set[bytes]:
    envelope = mail.envelope
    if mail.session.direction is Direction.ORIGINATING:
        addresses: Sequence[bytes] = (envelope.sender,)
    else:
        addresses = [each.address for each in envelope.recipients]
    return {each.rpartition(b"@")[2].lower() for each in addresses if b"@" in each}


class Signatures:
    """What signatures mean: which class each is of, and which are passed over."""

    def __init__(self, classes: Sequence[tuple[str, Outcome]], ignored: Sequence[str]) -> None:
        self._classes = [(_glob(pattern), outcome) for pattern, outcome in (*classes, *CLASSES)]
        self._ignored = [_glob(pattern) for pattern in ignored]

    def ignored(self, name: str) -> bool:
        """Whether what this signature finds is no finding here."""
        return any(each.fullmatch(name) for each in self._ignored)

    def outcome(self, name: str) -> Outcome:
        """The class of a signature."""
        found = (outcome for each, outcome in self._classes if each.fullmatch(name))
        return next(found, Outcome.INFECTED)

    def of(self, fact: ScanFact) -> Outcome | None:
        """What a scanner's answer comes to; None for what is clean, or let pass."""
        match fact:
            case Infected(signature):
                return None if self.ignored(signature) else self.outcome(signature)
            case Unscannable("encrypted", _):
                return Outcome.ENCRYPTED
            case Unscannable():
                return Outcome.UNSCANNABLE
            case TooLarge():
                return Outcome.TOO_LARGE
            case Unavailable("timeout", _):
                return Outcome.TOO_SLOW
            case Unavailable():
                return Outcome.UNAVAILABLE
        return None


def finding(outcome: Outcome, fact: ScanFact) -> Finding:
    """What a mail is kept for: a signature by its name, anything else by the kind of trouble."""
    word = outcome.value.replace("_", "-")
    match fact:
        case Infected(signature) if signature:
            return Finding("clamav", signature, word)
        case Unscannable(why, _) | Unavailable(why, _) if why not in ("encrypted", "timeout"):
            return Finding("clamav", f"{word}.{why}", "not looked into")
    return Finding("clamav", word, "not looked into")


def _glob(pattern: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(pattern), re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Exempt:
    """Whose mail is not scanned: `senders` of our own users' mail, `recipients` who all must be
    in the list.  An entry is an address, or `@domain`."""

    senders: frozenset[bytes] = frozenset()
    recipients: frozenset[bytes] = frozenset()

    def of(self, mail: Mail) -> Skipped | None:
        """Why a mail is not scanned, if it is not.  Anybody may claim any sender, so senders
        count for originating mail only."""
        if not self.senders and not self.recipients:
            return None
        envelope = mail.envelope
        own = mail.session.direction is Direction.ORIGINATING
        if own and _listed(envelope.sender, self.senders):
            return Skipped("sender")
        if envelope.recipients and all(
            _listed(each.address, self.recipients) for each in envelope.recipients
        ):
            return Skipped("recipients")
        return None


def _listed(address: bytes, those: frozenset[bytes]) -> bool:
    plain = address.lower()
    return plain in those or (b"@" + plain.rpartition(b"@")[2]) in those
