"""docs/postfix.md says for each of Postfix's parameters, table types and behaviours about addresses
what the gateway does, and which test shows it; here, that none is missing and the tests exist."""

from __future__ import annotations

import re

import pytest

from smtpgw.tables.catalogue import TYPES
from tests import named

_ROW = re.compile(r"^\| (.+?) \| (same|differs|not) \| (.+?) \| (.+?) \|$", re.MULTILINE)
PAGE = (named.TOP / "docs" / "postfix.md").read_text()
ROWS = _ROW.findall(PAGE)
PARAMETERS = (
    "mydomain", "myhostname", "myorigin", "recipient_delimiter", "append_dot_mydomain",
    "parent_domain_matches_subdomains", "mynetworks", "mynetworks_style", "inet_interfaces",
    "inet_protocols", "proxy_interfaces", "smtp_bind_address", "smtp_bind_address6",
    "smtp_address_preference", "mydestination", "local_recipient_maps", "local_transport",
    "alias_maps", "alias_database", "canonical_maps", "sender_canonical_maps",
    "smtp_generic_maps", "virtual_mailbox_domains", "virtual_mailbox_maps", "virtual_alias_maps",
    "virtual_transport", "default_transport", "transport_maps", "relay_transport", "relayhost",
    "relay_destination_recipient_limit", "relay_domains", "relay_recipient_maps",
    "relay_clientcerts", "proxy_read_maps",
)  # fmt: skip
TABLES = (
    "hash:", "btree:", "lmdb:", "cidr:", "mysql:", "socketmap:", "proxy:", "unix:passwd.byname",
    "$name",
)  # fmt: skip
BEHAVIOURS = (
    "lookup keys", "patterns inside a hash: table", "results of access tables",
    "an extension leads to the user", "one recipient a delivery",
    "virtual aliases: recursive, in the envelope, ended by themselves",
    "order of keys in generic(5)", "order of keys in transport(5), brackets, `*`",
    "tables change at run time", "Delivered-To ends circles", "case of local parts",
    "no local delivery on an MX", "another route for some domains",
)  # fmt: skip

RECEPTION = (named.TOP / "docs" / "restrictions-differences.md").read_text()
RESTRICTIONS = (
    "smtpd_client_restrictions", "smtpd_helo_required", "smtpd_helo_restrictions",
    "smtpd_sender_restrictions", "smtpd_relay_restrictions", "smtpd_recipient_restrictions",
    "smtpd_data_restrictions", "smtp_client_restrictions", "smtp_sender_restrictions",
    "mua_client_restrictions", "mua_helo_restrictions", "mua_sender_restrictions",
    "smtpd_delay_reject", "smtpd_reject_unlisted_recipient", "smtpd_reject_unlisted_sender",
    "disable_vrfy_command", "smtpd_recipient_limit", "smtpd_error_sleep_time",
    "smtpd_soft_error_limit", "smtpd_hard_error_limit", "unverified_sender_reject_reason",
    "permit", "reject", "warn_if_reject", "permit_mynetworks", "permit_sasl_authenticated",
    "permit_tls_clientcerts", "permit_auth_destination", "reject_unauth_destination",
    "reject_unauth_pipelining", "reject_unknown_client_hostname",
    "reject_unknown_reverse_client_hostname", "reject_invalid_helo_hostname",
    "reject_non_fqdn_helo_hostname", "reject_unknown_helo_hostname", "reject_non_fqdn_sender",
    "reject_unknown_sender_domain", "reject_unlisted_sender", "reject_unverified_sender",
    "reject_non_fqdn_recipient", "reject_unknown_recipient_domain", "reject_unlisted_recipient",
    "reject_unverified_recipient", "check_client_access", "check_sender_access",
    "check_policy_service", "reject_authenticated_sender_login_mismatch",
    "check_recipient_access", "FILTER", "DUNNO",
)  # fmt: skip
"""Parameters and restrictions of who may speak and send what."""
RESTRICTION_ROWS = _ROW.findall(RECEPTION)


OTHERS = (
    # the machine and its limits
    "compatibility_level", "strict_rfc821_envelopes", "notify_classes", "delay_warning_time",
    "confirm_delay_cleared", "biff", "message_size_limit", "mailbox_size_limit", "smtpd_banner",
    "debug_peer_list", "debug_peer_level", "soft_bounce", "syslog_name",
    # TLS
    "tls_low_cipherlist", "tls_medium_cipherlist", "tls_high_cipherlist",
    "tls_preempt_cipherlist", "tls_ssl_options", "smtp_dns_support_level",
    "smtp_tls_security_level", "smtp_tls_dane_insecure_mx_policy", "smtp_tls_policy_maps",
    "smtp_tls_protocols", "smtp_tls_ciphers", "smtp_tls_exclude_ciphers",
    "smtp_tls_mandatory_protocols", "smtp_tls_mandatory_ciphers",
    "smtp_tls_mandatory_exclude_ciphers", "smtp_tls_CAfile", "smtp_tls_CApath",
    "smtp_tls_chain_files", "smtp_tls_cert_file", "smtp_tls_key_file",
    "smtp_tls_session_cache_database", "smtp_tls_note_starttls_offer", "smtp_tls_loglevel",
    "smtp_use_tls", "smtpd_use_tls", "smtpd_tls_security_level", "smtpd_tls_auth_only",
    "smtpd_tls_wrappermode", "smtpd_tls_protocols", "smtpd_tls_ciphers",
    "smtpd_tls_exclude_ciphers", "smtpd_tls_mandatory_protocols", "smtpd_tls_mandatory_ciphers",
    "smtpd_tls_mandatory_exclude_ciphers", "smtpd_tls_eecdh_grade", "smtpd_tls_CAfile",
    "smtpd_tls_CApath", "smtpd_tls_dh1024_param_file", "smtpd_tls_chain_files",
    "smtpd_tls_cert_file", "smtpd_tls_key_file", "smtpd_tls_session_cache_database",
    "smtpd_tls_session_cache_timeout", "smtpd_tls_ask_ccert", "smtpd_tls_fingerprint_digest",
    "smtpd_tls_received_header", "smtpd_tls_loglevel",
    # logins
    "smtpd_sasl_auth_enable", "smtpd_sasl_type", "smtpd_sasl_path",
    "smtpd_sasl_security_options", "smtpd_sasl_tls_security_options",
    "smtpd_sasl_authenticated_header", "smtp_sasl_auth_enable", "smtp_sasl_password_maps",
    "smtp_sasl_security_options", "smtp_sasl_mechanism_filter",
    # milters
    "smtpd_milters", "non_smtpd_milters", "milter_mail_macros", "milter_default_action",
    "milter_macro_daemon_name",
    # screening
    "postscreen_access_list", "postscreen_blacklist_action", "postscreen_greet_action",
    "postscreen_dnsbl_threshold", "postscreen_dnsbl_sites", "postscreen_dnsbl_action",
    "postscreen_dnsbl_whitelist_threshold", "postscreen_pipelining_enable",
    "postscreen_non_smtp_command_enable", "postscreen_bare_newline_enable",
    "postscreen_bare_newline_action",
)  # fmt: skip
"""Parameters that have a row on the page about their subject, or on docs/parameters.md."""
_ANY_ROW = re.compile(r"^\| (`.+?) \| (same|differs|not) \| (.*?)\| (.+?) \|$", re.MULTILINE)
ANY_ROWS = {
    page.name: _ANY_ROW.findall(page.read_text())
    for page in sorted((named.TOP / "docs").glob("*.md"))
}


def test_every_parameter_has_a_row() -> None:
    rows = (row for page in ANY_ROWS.values() for row in page)
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row[0])}
    assert sorted(set(OTHERS) - told) == []


@pytest.mark.parametrize("page", [name for name, rows in ANY_ROWS.items() if rows])
def test_each_row_names_tests_that_there_are_or_says_why_not(page: str) -> None:
    for _, how, words, shown in ANY_ROWS[page]:
        if how == "not" and shown == "-":
            assert words.strip(), "what is not done has a reason"
        else:
            named.check(shown)


def test_no_restriction_is_missing() -> None:
    told = {name for row in RESTRICTION_ROWS for name in re.findall(r"`([^`]+)`", row[0])}
    assert sorted(set(RESTRICTIONS) - told) == []


@pytest.mark.parametrize("row", RESTRICTION_ROWS, ids=[row[0][:40] for row in RESTRICTION_ROWS])
def test_a_restrictions_row_names_tests_that_there_are(row: tuple[str, str, str, str]) -> None:
    named.check(row[3])


def test_no_row_is_missing() -> None:
    told = {name for row in ROWS for name in re.findall(r"`([^`]+)`", row[0])}
    assert told >= {*PARAMETERS, *TABLES}
    begun = [row[0] for row in ROWS]
    assert [each for each in BEHAVIOURS if each not in begun] == []


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:40] for row in ROWS])
def test_a_row_names_tests_that_there_are(row: tuple[str, str, str, str]) -> None:
    if row[1] == "not" and row[3] == "-":
        return  # what is not done is shown by nothing, and the row says why
    named.check(row[3])


def test_the_page_of_tables_knows_every_type() -> None:
    page = "".join(
        (named.TOP / "docs" / name).read_text() for name in ("tables.md", "tables-databases.md")
    )
    assert [each for each in TYPES if f"`{each}:`" not in page] == []
