"""OpenDKIM's miltertest and `milterlab run` see the same of the same dialogue with the same milter.

The dialogues are tests/scenarios/miltertest/MILTER/*.milter.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from milterd.core.mail import HeaderField
from milterd.lab.scenario import steps as s
from milterd.lab.scenario.parse import parse
from milterd.lab.scenario.run import Outcome, run
from milterd.wire import messages as m
from milterd.wire.constants import Protocol
from milterd.wire.convert import edit_to_replies
from tests.filters.clamd_peer import eicar
from tests.lab import miltertest
from tests.peers import opendkim
from tests.peers.clamav_milter import clamav_milter
from tests.peers.clamd import Clamd
from tests.peers.process import directory
from tests.wire.programs import pymilter

DIALOGUES = Path(__file__).parents[1] / "scenarios" / "miltertest"
FILES = sorted(DIALOGUES.rglob("*.milter"))


@dataclass
class Milter:
    """A milter that runs, the values its dialogues need, and its log if it writes one."""

    address: str
    values: dict[str, bytes] = field(default_factory=dict)
    log: Path | None = None

    def heard(self) -> list[bytes]:
        """What it heard so far, if it writes that down: every event that it answered, and so
        had written down by then."""
        if self.log is None or not self.log.exists():
            return []
        return [e for e in self.log.read_bytes().splitlines() if e not in (b"abort", b"close")]


@pytest.fixture(scope="module")
def milters(clamd: Clamd) -> Iterator[dict[str, Milter]]:
    with ExitStack() as stack:
        homes = [stack.enter_context(directory("agrees")) for _ in range(3)]
        key = opendkim.make_key(homes[0])
        signing = stack.enter_context(opendkim.opendkim(homes[0], "s", key=key))
        verifying = stack.enter_context(opendkim.opendkim(homes[1], "v", records=key.records))
        scanning = stack.enter_context(clamav_milter(homes[2], clamd))
        path, log = stack.enter_context(pymilter())
        yield {
            "peer": Milter(f"unix:{path}", log=log),
            "sign": Milter(signing.address),
            "verify": Milter(verifying.address, {"signature": _signature(signing.address)}),
            "clamav": Milter(scanning.address, {"infected": eicar()}),
        }


def read(path: Path, values: Mapping[str, bytes]) -> s.Scenario:
    return parse(path.read_bytes(), str(path), values)


def played(scenario: s.Scenario, address: str) -> Outcome:
    outcome = asyncio.run(run(scenario, socket=address))
    assert outcome.failures == ()
    return outcome


def _signature(address: str) -> bytes:
    """A signature of the mail in verify/good.milter, as the value of a field."""
    outcome = played(read(DIALOGUES / "sign/signed.milter", {}), address)
    (end,) = [each for each in outcome.exchanges if each.did == "end"]
    (edit,) = end.answers[0].edits
    assert not isinstance(edit, HeaderField)
    (reply,) = edit_to_replies(edit, True)
    assert isinstance(reply, m.InsertHeaderReply)
    return reply.value


def differences(
    scenario: s.Scenario,
    milter: Milter,
    theirs: s.Scenario | None = None,
    patience: int = miltertest.PATIENCE,
) -> list[str]:
    """Where milterlab, with `scenario`, and miltertest, with the same or `theirs`, differ."""
    heard = [len(milter.heard())]
    with directory("lua") as home:
        actions, protocol = miltertest.agreement(home, milter.address)
        outcome = played(scenario, milter.address)
        heard.append(len(milter.heard()))
        ours, asked = miltertest.seen(outcome.exchanges, Protocol.HDR_LEADSPC in protocol)
        lua = miltertest.script(theirs or scenario, milter.address, asked, patience)
        told = miltertest.run(home, lua)
    log = milter.heard()
    wishes = (s.FlagsAre("actions", int(actions)), s.FlagsAre("protocol", int(protocol)))
    steps = [s.Step(1, s.Offer()), *(s.Step(1, s.Expect(wish)) for wish in wishes)]
    played(dataclasses.replace(scenario, steps=tuple(steps)), milter.address)
    return [
        *_only("milterlab", ours, told),
        *_only("miltertest", told, ours),
        *([] if log[heard[0] : heard[1]] == log[heard[1] :] else ["the milter heard other events"]),
    ]


def _only(who: str, mine: miltertest.Seen, others: miltertest.Seen) -> Iterator[str]:
    for line, facts in sorted(mine.items()):
        for fact in facts - others.get(line, set()):
            yield f"line {line}: only {who} saw {fact}"


def test_there_are_dialogues_enough() -> None:
    assert len(FILES) >= 24


@pytest.mark.parametrize("path", FILES, ids=lambda each: f"{each.parent.name}-{each.stem}")
def test_both_see_the_same(path: Path, milters: dict[str, Milter]) -> None:
    milter = milters[path.parent.name]
    assert "\n".join(differences(read(path, milter.values), milter)) == ""


@pytest.mark.parametrize(
    ("milter", "dialogue", "was", "now", "difference"),
    [
        ("peer", "insert", b" insert", b" add", "only miltertest saw ('added', "),
        ("peer", "insert", b" insert", b" add", "only milterlab saw ('inserted', "),
        ("peer", "body", b" body", b" quarantine", "('answer', '7', '', 'false')"),
        ("peer", "reject", b" reject", b" discard", "only miltertest saw ('reply', '64')"),
        ("peer", "octets", b"\xdf", b"\xde", "the milter heard other events"),
        ("sign", "signed", b" joe@example.net", b" joe@example.com", "line 11: only milterlab"),
    ],
)
def test_a_difference_is_found(
    milters: dict[str, Milter], milter: str, dialogue: str, was: bytes, now: bytes, difference: str
) -> None:
    """miltertest says `now` in a field where milterlab says `was`."""
    scenario = read(DIALOGUES / milter / f"{dialogue}.milter", milters[milter].values)
    altered = [_altered(each, was, now) for each in scenario.steps]
    theirs = dataclasses.replace(scenario, steps=tuple(altered))
    # OpenDKIM has nothing to do with such a mail, and answers to its text and end no more: the
    # difference is that there is no signature, however long one waits for it.
    patience = 2 if milter == "sign" else miltertest.PATIENCE
    found = differences(scenario, milters[milter], theirs, patience)
    assert any(difference in each for each in found), found


def _altered(step: s.Step, was: bytes, now: bytes) -> s.Step:
    match step.action:
        case s.Say(m.Header(name, value)):
            return s.Step(step.line, s.Say(m.Header(name, value.replace(was, now))))
        case _:
            return step
