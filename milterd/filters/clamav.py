"""The clamav filter: every mail goes through clamd, and each answer has its action.

What clamd can say, or fail to say, is a fact of its own (see
:mod:`milterd.ports.scanner`) with an action of its own; nothing but a clean scan
is ever treated as clean.  On the way the fields that only a scanner may set
(X-Virus-Scanned, X-Virus-Status) are taken off when they came with the mail.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass

from milterd.core.actions import AddHeader, ChangeHeader, Edit, Quarantine
from milterd.core.decision import Decision, Reason, Reply, Trace, Tried, Verdict
from milterd.core.filter import Need
from milterd.core.mail import Mail
from milterd.ports.scanner import (
    Clean,
    Infected,
    ScanFact,
    Scanner,
    TooLarge,
    Unavailable,
    Unscannable,
)

SCANNED = b"X-Virus-Scanned"
STATUS = b"X-Virus-Status"
FORGED_LIMIT = 100
"""A mail that brings more of these fields is refused: nobody does so by accident, and each
deletion costs the MTA a look at the whole header."""


class Action(enum.Enum):
    """What to do with a mail that is not known to be clean."""

    REJECT = "reject"
    TEMPFAIL = "tempfail"
    DISCARD = "discard"
    QUARANTINE = "quarantine"
    TAG = "tag"
    ACCEPT = "accept"


@dataclass(frozen=True, slots=True)
class ClamavOptions:
    """Settings of the clamav filter.

    `clamd` is `unix:PATH` or `inet:PORT@HOST`; `timeout` is in seconds and bounds
    a whole scan; `max_size`, in octets, should not be above clamd's MaxFileSize
    and StreamMaxLength, above which clamd passes over a file as if it were clean.
    Of limits reached inside a mail clamd tells only with `AlertExceedsMax yes`, and
    of encrypted archives only with `AlertEncrypted yes` (clamd.conf(5)).

    `infected`, `unscannable`, `too_large` and `unavailable` are the four actions.
    By default a mail that cannot be looked into (encrypted, a limit reached, an
    error of clamd) waits at the sender: nothing passes unseen, and nothing is
    lost while a postmaster looks.  One that is too large will be so for ever,
    and is refused.  `header` adds X-Virus-Scanned to what was scanned; `hostname`
    is named in it.
    """

    clamd: str = "unix:/run/clamav/clamd.ctl"
    timeout: float = 120.0
    max_size: int = 26_214_400
    memory_limit: int = 4_194_304
    infected: Action = Action.REJECT
    unscannable: Action = Action.TEMPFAIL
    too_large: Action = Action.REJECT
    unavailable: Action = Action.TEMPFAIL
    header: bool = True
    hostname: str = "localhost"


@dataclass(frozen=True, slots=True)
class _Case:
    """A fact in words: the action, the replies, and what log and header say."""

    action: Action
    outcome: str
    detail: str
    refusal: Reply
    deferral: Reply


class ClamavFilter:
    """See the module's contract.  `scanner` is asked once for each mail."""

    name = "clamav"
    needs = Need.HEADERS | Need.BODY | Need.ADD_HEADERS | Need.CHANGE_HEADERS | Need.QUARANTINE

    def __init__(self, options: ClamavOptions, scanner: Scanner) -> None:
        self.options = options
        self._scanner = scanner

    def gather(self, mail: Mail, trace: Trace | None = None) -> ScanFact:  # noqa: ARG002  # nothing is tried
        """Have the whole message scanned."""
        return self._scanner.scan(mail)

    def decide(self, mail: Mail, facts: ScanFact, trace: Trace | None = None) -> Decision:
        """Turn the scanner's answer into the configured action."""
        if trace is not None:
            self._tell(mail, facts, trace)
        if _forged_count(mail) > FORGED_LIMIT:
            return self._flooded(mail)
        if isinstance(facts, Clean):
            edits: tuple[Edit, ...] = (*_forged(mail), *self._scanned())
            return Decision(edits=edits, reasons=(Reason(self.name, "clean"),))
        case = self._case(facts)
        reasons = (
            Reason(self.name, case.outcome, {"action": case.action.value, "detail": case.detail}),
        )
        match case.action:
            case Action.REJECT:
                return Decision(Verdict.REJECT, reply=case.refusal, reasons=reasons)
            case Action.TEMPFAIL:
                return Decision(Verdict.TEMPFAIL, reply=case.deferral, reasons=reasons)
            case Action.DISCARD:
                return Decision(Verdict.DISCARD, reasons=reasons)
        return Decision(edits=self._passing(mail, facts, case), reasons=reasons)

    def check(self) -> tuple[str, ...]:
        """Whether clamd can be reached: the problems found, none when all is well."""
        answer = self._scanner.version()
        if isinstance(answer, Unavailable):
            return (f"clamd at {self.options.clamd}: {answer.why} ({printable(answer.text)})",)
        return ()

    def _tell(self, mail: Mail, facts: ScanFact, trace: Trace) -> None:
        """Each setting that an answer of the scanner is held against."""
        brought = _forged_count(mail)
        found = "over it" if brought > FORGED_LIMIT else "within it"
        trace(Tried(f"at most {FORGED_LIMIT} scanner fields in a mail", f"{brought}: {found}"))
        if brought > FORGED_LIMIT:
            return
        trace(Tried("clean goes on", "this is it" if isinstance(facts, Clean) else "no"))
        for kind, key in _SETTINGS.items():
            action: Action = getattr(self.options, key)
            trace(Tried(f'{key} = "{action.value}"', "this is it" if type(facts) is kind else "no"))

    def _flooded(self, mail: Mail) -> Decision:
        facts = {"fields": str(_forged_count(mail)), "limit": str(FORGED_LIMIT)}
        reply = Reply(550, "5.6.0", "Header has too many fields of kinds not allowed here")
        reasons = (Reason(self.name, "too-many-forged-fields", facts),)
        return Decision(Verdict.REJECT, reply=reply, reasons=reasons)

    def _passing(self, mail: Mail, facts: ScanFact, case: _Case) -> tuple[Edit, ...]:
        """The edits of a mail that goes on, or waits in the hold queue."""
        edits: list[Edit] = list(_forged(mail))
        if isinstance(facts, Infected):
            edits += self._scanned()
        status = f"{case.outcome} ({case.detail})"
        if case.action is not Action.ACCEPT:
            edits.append(AddHeader(STATUS, b" " + status.encode("ascii")))
        if case.action is Action.QUARANTINE:
            edits.append(Quarantine(f"clamav: {status}".encode("ascii")[:100]))
        return tuple(edits)

    def _scanned(self) -> tuple[AddHeader, ...]:
        if not self.options.header:
            return ()
        value = f" clamav at {printable(self.options.hostname)}"
        return (AddHeader(SCANNED, value.encode("ascii")),)

    def _case(self, facts: Infected | Unscannable | TooLarge | Unavailable) -> _Case:
        options = self.options
        match facts:
            case Infected(signature):
                name = printable(signature)
                return _Case(
                    options.infected,
                    "infected",
                    name,
                    Reply(550, "5.7.1", f"Message refused: infected with {name}"),
                    Reply(451, "4.7.1", f"Message refused for now: infected with {name}"),
                )
            case Unscannable(why, text):
                return _Case(
                    options.unscannable,
                    "unscannable",
                    f"{why}: {printable(text)}" if text else why,
                    Reply(550, "5.7.1", f"Message cannot be scanned for viruses: {why}"),
                    Reply(451, "4.7.1", f"Message cannot be scanned for viruses: {why}"),
                )
            case TooLarge(size, limit):
                return _Case(
                    options.too_large,
                    "too-large",
                    f"{size} octets, limit {limit}",
                    Reply(552, "5.3.4", f"Message too large to scan for viruses, limit {limit}"),
                    Reply(452, "4.3.4", f"Message too large to scan for viruses, limit {limit}"),
                )
            case Unavailable(why, text):
                return _Case(
                    options.unavailable,
                    "unavailable",
                    f"{why}: {printable(text)}" if text else why,
                    Reply(554, "5.7.1", "Virus scanner unavailable"),
                    Reply(451, "4.7.1", "Virus scanner unavailable, try again later"),
                )


_SETTINGS: Mapping[type[ScanFact], str] = {
    Infected: "infected",
    Unscannable: "unscannable",
    TooLarge: "too_large",
    Unavailable: "unavailable",
}
"""The setting that says what to do about each answer but a clean scan."""

_UNPRINTABLE = re.compile(r"[^A-Za-z0-9 ._:/+@,=\[\]-]")


def printable(text: str, limit: int = 100) -> str:
    """A scanner's words made safe for a reply, a header and a log line.

    Only letters, digits and harmless signs stay; the rest, of which `%` means
    something to MTAs and line ends to everybody, becomes `_`.
    """
    return _UNPRINTABLE.sub("_", text[:limit])


def _forged_count(mail: Mail) -> int:
    return sum(len(mail.values(name)) for name in (SCANNED, STATUS))


def _forged(mail: Mail) -> list[ChangeHeader]:
    """Deletions of every scanner field the mail came with, highest index first."""
    edits = []
    for name in (SCANNED, STATUS):
        count = len(mail.values(name))
        edits += [ChangeHeader(name, index, b"") for index in range(count, 0, -1)]
    return edits
