"""The failure matrix: every outcome has an action, and the nearest word counts."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.decision import Verdict
from milterd.core.mail import Direction, Envelope, Mail, Recipient, Session
from milterd.filters.clamav import ClamavFilter, ClamavOptions
from milterd.filters.virus_policy import (
    LIKE,
    PASSING,
    STRICTEST,
    Action,
    Exempt,
    Matrix,
    Outcome,
    Signatures,
)
from milterd.ports.scanner import (
    Clean,
    Infected,
    ScanFact,
    Skipped,
    TooLarge,
    Unavailable,
    Unscannable,
)

GENERAL = {
    Outcome.INFECTED: Action.REJECT,
    Outcome.UNSCANNABLE: Action.TEMPFAIL,
    Outcome.TOO_LARGE: Action.REJECT,
    Outcome.UNAVAILABLE: Action.TEMPFAIL,
}
ROWS = st.dictionaries(st.sampled_from(Outcome), st.sampled_from(Action))
DOMAINS = (b"a.example", b"b.example", b"c.example")
FACTS: tuple[ScanFact, ...] = (
    Infected("Win.Test"), Infected("PUA.Win.X"), Infected("Heuristics.Phishing.Email"),
    Infected("Heuristics.Encrypted.Zip"), Infected("Heuristics.OLE2.Macros"),
    Unscannable("encrypted"), Unscannable("limit"), Unscannable("partial"), TooLarge(2, 1),
    Unavailable("timeout"), Unavailable("down"),
)  # fmt: skip


def mail(
    direction: Direction = Direction.INBOUND,
    sender: bytes = b"s@x.example",
    *recipients: bytes,
) -> Mail:
    those = tuple(Recipient(each) for each in recipients or (b"u@y.example",))
    return Mail(Session(direction=direction), Envelope(sender, (), those))


@given(ROWS, ROWS, st.dictionaries(st.sampled_from(DOMAINS), ROWS),
       st.lists(st.sampled_from((*DOMAINS, b"other.example")), min_size=1, max_size=4),
       st.sampled_from(Direction), st.sampled_from(FACTS))  # fmt: skip
def test_no_case_is_forgotten_and_the_strictest_of_the_nearest_counts(
    general: dict[Outcome, Action],
    own: dict[Outcome, Action],
    domains: dict[bytes, dict[Outcome, Action]],
    used: list[bytes],
    direction: Direction,
    fact: ScanFact,
) -> None:
    """Against a plainer statement of the same rule."""
    matrix = Matrix(GENERAL | general, {direction: own}, domains)
    outcome = Signatures((), ()).of(fact)
    assert outcome is not None
    addresses = [b"u@" + each.upper() for each in used]
    one = mail(direction, addresses[0], *addresses)
    asked = {used[0]} if direction is Direction.ORIGINATING else set(used)

    def plain(domain: bytes) -> Action:
        for table in (domains.get(domain, {}), own, GENERAL | general):
            for each in (outcome, LIKE.get(outcome)):
                if each in table:
                    return table[each]
        raise AssertionError

    expected = min((plain(each) for each in asked), key=STRICTEST.index)
    assert matrix.of(outcome, one).action is expected
    options = dataclasses.replace(
        ClamavOptions(),
        **{each.value: (GENERAL | general)[each] for each in GENERAL},
        others={each: action for each, action in general.items() if each not in GENERAL},
        directions={direction: own},
        domains=domains,
    )
    decision = ClamavFilter(options, _Nobody()).decide(one, fact)
    going = {*PASSING, Action.HOLD, Action.QUARANTINE}
    assert (decision.verdict is Verdict.CONTINUE) is (expected in going)


class _Nobody:
    def scan(self, _mail: Mail, **_how: object) -> ScanFact:
        raise AssertionError

    def version(self) -> str:
        raise AssertionError


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("Win.Test.EICAR_HDB-1", Outcome.INFECTED),
        ("PUA.Win.Packer.X", Outcome.PUA),
        ("Heuristics.Phishing.Email.SpoofedDomain", Outcome.PHISHING),
        ("Email.Phishing.Bank-1.UNOFFICIAL", Outcome.PHISHING),
        ("Heuristics.Encrypted.Zip", Outcome.ENCRYPTED),
        ("Heuristics.OLE2.ContainsMacros", Outcome.HEURISTIC),
        ("Own.Spam.1", Outcome.PUA),
    ],
)
def test_signatures_have_classes_and_ours_come_first(name: str, outcome: Outcome) -> None:
    assert Signatures((("own.spam.*", Outcome.PUA),), ()).of(Infected(name)) is outcome


def test_an_ignored_signature_counts_as_clean_and_is_told_of() -> None:
    options = dataclasses.replace(ClamavOptions(), ignored=("PUA.*",))
    decision = ClamavFilter(options, _Nobody()).decide(mail(), Infected("PUA.Win.X"))
    assert decision.verdict is Verdict.CONTINUE
    assert decision.reasons[0].facts == {"ignored": "PUA.Win.X"}


def test_who_is_exempt() -> None:
    exempt = Exempt(frozenset({b"@x.example"}), frozenset({b"abuse@y.example"}))
    own = Direction.ORIGINATING
    assert exempt.of(mail(own)) == Skipped("sender")
    assert exempt.of(mail()) is None  # anybody can say that he is one of ours
    assert exempt.of(mail(Direction.INBOUND, b"", b"Abuse@Y.example")) == Skipped("recipients")
    both = (b"abuse@y.example", b"u@y.example")
    assert exempt.of(mail(Direction.INBOUND, b"", *both)) is None
    options = dataclasses.replace(ClamavOptions(), exempt=exempt)
    filter_ = ClamavFilter(options, _Nobody())
    decision = filter_.decide(mail(own), filter_.gather(mail(own)))
    assert (decision.verdict, decision.edits) == (Verdict.CONTINUE, ())
    assert decision.reasons[0].outcome == "exempt"


def test_texts_of_ones_own() -> None:
    texts = {Outcome.INFECTED: "Virus @SIGNATURE@ (@OUTCOME@), see https://x.example/"}
    options = dataclasses.replace(ClamavOptions(), texts=texts)
    decision = ClamavFilter(options, _Nobody()).decide(mail(), Infected("A%B\r\nX"))
    assert str(decision.reply) == "550 5.7.1 Virus A_B__X (infected), see https://x.example/"


def test_the_table_for_people_marks_what_goes_on_unseen() -> None:
    matrix = Matrix(
        GENERAL | {Outcome.UNAVAILABLE: Action.TAG},
        {Direction.ORIGINATING: {Outcome.UNAVAILABLE: Action.TEMPFAIL}},
        {b"a.example": {Outcome.PUA: Action.TAG}},
    )
    rows = {row[0]: row[1:] for row in matrix.table()}
    assert rows["mail that is"] == tuple(each.value for each in Direction)
    order = [each.value for each in Direction]
    shown = dict(zip(order, rows["too_slow"], strict=True))
    assert shown == {"inbound": "tag (unseen)", "originating": "tempfail"}
    assert rows["pua (a.example)"] == ("tag", "tag")
    assert rows["infected"] == ("reject", "reject")
    assert Signatures((), ()).of(Clean()) is None
