"""Running a rule's own examples, as `milterd check` does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from milterd.core.apply import apply
from milterd.core.decision import Verdict
from milterd.core.mail import (
    PIECE,
    Client,
    Envelope,
    Family,
    HeaderField,
    Mail,
    Recipient,
    Session,
    split_header,
)
from milterd.filters.header_rules.compiled import Rule, RuleSet, compile_rules
from milterd.filters.header_rules.model import Example, RuleFile
from milterd.filters.header_rules.outcome import Outcome
from milterd.filters.header_rules.read import RuleError
from milterd.filters.header_rules.run import Limits, run

_HIDDEN = HeaderField(b"Received", b" from client by mta; now", hidden=True)
"""What the MTA has on top and does not show."""
_OUTCOMES = {
    "held": "hold",
    "redirected": "redirect",
    "warned": "warn",
    "stopped": "stop",
}


@dataclass(frozen=True, slots=True)
class _Sized:
    """A body of which nobody looks at more than the size."""

    size: int

    def pieces(self, limit: int = PIECE) -> Iterator[bytes]:
        for start in range(0, self.size, limit):
            yield bytes(min(limit, self.size - start))


def check(file: RuleFile) -> list[str]:
    """Run every example of every rule; what is wrong, in words.  Empty when all is well."""
    parameters = {name: (value,) for name, value in file.parameters.items()}
    try:
        rules = compile_rules(file, parameters).rules
    except RuleError as error:
        return [f"{error.source}: {each}" for each in error.problems]
    problems: list[str] = []
    for text, rule in zip(file.rule, rules, strict=True):
        place = f"rule set {file.name!r}: rule {rule.name!r}"
        if all(_idle(each) for each in text.example):
            problems.append(f"{place}: no example shows it at work")
        for number, example in enumerate(text.example, 1):
            problems += (f"{place}: example {number}: {each}" for each in _wrong(rule, example))
    return problems


def _idle(example: Example) -> bool:
    return example.after in (None, example.before) and example.verdict == "continue"


def _wrong(rule: Rule, example: Example) -> list[str]:
    """What the rule alone does otherwise than the example says."""
    mail = mail_of(example)
    outcome = run([RuleSet.of("example", (rule,))], mail, Limits(10.0, 10.0), lambda: 0.0)
    found = []
    verdict = verdict_of(outcome)
    if verdict != example.verdict:
        found.append(f"expected the verdict {example.verdict!r}, found {verdict!r}")
    delivered = apply(mail.with_headers((_HIDDEN, *mail.headers)), outcome.edits).headers
    lines = tuple(each.raw.decode("utf-8", "replace") for each in delivered if each is not _HIDDEN)
    expected = example.before if example.after is None else example.after
    if lines != expected:
        found.append(f"expected {list(expected)}, found {list(lines)}")
    return found


def verdict_of(outcome: Outcome) -> str:
    """What became of the mail, in an example's words."""
    if outcome.verdict is not Verdict.CONTINUE:
        return str(outcome.verdict.value)
    said = (_OUTCOMES[each.outcome] for each in outcome.results if each.outcome in _OUTCOMES)
    return next(said, "continue")


def mail_of(example: Example) -> Mail:
    """The mail that an example tells of."""
    block = "".join(f"{each}\r\n" for each in example.before).encode("utf-8")
    macros = {"daemon_name": example.listener.encode()} if example.listener else {}
    if example.authenticated:
        macros["auth_authen"] = b"user"
    address = example.client.encode()
    family = Family.INET6 if b":" in address else Family.INET if address else Family.UNKNOWN
    session = Session(
        Client(b"client.example", family, address), example.helo.encode(), example.direction, macros
    )
    recipients = tuple(Recipient(each.encode()) for each in example.recipients)
    mail = Mail(session, Envelope(example.sender.encode(), (), recipients), split_header(block)[0])
    return replace(mail, body=_Sized(max(0, example.size - len(mail.head()))))
