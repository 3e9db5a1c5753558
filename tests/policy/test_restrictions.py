"""Each restriction of postconf(5): its code, enhanced code and text, as smtpd_check.c has them."""

# ruff: noqa: E501 - a case is one row, read at a glance

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from milterd.core.mail import Client, Family
from smtpgw.edge.names import NameStatus, PeerName
from smtpgw.edge.road import Login, PeerCertificate, Tls
from smtpgw.policy.engine import Review
from smtpgw.policy.facts import Facts, State
from smtpgw.policy.ports import Ports
from tests.policy.site import STRANGER, Names, asked, exchanger, judged, named

OWN = replace(STRANGER, client=Client(b"own", Family.INET, b"192.0.2.1"))
A = ip_address("198.51.100.1")
RECIPIENT = "<u@local.example>: Recipient address rejected"
SENDER = "<s@good.example>: Sender address rejected"
HELO = "Helo command rejected"
TEMP = PeerName(b"unknown", b"unknown", NameStatus.TEMP, NameStatus.TEMP, "SERVFAIL")
FORGED = PeerName(b"unknown", b"lies.example", NameStatus.FORGED, NameStatus.OK, "lies")
NONE = PeerName()
CERTIFICATE = PeerCertificate("cn", "ca", "AA:BB", "CC:DD")


def tls(**changes: object) -> Tls:
    return Tls("TLSv1.3", "X", 256, certificate=replace(CERTIFICATE, **changes))  # type: ignore[arg-type]


def names() -> Names:
    return Names(records={
        ("MX", "good.example"): [exchanger(10, "mx.good.example")],
        ("A", "mail.good.example"): [ip_address("192.0.2.77")],
        ("A", "mx.good.example"): [A],
        ("A", "only-a.example"): [A],
        ("MX", "null.example"): [exchanger(0, "")],
        ("NS", "good.example"): ["ns.bad.example"],
        ("A", "77.2.0.192.rbl.example"): [ip_address("127.0.0.3")],
        ("TXT", "77.2.0.192.rbl.example"): [b"spam seen", b"ask us"],
        ("A", "good.example.rhsbl.example"): [ip_address("127.0.0.2")],
        ("A", "mail.good.example.rhsbl.example"): [ip_address("127.0.0.2")],
        ("MX", "backup.example"): [exchanger(10, "best.example"), exchanger(20, "local.example")],
        ("A", "best.example"): [A],
    }, broken={"broken.example", "77.2.0.192.down.example"})  # fmt: skip


def heard(listed: str, restrictions: str, facts: Facts, more: str = "") -> str:
    text = f"smtpd_{listed}_restrictions = '{restrictions}'\n{more}"
    return asked(text, facts, ports=Ports(resolver=names()))


CASES: list[tuple[str, str, Facts, str]] = [
    ("client", "permit", STRANGER, ""),
    ("client", "reject", STRANGER, "554 5.7.1 <mail.good.example[192.0.2.77]>: Client host rejected: Access denied"),
    ("recipient", "defer", STRANGER, f"450 4.3.2 {RECIPIENT}: Try again later"),
    ("recipient", "defer_if_permit", STRANGER, f"450 4.7.0 {RECIPIENT}: defer_if_permit requested"),
    ("recipient", "defer_if_reject", STRANGER, ""),
    ("recipient", "defer_if_reject, reject", STRANGER, f"450 4.7.0 {RECIPIENT}: defer_if_reject requested"),
    ("recipient", "warn_if_reject reject", STRANGER, ""),
    ("recipient", "warn_if_reject reject, defer", STRANGER, f"450 4.3.2 {RECIPIENT}: Try again later"),
    ("recipient", "permit_mynetworks, reject", OWN, ""),
    ("recipient", "permit_sasl_authenticated, reject", named(login=Login(b"joe")), ""),
    ("recipient", "permit_inet_interfaces, reject", named(local_address=b"192.0.2.77"), ""),
    ("recipient", "permit_auth_destination, reject", STRANGER, ""),
    ("recipient", "permit_auth_destination, reject", named(recipient=b"u@relay.example"), ""),
    ("recipient", "reject_unauth_pipelining", named(pipelining=True), f"503 5.5.0 {RECIPIENT}: Improper use of SMTP command pipelining"),
    ("recipient", "reject_plaintext_session", STRANGER, "450 4.7.1 Session encryption is required"),
    ("recipient", "reject_plaintext_session", named(tls=tls()), ""),
    ("recipient", "reject_multi_recipient_bounce", named(sender=b"", recipients=1), f"550 5.5.3 {RECIPIENT}: Multi-recipient bounce"),
    ("recipient", "reject_multi_recipient_bounce", named(sender=b""), ""),
    ("client", "reject_unknown_client_hostname", named(names=NONE), "450 4.7.25 Client host rejected: cannot find your hostname, [192.0.2.77]"),
    ("client", "reject_unknown_client", named(names=FORGED), "450 4.7.25 Client host rejected: cannot find your hostname, [192.0.2.77]"),
    ("client", "reject_unknown_reverse_client_hostname", named(names=FORGED), ""),
    ("client", "reject_unknown_reverse_client_hostname", named(names=TEMP), "450 4.7.1 Client host rejected: cannot find your reverse hostname, [192.0.2.77]"),
    ("helo", "reject_invalid_helo_hostname", named(helo=b"a..b"), f"501 5.5.2 <a..b>: {HELO}: Invalid name"),
    ("helo", "reject_invalid_helo_hostname", named(helo=b"192.0.2.77"), ""),
    ("helo", "reject_invalid_hostname", named(helo=b"[300.0.0.1]"), f"501 5.5.2 <[300.0.0.1]>: {HELO}: invalid ip address"),
    ("helo", "reject_non_fqdn_helo_hostname", named(helo=b"mail"), f"504 5.5.2 <mail>: {HELO}: need fully-qualified hostname"),
    ("helo", "reject_non_fqdn_helo_hostname", named(helo=b"[192.0.2.77]"), ""),
    ("helo", "reject_unknown_helo_hostname", STRANGER, ""),
    ("helo", "reject_unknown_helo_hostname", named(helo=b"gone.example"), f"450 4.7.1 <gone.example>: {HELO}: Host not found"),
    ("helo", "reject_unknown_helo_hostname", named(helo=b"broken.example"), f"450 4.7.1 <broken.example>: {HELO}: Host not found"),
    ("sender", "reject_non_fqdn_sender", named(sender=b"joe@host"), "504 5.5.2 <joe@host>: Sender address rejected: need fully-qualified address"),
    ("sender", "reject_non_fqdn_sender", named(sender=b""), ""),
    ("recipient", "reject_non_fqdn_recipient", named(recipient=b"u", login=Login(b"joe")), "504 5.5.2 <u>: Recipient address rejected: need fully-qualified address"),
    ("sender", "reject_unknown_sender_domain", STRANGER, ""),
    ("sender", "reject_unknown_sender_domain", named(sender=b"s@only-a.example"), ""),
    ("sender", "reject_unknown_sender_domain", named(sender=b"s@gone.example"), "450 4.1.8 <s@gone.example>: Sender address rejected: Domain not found"),
    ("sender", "reject_unknown_sender_domain", named(sender=b"s@null.example"), "550 5.7.27 <s@null.example>: Sender address rejected: Domain null.example does not accept mail (nullMX)"),
    ("sender", "reject_unknown_sender_domain", named(sender=b"s@broken.example"), "450 4.1.8 <s@broken.example>: Sender address rejected: Domain not found"),
    ("recipient", "reject_unknown_recipient_domain", named(recipient=b"u@relay.example"), "450 4.1.2 <u@relay.example>: Recipient address rejected: Domain not found"),
    ("client", "reject_rbl_client rbl.example", STRANGER, "554 5.7.1 Service unavailable; Client host [192.0.2.77] blocked using rbl.example; spam seen / ask us"),
    ("client", "reject_rbl_client rbl.example=127.0.0.[2;4..9]", STRANGER, ""),
    ("client", "reject_rbl_client rbl.example=127.0.0.[2;3]", STRANGER, "554 5.7.1 Service unavailable; Client host [192.0.2.77] blocked using rbl.example; spam seen / ask us"),
    ("client", "reject_rbl_client down.example", STRANGER, ""),
    ("client", "reject_rhsbl_client rhsbl.example", STRANGER, "554 5.7.1 Service unavailable; Client host [mail.good.example] blocked using rhsbl.example"),
    ("client", "reject_rhsbl_reverse_client rhsbl.example", STRANGER, "554 5.7.1 Service unavailable; Unverified Client host [mail.good.example] blocked using rhsbl.example"),
    ("helo", "reject_rhsbl_helo rhsbl.example", STRANGER, "554 5.7.1 Service unavailable; Helo command [mail.good.example] blocked using rhsbl.example"),
    ("sender", "reject_rhsbl_sender rhsbl.example", STRANGER, "554 5.7.1 Service unavailable; Sender address [s@good.example] blocked using rhsbl.example"),
    ("recipient", "reject_rhsbl_recipient rhsbl.example", STRANGER, ""),
    ("recipient", "permit_dnswl_client rbl.example, reject", STRANGER, ""),
    ("recipient", "permit_dnswl_client down.example, reject", STRANGER, "450 4.7.1 <192.0.2.77>: Client host rejected: Service unavailable"),
    ("recipient", "permit_rhswl_client rhsbl.example, reject", STRANGER, ""),
    ("sender", "check_sender_mx_access inline:{ {mx.good.example = REJECT bad mx} }", STRANGER, f"554 5.7.1 {SENDER}: bad mx"),
    ("sender", "check_sender_mx_access inline:{ {198.51.100 = REJECT bad net} }", STRANGER, f"554 5.7.1 {SENDER}: bad net"),
    ("sender", "check_sender_ns_access inline:{ {bad.example = REJECT bad ns} }", STRANGER, f"554 5.7.1 {SENDER}: bad ns"),
    ("sender", "check_sender_mx_access inline:{ {mx.good.example = OK} }", STRANGER, "451 4.3.5 Server configuration error"),
    ("helo", "check_helo_a_access inline:{ {192.0.2.77 = 550 bad a} }", STRANGER, f"550 5.7.1 <mail.good.example>: {HELO}: bad a"),
    ("client", "check_client_ns_access inline:{ {bad.example = 550 bad ns} }", STRANGER, "550 5.7.1 <mail.good.example[192.0.2.77]>: Client host rejected: bad ns"),
    ("recipient", "check_recipient_a_access inline:{ {1 = OK} }", STRANGER, ""),
    ("client", "check_ccert_access inline:{ {CC:DD = REJECT no} }", named(tls=tls()), "554 5.7.1 <cn>: Client certificate rejected: no"),
    ("recipient", "check_sasl_access inline:{ {joe = REJECT no} }", named(login=Login(b"joe")), "554 5.7.1 <joe>: SASL login name rejected: no"),
    ("recipient", "permit_tls_all_clientcerts, reject", named(tls=tls(trusted=True)), ""),
    ("recipient", "permit_tls_clientcerts, reject", named(tls=tls()), f"554 5.7.1 {RECIPIENT}: Access denied"),
]  # fmt: skip


@pytest.mark.parametrize(("listed", "restrictions", "facts", "expected"), CASES)
def test_restrictions(listed: str, restrictions: str, facts: Facts, expected: str) -> None:
    assert heard(listed, restrictions, facts) == expected


RELAY = "smtpd_relay_restrictions = '{}'\n"


@pytest.mark.parametrize(
    ("restrictions", "recipient", "expected"),
    [
        ("reject_unauth_destination", b"u@foreign.example", "554 5.7.1 <u@foreign.example>: Relay access denied"),
        ("defer_unauth_destination", b"u@foreign.example", "454 4.7.1 <u@foreign.example>: Relay access denied"),
        ("reject_unauth_destination", b"u%f.example@local.example", "554 5.7.1 <u%f.example@local.example>: Relay access denied"),
        ("permit_mx_backup, reject_unauth_destination", b"u@backup.example", ""),
        ("permit_mx_backup, reject_unauth_destination", b"u@good.example", "554 5.7.1 <u@good.example>: Relay access denied"),
    ],
)  # fmt: skip
def test_relaying(restrictions: str, recipient: bytes, expected: str) -> None:
    text = RELAY.format(restrictions)
    facts = named(recipient=recipient)
    assert asked(text, facts, ports=Ports(resolver=names())) == expected


def test_backup_networks_are_those_of_the_best() -> None:
    text = RELAY.format("permit_mx_backup, reject_unauth_destination")
    facts = named(recipient=b"u@backup.example")
    for networks, code in (("198.51.100.0/24", ""), ("203.0.113.0/24", "554")):
        more = f'permit_mx_backup_networks = ["{networks}"]\n'
        assert asked(text + more, facts, ports=Ports(resolver=names()))[:3] == code


def test_tempfail_actions() -> None:
    facts = named(sender=b"s@broken.example")
    later = "permit_mynetworks, reject_unknown_sender_domain"
    text = f"smtpd_sender_restrictions = '{later}'\nsmtpd_recipient_restrictions = 'reject'\n"
    now = 'unknown_address_tempfail_action = "defer"\n'
    assert asked(text, facts, ports=Ports(resolver=names()))[:3] == "554"
    assert asked(text + now, facts, ports=Ports(resolver=names()))[:3] == "450"


def test_sender_login_maps() -> None:
    more = 'smtpd_sender_login_maps = "inline:{ {s@good.example = joe, jane} }"\n'
    more += "smtpd_sasl_auth_enable = true\n"
    joe, jim = (named(login=Login(each)) for each in (b"Joe", b"jim"))
    mismatch = "553 5.7.1 <s@good.example>: Sender address rejected: not owned by user jim"
    anonymous = "553 5.7.1 <s@good.example>: Sender address rejected: not logged in"
    for restriction in ("reject_sender_login_mismatch", "reject_known_sender_login_mismatch"):
        assert heard("sender", restriction, joe, more) == ""
        assert heard("sender", restriction, jim, more) == mismatch
        assert heard("sender", restriction, STRANGER, more) == anonymous
    unowned = replace(jim, sender=b"x@good.example")
    assert heard("sender", "reject_known_sender_login_mismatch", unowned, more) == ""
    assert heard("sender", "reject_authenticated_sender_login_mismatch", unowned, more)[:3] == "553"


def test_relay_clientcerts_by_either_fingerprint() -> None:
    for known in ("AA:BB", "CC:DD"):
        more = f'relay_clientcerts = "inline:{{ {{{known} = mx}} }}"\n'
        assert heard("recipient", "permit_tls_clientcerts, reject", named(tls=tls()), more) == ""


def test_replies_of_lists_are_templates() -> None:
    more = (
        'default_rbl_reply = "450 4.7.9 $rbl_what of $helo_name: ${rbl_reason?{$rbl_reason}:{none}}"\n'
        "smtpd_expansion_filter = '0123456789.abcdefghijklmnopqrstuvwxyz '\n"
    )
    assert heard("client", "reject_rbl_client rbl.example", STRANGER, more) == (
        "450 4.7.9 192.0.2.77 of mail.good.example: spam seen _ ask us"
    )
    more = "rbl_reply_maps = 'inline:{ {rbl.example = 521 $$client_name is bad} }'\n"
    decision, _ = judged(
        f"smtpd_client_restrictions = 'reject_rbl_client rbl.example'\n{more}",
        ports=Ports(resolver=names()),
    )
    assert str(decision.reply) == "521 5.7.1 mail.good.example is bad"
    assert decision.hangup


# -- when lists are asked -----------------------------------------------------------------


def test_without_delay_each_command_has_its_list() -> None:
    text = "smtpd_delay_reject = false\n" + "".join(
        f"smtpd_{each}_restrictions = 'reject'\n" for each in ("client", "helo", "sender")
    )
    for step, what in (
        (Review.client, "Client host"), (Review.helo, "Helo command"), (Review.mail, "Sender addr")
    ):  # fmt: skip
        assert what in asked(text, step=step)
    assert asked(text) == ""


def test_postmaster_is_always_taken() -> None:
    text = "smtpd_client_restrictions = 'reject'\nsmtpd_recipient_restrictions = 'reject'\n"
    assert asked(text, named(recipient=b"Postmaster")) == ""


def test_postmaster_alone_is_an_address_of_myorigin() -> None:
    facts = named(state=State.DATA, recipients=1, recipient=b"postmaster")
    for origin, expected in (("local.example", ""), ("gw.example.net", "554 5.7.1 <postmaster>:")):
        text = f"myorigin = '{origin}'\nsmtpd_data_restrictions = 'reject_unauth_destination'\n"
        assert asked(text, facts, step=Review.data).startswith(expected)
        assert bool(asked(text, facts, step=Review.data)) is bool(expected)


def test_permit_ends_its_own_list_only() -> None:
    text = (
        "smtpd_client_restrictions = 'permit'\nsmtpd_relay_restrictions = 'permit_auth_destination, "
        "reject'\nsmtpd_recipient_restrictions = 'reject'\n"
    )
    assert asked(text) == f"554 5.7.1 {RECIPIENT}: Access denied"


def test_relay_or_recipient_list_first() -> None:
    text = "smtpd_recipient_restrictions = 'reject'\nsmtpd_relay_restrictions = 'defer'\n"
    assert asked(text)[:3] == "450"
    assert asked(text + "smtpd_relay_before_recipient_restrictions = false\n")[:3] == "554"


def test_data_and_end_of_data() -> None:
    text = "smtpd_data_restrictions = 'reject'\nsmtpd_end_of_data_restrictions = 'reject'\n"
    facts = named(state=State.DATA, recipients=2)
    assert asked(text, facts, step=Review.data) == (
        "554 5.7.1 <DATA>: Data command rejected: Access denied"
    )
    assert asked(text, replace(facts, state=State.END_OF_MESSAGE), step=Review.end_of_data) == (
        "554 5.7.1 <END-OF-MESSAGE>: End-of-data rejected: Access denied"
    )


def test_a_list_that_is_asked_for_a_name_after_its_time_is_up_goes_without() -> None:
    text = (
        "smtpd_sender_restrictions = 'reject_unknown_sender_domain'\n"
    )  # fmt: skip
    clock = iter(range(0, 10**6, 30))
    ports = Ports(resolver=names(), clock=lambda: float(next(clock)))
    facts = named(sender=b"s@gone.example")
    assert asked(text, facts, ports=ports).startswith("450 4.1.8")


def test_slept_time_is_that_of_the_port() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    assert asked("smtpd_client_restrictions = 'sleep 7'\n", ports=Ports(sleep=sleep)) == ""
    assert slept == [7.0]


def test_every_step_is_recorded() -> None:
    text = (
        "smtpd_client_restrictions = 'check_client_access inline:{ {192.0.2 = DUNNO} }, reject'\n"
    )
    decision, _ = judged(text)
    steps = decision.record.steps
    table = next(each for each in steps if each.answer == "DUNNO")
    assert (table.list, table.key) == ("smtpd_client_restrictions", "192.0.2")
    assert table.where
    assert [each.outcome for each in steps if not each.asked] == ["dunno", "reject"]
    assert (decision.rule, decision.listed) == ("reject", "smtpd_client_restrictions")


def test_where_nobody_can_log_in_nobody_is_refused_for_it() -> None:
    more = 'smtpd_sender_login_maps = "inline:{ {s@good.example = joe} }"\n'
    assert heard("sender", "reject_sender_login_mismatch", STRANGER, more) == ""


def test_check_relay_domains() -> None:
    text = RELAY.format("check_relay_domains")
    assert asked(text) == ""
    assert asked(text, named(recipient=b"u@foreign.example")) == (
        "554 5.7.1 <u@foreign.example>: Recipient address rejected: Relay access denied"
    )
