"""access(5): every result, and the keys that tables are asked for."""

from __future__ import annotations

import pytest

from smtpgw.policy.engine import Review
from smtpgw.policy.facts import State
from tests.policy.site import STRANGER, asked, judged, named


def of_recipient(value: str) -> str:
    table = f"inline:{{ {{u@local.example = {value}}} }}"
    return f'smtpd_recipient_restrictions = "check_recipient_access {table}"\n'


NAME = "<u@local.example>: Recipient address rejected"


@pytest.mark.parametrize(
    ("value", "heard"),
    [
        ("OK", ""),
        ("RELAY later", ""),
        ("1234567", ""),
        ("DUNNO", ""),
        ("permit", ""),
        ("REJECT", f"554 5.7.1 {NAME}: Access denied"),
        ("reject go away", f"554 5.7.1 {NAME}: go away"),
        ("REJECT 5.1.1 nobody", f"554 5.1.1 {NAME}: nobody"),
        ("REJECT 5.1.8 bad sender", f"554 5.1.2 {NAME}: bad sender"),
        ("DEFER", f"450 4.7.1 {NAME}: Access denied"),
        ("DEFER 4.2.1 slow", f"450 4.2.1 {NAME}: slow"),
        ("550 no", f"550 5.7.1 {NAME}: no"),
        ("550 5.2.1 no", f"550 5.2.1 {NAME}: no"),
        ("451 wait", f"451 4.7.1 {NAME}: wait"),
        ("DEFER_IF_PERMIT", f"450 4.7.1 {NAME}: Service unavailable"),
        ("DEFER_IF_PERMIT 4.3.2 hm", f"450 4.3.2 {NAME}: hm"),
        ("DEFER_IF_REJECT hm", ""),
        ("reject_non_fqdn_recipient, reject", f"554 5.7.1 {NAME}: Access denied"),
        ("HOLD", ""),
        ("DISCARD", ""),
        ("WARN hm", ""),
        ("INFO hm", ""),
        ("nonsense", "451 4.3.5 Server configuration error"),
        ("hash:/etc/x", "451 4.3.5 Server configuration error"),
        ("DELAY 1h", "451 4.3.5 Server configuration error"),
    ],
)
def test_results(value: str, heard: str) -> None:
    assert asked(of_recipient(value)) == heard


def test_codes_are_settings() -> None:
    text = of_recipient("REJECT") + "access_map_reject_code = 521\n"
    decision, _ = judged(text)
    assert (str(decision.reply), decision.hangup) == (f"521 5.7.1 {NAME}: Access denied", True)
    text = of_recipient("DEFER") + "access_map_defer_code = 421\n"
    decision, _ = judged(text)
    assert (str(decision.reply), decision.hangup) == (f"421 4.7.1 {NAME}: Access denied", True)


@pytest.mark.parametrize(
    ("value", "field", "expected"),
    [
        ("HOLD for a look", "hold", "for a look"),
        ("HOLD", "hold", "triggers HOLD action"),
        ("DISCARD", "discard", "triggers DISCARD action"),
        ("FILTER smtp:[127.0.0.1]:10025", "filter", "smtp:[127.0.0.1]:10025"),
        ("FILTER smtp", "filter", ""),
        ("REDIRECT r@local.example", "redirect", b"r@local.example"),
        ("REDIRECT nobody", "redirect", b""),
        ("BCC b@local.example", "bcc", (b"b@local.example",)),
        ("PREPEND X-Seen: yes", "prepend", (b"X-Seen: yes",)),
        ("PREPEND no field", "prepend", ()),
    ],
)
def test_what_is_to_be_done_with_the_mail(value: str, field: str, expected: object) -> None:
    decision, review = judged(of_recipient(value))
    assert decision.reply is None
    assert getattr(review.actions, field) == expected
    review.reset()
    assert not review.actions


def test_nothing_is_done_with_a_mail_that_etrn_does_not_bring() -> None:
    text = 'smtpd_etrn_restrictions = "check_etrn_access inline:{ {relay.example = HOLD} }"\n'
    facts = named(state=State.ETRN, sender=None, recipient=None, etrn=b"relay.example")
    decision, review = judged(text, facts, step=Review.etrn)
    assert decision.reply is None
    assert not review.actions


def test_after_discard_no_list_is_asked() -> None:
    text = (
        'smtpd_client_restrictions = "check_client_access inline:{ {192.0.2.77 = DISCARD} }"\n'
        'smtpd_recipient_restrictions = "reject"\n'
    )
    decision, review = judged(text)
    assert decision.reply is None
    assert review.actions.discard


# -- keys ------------------------------------------------------------------------------


def keys_of(listed: str, restriction: str, facts: object = STRANGER, more: str = "") -> list[str]:
    """The keys that an empty table is asked for, in their order."""
    text = f'{listed} = "{restriction} inline:{{ {{none = x}} }}"\n{more}'
    decision, _ = judged(text, facts)  # type: ignore[arg-type]
    return [each.key for each in decision.record.steps if each.asked.startswith("inline:")]


def test_a_client_is_asked_for_by_name_and_address() -> None:
    assert keys_of("smtpd_client_restrictions", "check_client_access") == [
        "mail.good.example", "good.example", "example",
        "192.0.2.77", "192.0.2", "192.0", "192",
    ]  # fmt: skip


def test_dots_before_parents_where_smtpd_access_maps_is_not_listed() -> None:
    more = "parent_domain_matches_subdomains = []\n"
    found = keys_of("smtpd_helo_restrictions", "check_helo_access", more=more)
    assert found == ["mail.good.example", ".good.example", ".example"]


def test_an_address_is_asked_for_as_access_5_says() -> None:
    facts = named(recipient=b"User+x@Local.example")
    found = keys_of("smtpd_recipient_restrictions", "check_recipient_access", facts)
    assert found == [
        "user+x@local.example", "user@local.example", "local.example", "example", "user+x@",
        "user@",
    ]  # fmt: skip


def test_the_null_sender_has_a_key_of_its_own() -> None:
    facts = named(sender=b"")
    assert keys_of("smtpd_sender_restrictions", "check_sender_access", facts) == ["<>"]
    more = 'smtpd_null_access_lookup_key = "null"\n'
    assert keys_of("smtpd_sender_restrictions", "check_sender_access", facts, more) == ["null"]


def test_who_says_how_to_send_on_is_not_permitted_by_a_table() -> None:
    table = "check_recipient_access inline:{ {local.example = OK} }"
    text = f'smtpd_relay_restrictions = "{table}, reject"\n'
    assert asked(text) == ""
    routed = named(recipient=b"u%evil.example@local.example")
    assert asked(text, routed).startswith("554 5.7.1 <u%evil.example@local.example>")


def test_an_unconfirmed_name_permits_nothing() -> None:
    table = "inline:{ {mail.good.example = OK} }"
    text = f'smtpd_client_restrictions = "check_reverse_client_hostname_access {table}"\n'
    assert asked(text) == "451 4.3.5 Server configuration error"


def test_a_value_may_lead_to_a_class_and_not_on_for_ever() -> None:
    text = of_recipient("mine") + 'smtpd_restriction_classes = ["mine"]\n'
    define = (
        'mine = "reject_non_fqdn_sender, check_sender_access inline:{ {good.example = REJECT no} }"'
    )
    heard = asked(text, define=define)
    assert heard == "554 5.7.1 <s@good.example>: Sender address rejected: no"


def test_a_value_that_leads_to_itself_ends() -> None:
    text = of_recipient("mine") + 'smtpd_restriction_classes = ["mine"]\n'
    define = 'mine = "check_recipient_access inline:{ {u@local.example = mine} }"'
    assert asked(text, define=define) == "451 4.3.5 Server configuration error"


def test_a_table_that_cannot_answer_is_temporary() -> None:
    text = 'smtpd_recipient_restrictions = "check_recipient_access tcp:127.0.0.1:1"\n'
    assert asked(text) == f"451 4.3.5 {NAME}: Server configuration error"
