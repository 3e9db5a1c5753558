"""Which mechanisms are offered, and what the settings of logins come to."""

from __future__ import annotations

from pathlib import Path

import pytest

from milterd.base.toml_file import ConfigError
from smtpgw import config
from smtpgw.address.clients import ClientList
from smtpgw.edge.auth import Mechanism
from smtpgw.sasl.choice import MechanismFilter, chooser
from smtpgw.sasl.dovecot.client import DovecotOptions
from smtpgw.sasl.file.judge import FileOptions
from smtpgw.wiring import sasl as wiring_sasl

ALL = (
    Mechanism("PLAIN", frozenset({"plaintext"})),
    Mechanism("CRAM-MD5", frozenset({"dictionary", "active"})),
    Mechanism("SCRAM-SHA-256", frozenset({"mutual-auth"})),
    Mechanism("GSSAPI", frozenset({"mutual-auth", "forward-secrecy"})),
    Mechanism("ANONYMOUS", frozenset({"anonymous"})),
)


@pytest.mark.parametrize(
    ("options", "offered"),
    [
        ([], "PLAIN CRAM-MD5 SCRAM-SHA-256 GSSAPI ANONYMOUS"),
        (["noanonymous"], "PLAIN CRAM-MD5 SCRAM-SHA-256 GSSAPI"),
        (["noanonymous", "noplaintext"], "CRAM-MD5 SCRAM-SHA-256 GSSAPI"),
        (["noactive"], "PLAIN SCRAM-SHA-256 GSSAPI ANONYMOUS"),
        (["nodictionary"], "PLAIN SCRAM-SHA-256 GSSAPI ANONYMOUS"),
        (["mutual_auth"], "SCRAM-SHA-256 GSSAPI"),
        (["mutual_auth", "forward_secrecy"], "GSSAPI"),
    ],
)
def test_security_options(options: list[str], offered: str) -> None:
    fits = chooser(options, MechanismFilter())
    assert [each.name for each in ALL if fits(each)] == offered.split()


@pytest.mark.parametrize(
    ("text", "passing"),
    [
        ("", {"PLAIN", "LOGIN", "EXTERNAL"}),
        ("!external, static:rest", {"PLAIN", "LOGIN"}),
        ("plain", {"PLAIN"}),
        ("!plain", set()),
        ("!PLAIN login static:all", {"LOGIN", "EXTERNAL"}),
        ("static:rest, !plain", {"PLAIN", "LOGIN", "EXTERNAL"}),
        ("!static:x, plain", set()),
    ],
)
def test_the_filter(text: str, passing: set[str]) -> None:
    names = MechanismFilter.parse(text)
    assert {each for each in ("PLAIN", "LOGIN", "EXTERNAL") if names.passes(each)} == passing


@pytest.mark.parametrize("text", ["hash:/etc/x", "a b c d!", "x" * 30])
def test_a_filter_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="expected mechanisms"):
        MechanismFilter.parse(text)


def settings(*lines: str, profile: str = "submission") -> config.Smtpgw:
    text = "\n".join(lines)
    return config.parse(
        f'[smtpgw]\nmydomain = "example.net"\n[smtpgw.queue]\ndirectory = "/q"\n'
        f'[[smtpgw.listener]]\nname = "s"\nprofile = "{profile}"\naddress = "127.0.0.1:1"\n{text}\n'
    ).smtpgw


def judge(*lines: str, profile: str = "submission") -> object:
    found = settings(*lines, profile=profile)
    return wiring_sasl.judge(found, found.listener[0])


def test_who_judges() -> None:
    assert judge() == FileOptions(Path("/etc/gatepost/passwd"))
    assert judge(profile="submissions") == judge()
    assert judge(profile="mx") is None
    assert judge("smtpd_sasl_auth_enable = false") is None
    dovecot = 'smtpd_sasl_type = "dovecot"'
    assert judge(dovecot) == DovecotOptions(Path("/q/private/auth"))
    for text, place in {
        "unix:/run/auth": Path("/run/auth"),
        "/run/auth": Path("/run/auth"),
        "inet:127.0.0.1:99": ("127.0.0.1", 99),
        "inet:[::1]:99": ("::1", 99),
    }.items():
        assert judge(dovecot, f'smtpd_sasl_path = "{text}"') == DovecotOptions(place)  # type: ignore[arg-type]
    found = judge('smtpd_sasl_path = "users"', 'smtpd_sasl_local_domain = "$mydomain"')
    assert found == FileOptions(Path("/q/users"), b"example.net")


@pytest.mark.parametrize(
    "lines",
    [
        ['smtpd_sasl_type = "dovecot"', 'smtpd_sasl_path = "inet:nowhere"'],
        ['smtpd_sasl_type = "dovecot"', 'smtpd_sasl_path = "inet:a:b"'],
        ['smtpd_sasl_path = "$nothing"'],
        ['smtpd_sasl_type = "cyrus"'],
        ["smtpd_sasl_response_limit = 100"],
        ['smtpd_sasl_security_options = ["noplain"]'],
    ],
)
def test_what_cannot_be_used_is_said(lines: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        judge(*lines)
    assert lines[-1].partition(" ")[0] in str(error.value)


def test_lists_that_are_none() -> None:
    wrong = settings('smtpd_sasl_mechanism_filter = "hash:/etc/x"')
    with pytest.raises(ConfigError, match="smtpd_sasl_mechanism_filter"):
        wiring_sasl.mechanisms(wrong, wrong.listener[0])
    wrong = settings('smtpd_sasl_exceptions_networks = "hash:/etc/x"')
    with pytest.raises(ConfigError, match="smtpd_sasl_exceptions_networks"):
        wiring_sasl.silent(wrong, wrong.listener[0], ClientList())
