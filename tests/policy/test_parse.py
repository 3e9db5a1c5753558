"""Restriction lists as settings have them: every mistake is found when they are read."""

from __future__ import annotations

import contextlib
import os

import pytest
from hypothesis import given, seed
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from milterd.base.toml_file import ConfigError
from smtpgw.policy import registry
from smtpgw.policy.parse import PREDEFINED, Parser, RuleError, required
from smtpgw.policy.pattern import parse as parse_pattern
from smtpgw.policy.registry import Argument
from tests.policy.site import policy

SEED = int(os.environ.get("GATEPOST_SEED", "7"))


class Anything:
    """A table that has nothing."""

    async def find(self, _key: bytes, partial: bool = False) -> None:  # noqa: ARG002 - as tables are asked
        return None


def parser(**classes: str) -> Parser:
    return Parser({**PREDEFINED, **classes}, lambda _name: Anything())


def mistakes(text: str, bare: str = "check_client_access", **classes: str) -> list[str]:
    with pytest.raises(RuleError) as caught:
        parser(**classes).rules(text, bare)
    return [str(each) for each in caught.value.mistakes]


def test_a_list_is_parted_by_commas_and_space() -> None:
    text = "permit_mynetworks,reject_rbl_client  zen.example=127.0.0.2\n\tcheck_helo_access hash:/x"
    assert [each.text for each in parser().rules(text)] == [
        "permit_mynetworks", "reject_rbl_client zen.example=127.0.0.2", "check_helo_access hash:/x",
    ]  # fmt: skip


def test_braces_hold_a_service_together() -> None:
    service = "{ inet:127.0.0.1:1, timeout=10s, default_action=DUNNO }"
    (rule,) = parser().rules(f"check_policy_service {service}")
    assert (rule.argument, rule.value) == (service, "DUNNO")


def test_a_table_alone_is_what_the_list_is_about() -> None:
    (rule,) = parser().rules("hash:/x", "check_sender_access")
    assert (rule.name, rule.argument) == ("check_sender_access", "hash:/x")
    assert "before a table" in mistakes("hash:/x", "")[0]


def test_old_names_and_upper_case() -> None:
    rules = parser().rules("REJECT_UNKNOWN_CLIENT, reject_maps_rbl, check_recipient_maps")
    assert [each.name for each in rules] == [
        "reject_unknown_client_hostname", "reject_maps_rbl", "reject_unlisted_recipient",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("reject_unkown_client", "did you mean reject_unknown_client?"),
        ("reject_unknown_forward_client_hostname", "did you mean reject_unknown_"),
        ("reject_rbl_client", "reject_rbl_client at the end"),
        ("reject_rbl_client permit", "domain of a list"),
        ("reject_rbl_client zen.example=127.0.0.999", "four numbers"),
        ("check_client_access", "type:name of a table behind it"),
        ("check_client_access permit", "type:name of a table"),
        ("check_ccert_access { hash:/x, { search_order = name } }", "behind search_order"),
        ("sleep soon", "expected number"),
        ("check_policy_service nothing", "type:name of a service"),
        ("permit warn_if_reject", "a restriction behind it"),
        ("circle", "circle -> circle"),
        ("broken", "broken: nonsense"),
    ],
)
def test_mistakes(text: str, said: str) -> None:
    (found,) = mistakes(text, circle="circle", broken="nonsense")
    assert said in found


def test_all_mistakes_at_once() -> None:
    assert len(mistakes("nonsense, reject_rbl_client, permit")) == 2
    with pytest.raises(ConfigError) as caught:
        policy("smtpd_client_restrictions = 'x1, x2'\nsmtpd_helo_restrictions = 'x3'\n")
    assert len(caught.value.problems) == 3
    assert caught.value.problems[0].key.endswith("smtpgw.smtpd_client_restrictions")


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("reject_unauth_destination", True),
        ("permit_mynetworks, defer_unauth_destination", True),
        ("permit_mynetworks, reject", True),
        ("permit, reject", False),
        ("warn_if_reject reject_unauth_destination", False),
        ("permit_mynetworks", False),
        ("mine", True),
        ("", False),
    ],
)
def test_strangers_may_not_relay_by_mistake(text: str, safe: bool) -> None:
    assert required(parser(mine="permit_mynetworks, reject").rules(text)) is safe
    lists = f"smtpd_relay_restrictions = '{text}'\nsmtpd_restriction_classes = ['mine']\n"
    define = "mine = 'permit_mynetworks, reject'"
    if safe:
        policy(lists, define)
        return
    with pytest.raises(ConfigError, match="strangers may send anywhere"):
        policy(lists, define)


def test_a_class_needs_a_definition() -> None:
    with pytest.raises(ConfigError, match="with the restrictions it stands for"):
        policy("smtpd_restriction_classes = ['mine']\n")


def test_a_listener_may_have_lists_of_its_own() -> None:
    found = policy('[smtpgw.stress]\nsmtpd_client_restrictions = "reject"\n')
    assert found.lists["smtpd_client_restrictions"] == ()


_PLAIN = [
    name
    for name in registry.names()
    if (each := registry.find(name)) is not None and each.argument is Argument.NONE
]
_ONE = st.sampled_from(_PLAIN) | st.sampled_from([
    "check_client_access hash:/x", "reject_rbl_client zen.example", "sleep 1",
    "inline:{ a=b, c=d }", "check_throttle mine", "check_policy_service unix:/p",
    "warn_if_reject reject",
])  # fmt: skip
_SPACE = st.sampled_from([", ", ",", " ", "\n\t", " , "])


@seed(SEED)
@given(st.lists(_ONE, max_size=8), _SPACE)
@hypothesis_settings(max_examples=100, deadline=None)
def test_what_is_written_is_what_is_read(those: list[str], space: str) -> None:
    rules = parser().rules(space.join(those), "check_client_access")
    again = parser().rules(
        ", ".join(("warn_if_reject " if each.warn else "") + each.text for each in rules),
        "check_client_access",
    )
    assert [(each.name, each.argument, each.warn) for each in rules] == [
        (each.name, each.argument, each.warn) for each in again
    ]
    assert len(rules) == len(those)


@seed(SEED)
@given(st.text(st.sampled_from("abcehk_:{}=, \t!./-0123456789\udce9ü"), max_size=60))
@hypothesis_settings(max_examples=300, deadline=None)
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(RuleError):
        parser().rules(text, "check_client_access")


@seed(SEED)
@given(st.tuples(*[st.integers(0, 255)] * 4), st.tuples(*[st.integers(0, 255)] * 4))
@hypothesis_settings(max_examples=100, deadline=None)
def test_patterns(low: tuple[int, ...], other: tuple[int, ...]) -> None:
    plain = parse_pattern(".".join(map(str, low)))
    assert plain.fits(bytes(low))
    assert plain.fits(bytes(other)) is (low == other)
    ranged = parse_pattern(".".join(f"[{each};{min(each, 250)}..255]" for each in low))
    assert ranged.fits(bytes(255 for _ in low))
    assert ranged.fits(bytes(low))


@pytest.mark.parametrize(
    "text", ["", "1.2.3", "1.2.3.4.5", "1.2.3.[]", "1.2.3.[9..1]", "1.2.3.256", "a.b.c.d"]
)
def test_patterns_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="four numbers"):
        parse_pattern(text)


def test_a_throttle_that_is_not_there_is_found_with_the_settings() -> None:
    lists = "smtpd_recipient_restrictions = 'reject_unauth_destination, check_throttle fwe'\n"
    table = "\n[smtpgw.throttle.few]\nkey = 'sender'\nlimit = 3\nper = '1h'"
    with pytest.raises(ConfigError, match=r"check_throttle fwe.*there are: few"):
        policy(lists, table)
    policy(lists.replace("fwe", "few"), table)
