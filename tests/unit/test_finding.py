"""The one form of what a mail was quarantined for: read back as it was said, and by nobody else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from milterd.core.finding import (
    MACRO,
    MOST_RELEASED,
    REASON_LIMIT,
    Finding,
    Found,
    key_of,
    macro_value,
    released,
)
from milterd.core.mail import Mail, Session

RULES = st.text(min_size=1, max_size=200)
EICAR = Finding("clamav", "Eicar-Test-Signature", "infected")


def _mail(value: bytes) -> Mail:
    return Mail(session=Session(macros={MACRO: value}))


def test_people_can_read_it() -> None:
    assert EICAR.reason == b"clamav/Eicar-Test-Signature: infected"
    assert Finding("headers", "no mail of mine", "").reason == b"headers/no%20mail%20of%20mine"


@given(RULES, st.text(max_size=200))
def test_a_reason_says_its_key_whatever_the_rule_and_the_text(rule: str, text: str) -> None:
    found = Finding("clamav", rule, text)
    assert key_of(found.reason.decode("ascii")) == found.key
    assert len(found.reason) <= REASON_LIMIT
    assert all(32 <= each < 127 for each in found.reason)


@given(RULES, RULES)
def test_two_rules_have_two_keys(one: str, other: str) -> None:
    same = Finding("f", one).key == Finding("f", other).key
    assert same == (
        one.encode("utf-8", "surrogateescape") == other.encode("utf-8", "surrogateescape")
    )


def test_long_rules_that_begin_alike_are_told_apart() -> None:
    assert Finding("f", "r" * 200 + "1").key != Finding("f", "r" * 200 + "2").key


@given(RULES)
def test_only_what_was_released_passes(rule: str) -> None:
    found = Finding("clamav", rule)
    mail = _mail(macro_value([found.key]))
    assert found.released(mail)
    assert not found.released(_mail(b""))
    assert not Finding("headers", rule).released(mail)
    assert not Finding("clamav", rule + "x").released(mail)


@given(st.binary(max_size=300))
def test_no_value_of_the_macro_is_an_error(value: bytes) -> None:
    assert all("/" in each and " " not in each for each in released(_mail(value)))


def test_the_macro_is_bounded() -> None:
    value = macro_value(f"clamav/{number}" for number in range(1000))
    assert len(released(_mail(value))) == MOST_RELEASED
    assert macro_value(["not a key", "clamav/a: b", "clamav/a b"]) == b""


def test_another_milters_text_has_no_key() -> None:
    for text in ("", "virus found", "clamav: infected", "http://a.example/x: y", "Filter/rule: x"):
        assert key_of(text) == ""


@pytest.mark.parametrize(("name", "rule"), [("", "r"), ("Clam AV", "r"), ("a/b", "r"), ("f", "")])
def test_a_finding_has_a_filter_and_a_rule(name: str, rule: str) -> None:
    with pytest.raises(ValueError, match=r"filter|rule"):
        Finding(name, rule)


@pytest.mark.parametrize(
    ("reason", "awaited"),
    [
        ("clamav/?not-scanned: held until a scanner answers", True),
        ("clamav/Eicar: infected", False),
        ("clamav/Eicar?: infected", False),
        ("?not-scanned", False),
        ("not judged by own: error", False),
    ],
)
def test_that_nobody_could_look_is_no_finding(reason: str, awaited: bool) -> None:
    assert Found.of("m", reason).awaited is awaited
