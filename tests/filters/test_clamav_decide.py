"""What the clamav filter makes of each fact, without any clamd."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.actions import AddHeader, ChangeHeader, Quarantine
from milterd.core.apply import apply
from milterd.core.decision import Verdict
from milterd.core.finding import Found
from milterd.core.mail import Mail, parse_message
from milterd.filters.clamav import ClamavFilter, ClamavOptions
from milterd.filters.virus_policy import Action, Outcome
from milterd.ports.scanner import (
    Clean,
    Infected,
    ScanFact,
    TooLarge,
    Unavailable,
    Unscannable,
)
from tests.filters.dkim_world import by_hand


class OneAnswer:
    """A scanner that always answers the same."""

    def __init__(self, fact: ScanFact) -> None:
        self.fact = fact

    def scan(self, _: Mail, **_how: object) -> ScanFact:
        return self.fact

    def version(self) -> str | Unavailable:
        return self.fact if isinstance(self.fact, Unavailable) else "ClamAV 1"


def build(**settings: object) -> ClamavFilter:
    options = dataclasses.replace(ClamavOptions(hostname="mx.example.net"), **settings)
    return ClamavFilter(options, OneAnswer(Clean()))


MAIL = parse_message(
    b"X-Virus-Scanned: forged 1\r\nFrom: a@example.net\r\nx-virus-scanned: forged 2\r\n"
    b"X-Virus-Status: Clean\r\nSubject: one\r\nX-VIRUS-SCANNED:forged\r\n\t3\r\n\r\nbody\r\n"
)
KEPT = b"From: a@example.net\r\nSubject: one\r\n"
SCANNED = b"X-Virus-Scanned: clamav at mx.example.net\r\n"


def header(mail: Mail) -> bytes:
    return mail.head().removesuffix(b"\r\n")


def test_clean_mail_loses_forged_fields_and_gets_ours() -> None:
    decision = build().decide(MAIL, Clean())
    assert decision.verdict is Verdict.CONTINUE
    assert header(apply(MAIL, decision.edits)) == KEPT + SCANNED
    assert [each.outcome for each in decision.reasons] == ["clean"]
    indexes = [
        each.index
        for each in decision.edits
        if isinstance(each, ChangeHeader) and each.name == b"X-Virus-Scanned"
    ]
    assert indexes == [3, 2, 1]


def test_without_header_forged_fields_go_all_the_same() -> None:
    edits = build(header=False).decide(MAIL, Clean()).edits
    assert header(apply(MAIL, edits)) == KEPT


@pytest.mark.parametrize(
    ("fact", "verdict", "reply"),
    [
        (
            Infected("Eicar-Test-Signature"),
            Verdict.REJECT,
            "550 5.7.1 Message refused: infected with Eicar-Test-Signature",
        ),
        (
            Unscannable("encrypted", "Heuristics.Encrypted.Zip"),
            Verdict.TEMPFAIL,
            "451 4.7.1 Message cannot be scanned for viruses: encrypted",
        ),
        (
            TooLarge(30_000_000, 26_214_400),
            Verdict.REJECT,
            "552 5.3.4 Message too large to scan for viruses, limit 26214400",
        ),
        (
            Unavailable("down", "[Errno 2] No such file: /secret/path"),
            Verdict.TEMPFAIL,
            "451 4.7.1 Virus scanner unavailable, try again later",
        ),
    ],
)
def test_defaults_let_nothing_pass_that_is_not_clean(
    fact: ScanFact, verdict: Verdict, reply: str
) -> None:
    decision = build().decide(MAIL, fact)
    assert (decision.verdict, str(decision.reply), decision.edits) == (verdict, reply, ())


FACTS = {
    "infected": Infected("Win.Test-1"),
    "unscannable": Unscannable("limit", "Heuristics.Limits.Exceeded.MaxFileSize"),
    "too_large": TooLarge(11, 10),
    "unavailable": Unavailable("down"),
}


@pytest.mark.parametrize("action", list(Action))
@pytest.mark.parametrize("key", FACTS)
def test_every_fact_follows_its_own_action(key: str, action: Action) -> None:
    others = {each: Action.DISCARD for each in FACTS if each != key}
    decision = build(**others, **{key: action}).decide(MAIL, FACTS[key])
    expected = {
        Action.REJECT: Verdict.REJECT,
        Action.TEMPFAIL: Verdict.TEMPFAIL,
        Action.WAIT: Verdict.TEMPFAIL,
        Action.DISCARD: Verdict.DISCARD,
    }.get(action, Verdict.CONTINUE)
    if action is Action.DISCARD:
        expected = Verdict.DISCARD
    assert decision.verdict is expected
    assert decision.reasons[0].outcome == key.replace("_", "-")
    assert decision.reasons[0].facts["action"] == action.value
    if decision.reply is not None:
        assert decision.reply.code // 100 == (5 if action is Action.REJECT else 4)
    held = [each for each in decision.edits if isinstance(each, Quarantine)]
    assert len(held) == (action in (Action.HOLD, Action.QUARANTINE))
    awaited = [Found.of("m", each.reason.decode()).awaited for each in held]
    assert awaited == [action is Action.HOLD] * len(held)
    if expected is Verdict.CONTINUE:
        names = [each.name for each in apply(MAIL, decision.edits).headers]
        scanned, tagged = key == "infected", action is not Action.ACCEPT
        assert names == [b"From", b"Subject", *[b"X-Virus-Scanned"][: int(scanned)]] + (
            [b"X-Virus-Status"] if tagged else []
        )


def test_tag_says_what_was_found() -> None:
    edits = build(infected=Action.TAG).decide(MAIL, Infected("Win.Test-1")).edits
    status = b"X-Virus-Status: infected (Win.Test-1)\r\n"
    assert header(apply(MAIL, edits)) == KEPT + SCANNED + status


def test_a_flood_of_forged_fields_is_refused() -> None:
    mail = parse_message(b"X-Virus-Scanned: x\r\n" * 2000 + b"\r\n")
    decision = build().decide(mail, Clean())
    assert (decision.verdict, str(decision.reply)[:9]) == (Verdict.REJECT, "550 5.6.0")


@given(st.text(max_size=300))
def test_a_signature_name_never_becomes_syntax(name: str) -> None:
    fact = Infected(name)
    reply = str(build().decide(MAIL, fact).reply)
    assert reply.isascii()
    assert "%" not in reply
    assert len(reply) < 200
    for edit in build(infected=Action.QUARANTINE).decide(MAIL, fact).edits:
        if isinstance(edit, AddHeader | Quarantine):
            octets = edit.value if isinstance(edit, AddHeader) else edit.reason
            assert octets.decode("ascii").isprintable()
            assert len(octets) <= 200
        if isinstance(edit, Quarantine):
            assert len(edit.reason) <= 100


def test_check_names_a_clamd_that_does_not_answer() -> None:
    down = ClamavFilter(ClamavOptions(), OneAnswer(Unavailable("down", "refused")))
    assert down.check() == ("clamd at unix:/run/clamav/clamd.ctl: down (refused)",)
    assert build().check() == ()


class Answers:
    """A scanner that gives one answer after the other, and its clock."""

    def __init__(self, *facts: ScanFact) -> None:
        self.facts, self.now, self.scans = facts, 0.0, 0

    def scan(self, _: Mail, **_how: object) -> ScanFact:
        self.scans += 1
        return self.facts[min(self.scans, len(self.facts)) - 1]

    def version(self) -> str:
        return "ClamAV 1"

    def clock(self) -> float:
        return self.now

    def pause(self, seconds: float) -> None:
        self.now += seconds


DOWN, LATE = Unavailable("down"), Unavailable("timeout")


@pytest.mark.parametrize(
    ("facts", "actions", "scans", "verdict"),
    [
        ((DOWN, LATE, DOWN, Clean()), {}, 4, Verdict.CONTINUE),
        ((DOWN, LATE, Infected("X")), {}, 3, Verdict.REJECT),
        ((DOWN,), {}, 11, Verdict.TEMPFAIL),  # once a second, and at the end of the time
        ((DOWN, Clean()), {Outcome.TOO_SLOW: Action.TEMPFAIL}, 2, Verdict.CONTINUE),
        ((LATE, Clean()), {Outcome.TOO_SLOW: Action.TEMPFAIL}, 1, Verdict.TEMPFAIL),
        ((Unscannable("limit"), Clean()), {}, 1, Verdict.TEMPFAIL),
    ],
)
def test_a_mail_may_wait_until_a_clamd_answers(
    facts: tuple[ScanFact, ...], actions: dict[Outcome, Action], scans: int, verdict: Verdict
) -> None:
    scanner = Answers(*facts)
    options = ClamavOptions(unavailable=Action.WAIT, others=actions, wait_time=10.0)
    built = ClamavFilter(options, scanner, None, scanner.clock, scanner.pause)
    found = built.gather(MAIL)
    assert scanner.scans == scans
    assert scanner.now <= 10.0
    assert built.decide(MAIL, found).verdict is verdict


def test_a_mark_is_left_out_for_a_signature_and_a_forged_one_is_not() -> None:
    text = b"From: a@example.net\r\nX-Virus-Status: clean\r\n\r\nx\r\n"
    mail = by_hand(text, h="from:x-virus-scanned:x-virus-status")
    decision = build().decide(mail, Clean())
    # Once it is broken, nothing is left to spare the other mark for.
    assert decision.edits[0] == ChangeHeader(b"X-Virus-Status", 1, b"")
    assert header(apply(mail, decision.edits)).endswith(SCANNED)
    assert [each.outcome for each in decision.reasons] == ["clean", "breaks-signature"]
    whole = by_hand(text.replace(b"X-Virus-Status: clean\r\n", b""), h="from:x-virus-scanned")
    decision = build().decide(whole, Clean())
    assert decision.edits == ()
    assert decision.reasons[1].facts == {"signature": "DKIM d=example.net s=s"}
