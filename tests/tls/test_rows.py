"""docs/listeners.md says of each of Postfix's parameters about TLS with clients what the gateway
does, and which test shows it."""

from __future__ import annotations

import re

import pytest

from tests import named

_ROW = re.compile(r"^\| (.+?) \| (same|differs|not) \| (.*?) ?\| (.+?) \|$", re.MULTILINE)
ROWS = _ROW.findall((named.TOP / "docs" / "listeners.md").read_text())
PARAMETERS = (
    "tls_low_cipherlist", "tls_medium_cipherlist", "tls_high_cipherlist", "tls_preempt_cipherlist",
    "tls_ssl_options", "smtpd_use_tls", "smtpd_tls_security_level", "smtpd_tls_wrappermode",
    "smtpd_tls_protocols", "smtpd_tls_ciphers", "smtpd_tls_exclude_ciphers",
    "smtpd_tls_mandatory_protocols", "smtpd_tls_mandatory_ciphers",
    "smtpd_tls_mandatory_exclude_ciphers", "smtpd_tls_eecdh_grade", "smtpd_tls_CAfile",
    "smtpd_tls_CApath", "smtpd_tls_dh1024_param_file", "smtpd_tls_chain_files",
    "smtpd_tls_cert_file", "smtpd_tls_key_file", "smtpd_tls_session_cache_database",
    "smtpd_tls_session_cache_timeout", "smtpd_tls_ask_ccert", "smtpd_tls_fingerprint_digest",
    "smtpd_tls_received_header", "smtpd_tls_loglevel",
)  # fmt: skip


def test_no_parameter_is_missing() -> None:
    told = {name for row in ROWS for name in re.findall(r"`([^`]+)`", row[0])}
    assert sorted(set(PARAMETERS) - told) == []


@pytest.mark.parametrize("row", ROWS, ids=[row[0][:40] for row in ROWS])
def test_a_row_names_tests_that_there_are(row: tuple[str, str, str, str]) -> None:
    named.check(row[3])
