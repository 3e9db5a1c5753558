"""`smtpgw why` at work: decisions out of the store, for people or as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from milterd.base.escaping import escape
from smtpgw.decisions.decision import Decision
from smtpgw.decisions.finding import find
from smtpgw.queue_cli.common import complain, moment, say, say_json

_FIRST = ("list", "restriction", "asked", "key", "answer", "outcome", "seconds")


def run(queue: Path, name: str, *, as_json: bool) -> int:
    """The exit code."""
    found = find(queue, name)
    for file, reason in found.unread:
        complain(f"{file}: {escape(reason)}")
    if not found.decisions:
        complain(f"nothing is known of {name}: it never was, or it is too long ago")
        return 1
    for each in found.decisions:
        if as_json:
            say_json(dataclasses.asdict(each))
        else:
            say("\n".join(_lines(each)))
    return 0


def _lines(decision: Decision) -> Iterator[str]:
    said = f"{decision.code} {decision.enhanced} {decision.text}".replace("\n", " ")
    yield f"{decision.reference}  {moment(decision.at)}  {decision.outcome}"
    yield f"  told      {escape(said)}"
    yield f"  command   {escape(decision.command)} at {escape(decision.listener)}"
    yield f"  because   {escape(decision.source)}"
    client = f"{decision.client} ({decision.client_name})"
    about = {
        "client": client,
        "session": decision.session,
        "helo": decision.helo,
        "sender": f"<{decision.sender}>",
        "recipient": decision.recipient,
        "queue id": decision.queue_id,
    }
    yield from (f"  {name:<9} {escape(value)}" for name, value in about.items() if value)
    for name, value in decision.facts.items():
        yield f"  {escape(str(name)):<9} {escape(_shown(value))}"
    yield from steps(decision.steps)


def steps(those: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """The steps as lines, the lists of restrictions as headings; safe to show."""
    heading = ""
    for each in those:
        if str(each.get("list", "")) != heading:
            heading = str(each.get("list", ""))
            yield f"  {escape(heading)}"
        yield f"    {step(each)}"


def step(facts: Mapping[str, object]) -> str:
    """One step on one line: what was asked, of what, and what it said; safe to show."""
    words = [str(facts.get("restriction", ""))]
    for name in ("asked", "key", "answer"):
        if facts.get(name) not in (None, "", [], ()):
            words.append(f"{name} {_shown(facts[name])}")
    words += [
        f"{k} {_shown(v)}" for k, v in facts.items() if k not in _FIRST and v not in ("", None)
    ]
    if facts.get("outcome"):
        words.append(f"-> {facts['outcome']}")
    seconds = facts.get("seconds")
    if isinstance(seconds, float):
        words.append(f"({seconds * 1000:.1f} ms)")
    return escape(" ".join(words), 2000)


def _shown(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_shown(each)}" for key, each in value.items())
    return str(value)
