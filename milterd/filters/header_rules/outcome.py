"""What rules and checks came to: the facts of the headers filter."""

from __future__ import annotations

from dataclasses import dataclass, field

from milterd.core.actions import AddRecipient, DeleteRecipient, HeaderEdit, Quarantine
from milterd.core.decision import Verdict
from milterd.core.values import value

MailEdit = HeaderEdit | AddRecipient | DeleteRecipient | Quarantine


@value
class RuleResult:
    """What one rule did: fields changed, fields spared for a signature, or no time left.

    `outcome` is what it did to the mail as a whole, or empty; `text` what it says to it.
    `signatures` names those that fields were spared for, or that the rule breaks by force.
    """

    rule_set: str
    rule: str
    changed: int = 0
    spared: int = 0
    timed_out: bool = False
    outcome: str = ""
    text: str = ""
    signatures: str = ""


@value
class Splice:
    """Octets of the body from `start` to `end` that become `octets`."""

    start: int
    end: int
    octets: bytes


@value
class Outcome:
    """The edits that all rules together come to, and what each rule did.

    `verdict` is CONTINUE, REJECT, TEMPFAIL or DISCARD; `reply` is the text of a refusal, its
    enhanced code first.  `body` are the changes to the body, top to bottom.
    """

    edits: tuple[MailEdit, ...] = ()
    results: tuple[RuleResult, ...] = ()
    verdict: Verdict = Verdict.CONTINUE
    reply: str = ""
    body: tuple[Splice, ...] = ()


NOTHING = Outcome()


@dataclass(slots=True)
class Judgement:
    """What becomes of the mail as a whole, while rules run.

    `redirect` takes the place of all recipients; `copies` are recipients besides.
    """

    verdict: Verdict = Verdict.CONTINUE
    reply: str = ""
    hold: str | None = None
    redirect: str | None = None
    copies: list[str] = field(default_factory=list)

    @property
    def over(self) -> bool:
        """Whether nothing more can change it."""
        return self.verdict is not Verdict.CONTINUE

    def refuse(self, text: str, default: str) -> None:
        """Refuse the mail: `text` may begin with its enhanced code, 5.7.1 stands for none."""
        text = text or default
        if not _is_coded(text):
            text = f"5.7.1 {text}"
        self.reply = text
        self.verdict = Verdict.TEMPFAIL if text.startswith("4") else Verdict.REJECT

    def edits(self, recipients: tuple[bytes, ...]) -> tuple[MailEdit, ...]:
        """The edits of the envelope, and of where the mail is kept."""
        found: list[MailEdit] = []
        if self.redirect is not None:
            target = self.redirect.encode("utf-8", "surrogateescape")
            gone = dict.fromkeys(each for each in recipients if each != target)
            found += [AddRecipient(target), *map(DeleteRecipient, gone)]
        else:
            copies = dict.fromkeys(each.encode("utf-8", "surrogateescape") for each in self.copies)
            found += [AddRecipient(each, (b"NOTIFY=NEVER",)) for each in copies]
        if self.hold is not None:
            found.append(Quarantine(self.hold.encode("utf-8")))
        return tuple(found)


def _is_coded(text: str) -> bool:
    """Whether a text begins with an enhanced status code (RFC 3463)."""
    parts = text.split(maxsplit=1)[0].split(".") if text.strip() else []
    return (
        len(parts) == 3
        and parts[0] in ("4", "5")
        and all(each.isascii() and each.isdigit() and len(each) <= 3 for each in parts)
    )
