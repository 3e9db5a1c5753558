"""Only good signatures forbid anything: who asks for their keys, when, what answers mean."""

from __future__ import annotations

from pathlib import Path

import pytest

from milterd.core.apply import apply
from milterd.core.decision import Tried, Verdict
from milterd.core.mail import BytesBody, Mail, parse_message
from milterd.filters.dkim_verify import VerifyOptions
from milterd.filters.headers import HeadersFilter, HeadersOptions
from milterd.filters.standing import StandingOptions
from milterd.host.judge import Judge, Surroundings
from milterd.host.options import Options
from milterd.ports.dkim_dns import NoAnswer
from tests.filters.dkim_world import MAIL, NOW, RSA, Dns, by_hand

NAME = "s._domainkey.example.net"
RULES = """
name = "mine"
description = "A change to Subject, and one to a field that nobody signs."

[[rule]]
name = "subject"
action = "replace"
header = "Subject"
with = "two"
{on_signed}

[[rule.example]]
direction = "inbound"
before = ["Subject: one"]
after = ["Subject: two"]

[[rule]]
name = "mark"
action = "remove"
header = "X-Mark"

[[rule.example]]
direction = "inbound"
before = ["X-Mark: 1"]
after = []
"""
GOOD = by_hand(b"X-Mark: 1\r\n" + MAIL)
SUBJECT = next(each for each in GOOD.headers if each.named(b"Subject"))


def filter_of(home: Path, dns: Dns | None, on_signed: str = "", number: int = 10) -> HeadersFilter:
    (home / "mine.toml").write_text(RULES.format(on_signed=on_signed))
    standing = None if dns is None else StandingOptions(VerifyOptions(number, 5.0))
    options = HeadersOptions(rules=("mine",), directory=home, standing=standing)
    return HeadersFilter(options, lambda: 0.0, lambda: NOW, dns)


def subjects(filter_: HeadersFilter, mail: Mail) -> list[bytes]:
    after = apply(mail, filter_.decide(mail, filter_.gather(mail)).edits)
    assert after.values(b"X-Mark") == []
    return after.values(b"Subject")


def test_a_good_signature_keeps_its_field_and_is_named(tmp_path: Path) -> None:
    filter_ = filter_of(tmp_path, Dns({NAME: RSA.record}))
    assert subjects(filter_, GOOD) == [b" one"]
    decision = filter_.decide(GOOD, filter_.gather(GOOD))
    assert decision.verdict is Verdict.CONTINUE
    facts = decision.reasons[0].facts
    assert facts["kept-for-signature"] == "1"
    assert facts["signature"] == "DKIM d=example.net s=s"


def with_body(mail: Mail) -> Mail:
    return Mail(headers=mail.headers, body=BytesBody(b"another\r\n"))


def broken() -> Mail:
    return GOOD.with_headers(
        parse_message(b"From: b@example.org\r\n\r\n").headers[0] if each.named(b"From") else each
        for each in GOOD.headers
    )


@pytest.mark.parametrize(
    ("mail", "records", "kept"),
    [
        (GOOD, {NAME: RSA.record}, True),
        (with_body(GOOD), {NAME: RSA.record}, True),  # the filter is not shown the body
        (GOOD, {NAME: NoAnswer("SERVFAIL")}, True),
        (GOOD, {}, False),
        (GOOD, {NAME: "v=DKIM1; p="}, False),
        (broken(), {NAME: RSA.record}, False),
        (by_hand(b"X-Mark: 1\r\n" + MAIL, x=str(NOW - 1000), t=None), {NAME: RSA.record}, False),
        (by_hand(b"X-Mark: 1\r\n" + MAIL, v="2"), {NAME: RSA.record}, False),
    ],
)
def test_what_the_answers_mean(
    mail: Mail, records: dict[str, str | NoAnswer], *, kept: bool, tmp_path: Path
) -> None:
    found = subjects(filter_of(tmp_path, Dns(dict(records))), mail)
    assert found == [b" one" if kept else b" two"]


def test_without_checking_every_signature_counts_as_good(tmp_path: Path) -> None:
    assert subjects(filter_of(tmp_path, None), broken()) == [b" one"]


def test_nobody_is_asked_unless_a_signature_is_in_the_way(tmp_path: Path) -> None:
    dns = Dns({NAME: RSA.record})
    filter_ = filter_of(tmp_path, dns)
    free = by_hand(b"X-Mark: 1\r\n" + MAIL.replace(b"Subject: one", b"Subject: two"))
    assert filter_.at_once(free) is not None
    assert filter_.at_once(GOOD) is None
    assert dns.asked == []
    filter_.gather(GOOD)
    assert dns.asked == [NAME]


def test_force_asks_nobody_and_says_what_it_breaks(tmp_path: Path) -> None:
    dns = Dns({})
    filter_ = filter_of(tmp_path, dns, 'on_signed = "force"')
    facts = filter_.at_once(GOOD)
    assert facts is not None
    decision = filter_.decide(GOOD, facts)
    assert decision.reasons[0].facts["breaks-signature"] == "DKIM d=example.net s=s"
    assert apply(GOOD, decision.edits).values(b"Subject") == [b" two"]
    assert dns.asked == []


def test_reject_refuses_what_is_good_and_edits_what_is_not(tmp_path: Path) -> None:
    filter_ = filter_of(tmp_path, Dns({NAME: RSA.record}), 'on_signed = "reject"')
    decision = filter_.decide(GOOD, filter_.gather(GOOD))
    assert decision.verdict is Verdict.REJECT
    assert str(decision.reply).startswith("550 5.7.1 ")
    assert subjects(filter_of(tmp_path, Dns({}), 'on_signed = "reject"'), GOOD) == [b" two"]


def test_a_limit_on_questions(tmp_path: Path) -> None:
    mail = GOOD
    for number in range(20):
        mail = by_hand(b"".join(mail.pieces()), s=f"x{number}")
    dns = Dns({})
    assert subjects(filter_of(tmp_path, dns, number=3), mail) == [b" one"]
    assert dns.asked == [f"x{number}._domainkey.example.net" for number in (19, 18, 17)]


def test_every_rule_is_told_once_whether_a_key_was_asked_for_or_not(tmp_path: Path) -> None:
    filter_ = filter_of(tmp_path, Dns({NAME: RSA.record}))
    for mail in (GOOD, parse_message(MAIL)):
        told: list[Tried] = []
        filter_.gather(mail, told.append)
        assert [each.rule for each in told] == ["mine: subject", "mine: mark"]


def test_a_host_decides_at_once_where_it_can(tmp_path: Path) -> None:
    filter_ = filter_of(tmp_path, Dns({NAME: RSA.record}))
    around = Surroundings(None, lambda: "x")  # type: ignore[arg-type]  # says nothing here
    judge = Judge(filter_, Options(), around)
    assert judge.at_once(GOOD) is None
    plain = parse_message(MAIL)
    assert judge.at_once(plain) == judge.judge(plain)
    assert judge.judge(GOOD).edits
