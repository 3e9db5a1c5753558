"""What became of a mail on its road through our filters, for a reader and for a program.

Octets of a mail, and words of the outside world, are escaped before they reach a terminal.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from milterd.base import reference
from milterd.base.escaping import escape
from milterd.core.decision import Decision, Reason, Tried, Verdict
from milterd.core.mail import Client
from milterd.explain import signed
from milterd.explain.facts import UnwritableError, encode
from milterd.explain.road import PASSED, Answer, Road, Stop
from milterd.lab.diff import Line, difference
from milterd.lab.show import edit_fields, readable

_WIDTH = 2000


def facts_of(answer: Answer, hint: Any) -> dict[str, Any] | None:
    """An answer's facts as a file has them; None where there are none.

    Raises :class:`UnwritableError`.
    """
    return None if answer.facts is None else encode(answer.facts, hint)


def as_lines(name: str, road: Road, hints: dict[str, Any]) -> Iterator[Line]:
    """The report for a reader; `hints` are the types of the filters' facts."""
    session = road.session
    yield "", f"{_clean(name)}: {session.direction.value} mail: {road.why}"
    yield "", f"client {_client(session.client)}, helo {readable(session.helo)}"
    for stop in road.stops:
        yield "", ""
        if stop.answer is None:
            yield "dim", f"{stop.name}: not asked: {stop.unasked}"
        else:
            yield "bold", f"{stop.name}:"
            yield from _answer_lines(stop.answer, hints[stop.name])
            if stop.shadow:
                yield "yellow", '  mode = "shadow": nothing of this is done'
            yield from difference(stop.before, stop.after)
    yield "", ""
    for style, line in signed.lines(road):
        yield style, _clean(line)
    yield _style(road.last), f"{_clean(name)}: {_verdict(road.last)}"


def _answer_lines(answer: Answer, hint: Any) -> Iterator[Line]:
    where = "given" if answer.given else "gathered"
    for line in _fact_lines(answer, hint):
        yield "cyan", f"  fact, {where}: {line}"
    for tried in answer.tried:
        yield "", f"  tried: {_clean(tried.rule)}: {_clean(tried.outcome)}"
        for subject, found in tried.looked:
            yield "dim", f"    {_clean(subject)}: {_clean(found)}"
    if answer.fault:
        yield "red", f"  the filter failed: {_clean(answer.fault)}"
    decision = answer.decision
    for reason in decision.reasons:
        yield "", f"  reason: {_reason(reason)}"
    for edit in decision.edits:
        fields = edit_fields(edit)
        kind = fields.pop("edit")
        words = (f"{key}={value}" for key, value in fields.items() if value not in ("", []))
        yield "", f"  edit: {kind} {' '.join(words)}"
    yield _style(decision), f"  verdict: {_verdict(decision)}"


def _fact_lines(answer: Answer, hint: Any) -> Iterator[str]:
    try:
        facts = facts_of(answer, hint)
    except UnwritableError:
        yield _clean(repr(answer.facts))
        return
    for key, value in (facts or {}).items():
        if isinstance(value, list) and len(value) > 1:
            for number, each in enumerate(value):
                yield _clean(f"{key}[{number}] = {reference.toml(each)}")
        else:
            yield _clean(f"{key} = {reference.toml(value)}")


def _reason(reason: Reason) -> str:
    facts = " ".join(f"{key}={value}" for key, value in reason.facts.items())
    return _clean(f"{reason.source}: {reason.outcome}" + (f" ({facts})" if facts else ""))


def _style(decision: Decision) -> str:
    return "green" if decision.verdict in PASSED else "red"


def _verdict(decision: Decision) -> str:
    return f"{decision.verdict.value} {decision.reply or _default(decision)}".rstrip()


def _default(decision: Decision) -> str:
    """What Postfix says where a filter gives no reply."""
    return {
        Verdict.REJECT: "550 5.7.1 Command rejected",
        Verdict.TEMPFAIL: "451 4.7.1 Service unavailable - try again later",
    }.get(decision.verdict, "")


def _client(client: Client) -> str:
    return f"{readable(client.name)} [{readable(client.address)}]"


def _clean(text: str) -> str:
    return escape(text, _WIDTH)


def as_values(name: str, road: Road, hints: dict[str, Any]) -> dict[str, object]:
    """The report for a program."""
    session = road.session
    return {
        "file": name,
        "verdict": road.last.verdict.value,
        "reply": str(road.last.reply) if road.last.reply else _default(road.last) or None,
        "direction": session.direction.value,
        "why": road.why,
        "client": _client(session.client),
        "helo": readable(session.helo),
        "signatures": signed.values(road),
        "filters": [_stop_values(each, hints[each.name]) for each in road.stops],
    }


def _stop_values(stop: Stop, hint: Any) -> dict[str, object]:
    answer = stop.answer
    if answer is None:
        return {"filter": stop.name, "asked": False, "why": stop.unasked}
    decision = answer.decision
    return {
        "filter": stop.name,
        "asked": True,
        "shadow": stop.shadow,
        "facts": _fact_values(answer, hint),
        "given": answer.given,
        "tried": [_tried_values(each) for each in answer.tried],
        "reasons": [
            {"source": each.source, "outcome": each.outcome, "facts": dict(each.facts)}
            for each in decision.reasons
        ],
        "fault": answer.fault or None,
        "edits": [edit_fields(each) for each in decision.edits],
        "verdict": decision.verdict.value,
        "reply": str(decision.reply) if decision.reply else _default(decision) or None,
        "diff": [line for _, line in difference(stop.before, stop.after)],
    }


def _fact_values(answer: Answer, hint: Any) -> object:
    try:
        return facts_of(answer, hint)
    except UnwritableError:  # a filter of a postmaster's own may gather anything
        return _clean(repr(answer.facts))


def _tried_values(tried: Tried) -> dict[str, object]:
    looked = [{"subject": subject, "found": found} for subject, found in tried.looked]
    return {"rule": tried.rule, "outcome": tried.outcome, "looked": looked}
