"""What came of scenarios, for a reader, for a program, and for a CI server.

Every octet of a milter or a file is escaped by then; what XML cannot carry
(control characters) is escaped here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from xml.sax.saxutils import escape, quoteattr

from milterd.lab import status
from milterd.lab.scenario.run import Outcome
from milterd.lab.show import readable

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What no XML 1.0 document may hold, even as a reference (its section 2.2)."""
WORDS = {
    status.GOOD: "ok",
    status.BAD: "FAILED",
    status.USAGE: "UNUSABLE",
    status.BROKEN: "BROKEN",
    status.SILENT: "SILENT",
    status.GONE: "GONE",
}


def printable(text: str) -> str:
    """A name on one line, without control characters."""
    return readable(text.encode("utf-8", "surrogateescape"))


def lines(outcome: Outcome, talk: bool = False) -> Iterator[str]:
    """The report of one scenario; with `talk`, all that was said."""
    name = printable(outcome.name)
    yield f"{WORDS[outcome.status]:8} {name}"
    if talk:
        for each in outcome.exchanges:
            yield f"  {each.line:4}  {each.did}"
            yield from (f"          -> {came}" for came in each.came)
    yield from (f"  {name}:{each.line}: {each.text}" for each in outcome.failures)


def summary(outcomes: Sequence[Outcome]) -> str:
    """All of them in one line."""
    passed = sum(each.passed for each in outcomes)
    failed = len(outcomes) - passed
    seconds = sum(each.seconds for each in outcomes)
    noun = "scenario" if len(outcomes) == 1 else "scenarios"
    return f"{len(outcomes)} {noun}: {passed} passed, {failed} failed, in {seconds:.2f} s"


def values(outcome: Outcome) -> dict[str, object]:
    """The report of one scenario for a program."""
    return {
        "scenario": printable(outcome.name),
        "passed": outcome.passed,
        "status": outcome.status,
        "seconds": round(outcome.seconds, 3),
        "failures": [{"line": each.line, "text": each.text} for each in outcome.failures],
        "exchanges": [
            {"line": each.line, "did": each.did, "came": list(each.came)}
            for each in outcome.exchanges
        ],
    }


def junit(outcomes: Sequence[Outcome]) -> str:
    """A JUnit XML document: one test case a scenario."""
    bad = sum(each.status == status.BAD for each in outcomes)
    errors = sum(not each.passed for each in outcomes) - bad
    totals = (
        f'name="milterlab" tests="{len(outcomes)}" failures="{bad}" errors="{errors}" '
        f'time="{sum(each.seconds for each in outcomes):.3f}"'
    )
    cases = "".join(_case(each) for each in outcomes)
    head = '<?xml version="1.0" encoding="utf-8"?>\n'
    return (
        f"{head}<testsuites {totals}>\n<testsuite {totals}>\n{cases}</testsuite>\n</testsuites>\n"
    )


def _case(outcome: Outcome) -> str:
    name = printable(outcome.name)
    opening = (
        f'<testcase classname="milterlab" name={_attribute(name)} time="{outcome.seconds:.3f}"'
    )
    if outcome.passed:
        return f"{opening}/>\n"
    kind = "failure" if outcome.status == status.BAD else "error"
    found = [f"{name}:{each.line}: {each.text}" for each in outcome.failures]
    said = [
        f"{e.line}: {e.did}" + "".join(f"\n  -> {c}" for c in e.came) for e in outcome.exchanges
    ]
    word = WORDS[outcome.status]
    return (
        f"{opening}>\n<{kind} message={_attribute(found[0])} type={_attribute(word)}>"
        f"{_text(chr(10).join(found))}</{kind}>\n"
        f"<system-out>{_text(chr(10).join(said))}</system-out>\n</testcase>\n"
    )


def _harmless(text: str) -> str:
    return _NOT_XML.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _text(text: str) -> str:
    return escape(_harmless(text))


def _attribute(text: str) -> str:
    return quoteattr(_harmless(text), {"\n": "&#10;", "\t": "&#9;", "\r": "&#13;"})
